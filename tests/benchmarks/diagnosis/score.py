"""``python -m tests.benchmarks.diagnosis.score [FOLDER]``: how good the diagnosis is, on the runs kept beside (or in FOLDER), in seconds.

Faults count that hurt against their healthy twins (``harm``), and controls that do not. Strict means the fault's own name, first.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.shared.params import Params, parse
from stages.shared.rules import Verdict, judge
from tests.benchmarks.diagnosis import tables
from tests.benchmarks.diagnosis.baselines import BASELINES, Baseline
from tests.benchmarks.diagnosis.harm import harm, usual
from tests.benchmarks.diagnosis.recipes import CIFAR, FASHION, LAST, OTHERS
from tests.benchmarks.diagnosis.result import Result
from tests.benchmarks.diagnosis.unit import HEALTHY

# What each data set has been used for.
USES = {
    FASHION: "development: thresholds and scores are fitted to it",
    CIFAR: "six rules were mended on what its first scores showed",
    OTHERS: "four rules were mended on what its first scores showed",
    LAST: "held out: used for nothing",
}
OPEN = ("unknown", "inconclusive")
TOO_SMALL = "validation-too-small"  # no fault of the training: right is to leave the verdict open, or healthy

# What a diagnosis says of a run: its answers, the likeliest first; none for healthy; one of OPEN to abstain.
Diagnosis = Callable[[Result], Sequence[frozenset[str]]]


@dataclass(frozen=True)
class Runs:
    """The runs of a data set that count."""

    hurt: tuple[Result, ...]
    controls: tuple[Result, ...]
    dropped: tuple[Result, ...]
    too_small: tuple[Result, ...]
    without_twins: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """Shares, and of false alarms the Wilson interval at 95 %."""

    top_1: float
    top_3: float
    macro_f1: float
    abstained: float
    false_alarms: int
    num_controls: int
    interval: tuple[float, float]


def counted(results: Sequence[Result]) -> Runs:
    """Keep the faults that hurt, and the controls that do not; a run without its twins' results does not count."""
    by_name = {result.unit.name: result for result in results}
    with_twins = [(result, twins) for result in results if (twins := usual(result.unit, by_name))]
    worse = {result.unit.name for result, twins in with_twins if harm(result, twins)}
    faults = [result for result, _ in with_twins if result.unit.fault not in (HEALTHY, TOO_SMALL)]
    controls = [result for result, _ in with_twins if result.unit.fault == HEALTHY]
    hurt, healthy = [r for r in faults if r.unit.name in worse], [r for r in controls if r.unit.name not in worse]
    dropped = [r for r in (*faults, *controls) if r not in hurt and r not in healthy]
    too_small = [result for result in results if result.unit.fault == TOO_SMALL]
    without_twins = [result.unit.name for result in results if not usual(result.unit, by_name)]
    return Runs(tuple(hurt), tuple(healthy), tuple(dropped), tuple(too_small), tuple(without_twins))


def params_of(result: Result) -> Params:
    """The run's parameters; those of each run are checked once, for thresholds are tried by the thousand."""
    return _parsed(json.dumps(result.params))


@functools.cache
def _parsed(text: str) -> Params:
    return parse(json.loads(text))


def with_configuration(result: Result) -> list[frozenset[str]]:
    """Our own answers."""
    return _answers(judge(result.evidence, params_of(result)))


def by_signals(result: Result) -> list[frozenset[str]]:
    """Our own answers without anything that was configured: parameters, optimizer, rates, balancing, and the gates, by which who wrote
    them says what a healthy training reaches.
    """
    train, augment, test = result.evidence.train, result.evidence.augment, result.evidence.evaluate
    hidden: dict[str, Any] = {}
    if train is not None:
        epochs = tuple(epoch.model_copy(update={"learning_rate": math.nan}) for epoch in train.epochs)
        hidden["train"] = train.model_copy(update={"setup": train.setup.model_copy(update={"optimizer": ""}), "epochs": epochs})
    if augment is not None:
        hidden["augment"] = augment.model_copy(update={"balancing": "none"})
    if test is not None:
        hidden["evaluate"] = test.model_copy(update={"missed_gates": ()})
    return _answers(judge(result.evidence.model_copy(update=hidden), None))


def _answers(verdict: Verdict) -> list[frozenset[str]]:
    if verdict.verdict in OPEN:
        return [frozenset({verdict.verdict})]
    return [frozenset({finding.fault}) for finding in verdict.findings]


def of_baseline(baseline: Baseline) -> Diagnosis:
    return lambda result: [faults for _, faults in baseline(result)]


DIAGNOSES: dict[str, Diagnosis] = {
    "Flight Recorder": with_configuration,
    "  by signals alone": by_signals,
    **{name: of_baseline(baseline) for name, baseline in BASELINES.items()},
}


def score(runs: Runs, diagnose: Diagnosis) -> Score:
    """Over the faults that hurt, and the controls."""
    answers = [(result.unit.fault, diagnose(result)) for result in runs.hurt]
    alarms = sum(bool(given) and given[0].isdisjoint(OPEN) for given in map(diagnose, runs.controls))
    count = max(1, len(answers))
    return Score(
        top_1=sum(bool(given) and fault in given[0] for fault, given in answers) / count,
        top_3=sum(any(fault in answer for answer in given[:3]) for fault, given in answers) / count,
        macro_f1=_macro_f1(answers, [given for given in map(diagnose, runs.controls) if given]),
        abstained=sum(not given or not given[0].isdisjoint(OPEN) for _, given in answers) / count,
        false_alarms=alarms,
        num_controls=len(runs.controls),
        interval=wilson(alarms, len(runs.controls)),
    )


def _macro_f1(answers: Sequence[tuple[str, Sequence[frozenset[str]]]], alarms: Sequence[Sequence[frozenset[str]]]) -> float:
    """The mean of F1 over the faults; an alarm that stands for several counts against each that it is not."""
    faults = sorted({fault for fault, _ in answers})
    scores = []
    for wanted in faults:
        hits = sum(fault == wanted and bool(given) and wanted in given[0] for fault, given in answers)
        missed = sum(fault == wanted for fault, _ in answers) - hits
        wrong = sum(fault != wanted and bool(given) and wanted in given[0] and fault not in given[0] for fault, given in answers)
        wrong += sum(wanted in given[0] for given in alarms)
        scores.append(2 * hits / max(1, 2 * hits + missed + wrong))
    return sum(scores) / max(1, len(scores))


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a share at 95 %."""
    if not count:
        return 0.0, 1.0
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * ((share * (1 - share) + spread / 4) / count) ** 0.5 / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def tell(name: str, runs: Runs) -> None:
    """The table of a data set, and each run that was not answered as it should be."""
    dropped = f"(of faults that did not hurt and controls that did, {len(runs.dropped)} were dropped)"
    print(f"\n{name}: {len(runs.hurt)} faults that hurt {dropped}, {len(runs.controls)} healthy controls")
    print(f"{'':22}  top-1  top-3  macro F1  open   false alarms")
    for title, diagnose in DIAGNOSES.items():
        found = score(runs, diagnose)
        low, high = found.interval
        print(
            f"{title:22}  {found.top_1:.3f}  {found.top_3:.3f}  {found.macro_f1:.3f}     {found.abstained:.3f}  "
            f"{found.false_alarms} of {found.num_controls} ({low:.3f} to {high:.3f})"
        )
    confused = Counter((result.unit.fault, _first(result)) for result in runs.hurt)
    print("confusion (fault → first answer: runs), all that is off the diagonal:")
    for (fault, answer), count in sorted(confused.items()):
        if fault != answer:
            print(f"  {fault} → {answer}: {count}")
    for result in (*runs.hurt, *runs.controls, *runs.too_small):
        right = {result.unit.fault, *((HEALTHY, "inconclusive") if result.unit.fault == TOO_SMALL else ())}
        if _first(result) not in right:
            print(f"  {result.unit.name}: {[sorted(answer)[0] for answer in with_configuration(result)]}")
    told = (f"{result.unit.name} ({_first(result)})" for result in runs.dropped)
    print(f"  dropped, and what was said of them: {', '.join(told) or 'none'}")
    print(f"  without a result of each twin: {', '.join(runs.without_twins) or 'none'}")


def _first(result: Result) -> str:
    given = with_configuration(result)
    return sorted(given[0])[0] if given else HEALTHY


def load(arguments: Sequence[str]) -> dict[str, list[Result]]:
    """All results by data set: of the tables in the repository, or of a folder of runs."""
    return {name: tables.gathered(Path(arguments[0]), name) if arguments else tables.read(name) for name in USES}


def main() -> None:
    for name, results in load(sys.argv[1:]).items():
        if results:
            tell(f"{name} ({USES[name]})", counted(results))


if __name__ == "__main__":
    main()
