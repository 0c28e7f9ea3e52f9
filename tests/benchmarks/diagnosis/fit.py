"""``python -m tests.benchmarks.diagnosis.fit [FOLDER]``: thresholds and scores of the rules.

Thresholds on the development runs alone, one at a time, the others as they are: each candidate with how many faults are named and how many
controls raise an alarm. To choose is the middle of the best plateau, since a value at its edge fits these runs alone. Then the scores for
``rules/scores.py``, on all runs but those that are held out: where thresholds were fitted a rule is hardly ever wrong.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from types import ModuleType

from stages.shared.rules import RULES, data, generalisation, mode, optimisation, pace, signals
from stages.shared.rules.outcome import Finding, name_of
from tests.benchmarks.diagnosis.recipes import CIFAR, FASHION
from tests.benchmarks.diagnosis.result import Result
from tests.benchmarks.diagnosis.score import Runs, counted, load, params_of, score, with_configuration

COST_OF_A_FALSE_ALARM = 3  # in faults named: who is alarmed in vain stops listening
FACTORS = (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0, 3.0, 4.0)
THRESHOLDS: dict[ModuleType, str] = {
    data: "MIN_DOUBTED_SHARE BEYOND_CHANCE BEYOND_CHANCE_WITH_DOUBTS MIN_CLASS_RATIO MIN_RECALL_GAP LOW_RECALL SMALLEST_MIXTURE "
    "MAX_SPLIT_DISTANCE MAX_OVERLAP",
    mode: "MAX_INPUT_SHIFT MAX_INPUT_STRETCH MAX_READING_DIFFERENCE MIN_BATCH_GAIN MIN_MATCHED_GAIN MIN_LEARNED MAX_LOSS_DIFFERENCE",
    optimisation: "HIGH_RATIO HIGH_RATIO_OF_A_HEAD VIOLENT_RATIO VIOLENT_KERNEL DIVERGED_LOSS UNLEARNED_LOSS LITTLE_LEARNED UNSETTLED "
    "MAX_SWING MIN_DROP MIN_JUMP",
    pace: "LOW_RATIO LITTLE_FALL STEADY LAGGING_LOSS HALF_LEARNED COLLAPSED_RATE FELL_BEFORE WELL_KNOWN RUN_DOWN MIN_GAIN_AN_EPOCH",
    generalisation: "MIN_GAP LARGE_GAP MIN_LOSS_RISE LATEST_MINIMUM MEMORISED MIN_LOSS_GAP MAX_COST_OF_WEAKNESS WEAK_DISPLACEMENT MIN_COST "
    "MIN_FALL_FROM_BEST MIN_LOSS_ABOVE_BEST SUDDEN MIN_DROPOUT_GAP MIN_DROPOUT_LOSS_GAP SHRUNK LITTLE_SKILL GOOD UNSURE FLAT",
}


def plateau(module: ModuleType, name: str, runs: Runs) -> Iterator[tuple[float, int, int]]:
    """Each candidate value of a threshold, with faults named and false alarms."""
    present = getattr(module, name)
    for factor in FACTORS:
        _set(name, present * factor)
        found = score(runs, with_configuration)
        yield present * factor, round(found.top_1 * len(runs.hurt)), found.false_alarms
    _set(name, present)


def _set(name: str, value: float) -> None:
    """In each module of rules that has the name: what several share lies in each of them."""
    for module in (signals, *THRESHOLDS):
        if hasattr(module, name):
            setattr(module, name, value)


def scores(results: Sequence[Result]) -> dict[str, float]:
    """Of each rule: how often it was right where it fired first, by Laplace's rule of succession."""
    fired: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for result in results:
        first = _first_fired(result)
        if first:
            fired[first] += 1
            right[first] += first == result.unit.fault
    return {name: round((right[name] + 1) / (fired[name] + 2), 2) for name in map(name_of, RULES)}


def _first_fired(result: Result) -> str | None:
    params = params_of(result)
    return next((name_of(rule) for rule in RULES if isinstance(rule(result.evidence, params), Finding)), None)


def main() -> None:
    loaded = load(sys.argv[1:])
    runs, others = counted(loaded[FASHION]), counted(loaded[CIFAR])
    for module, names in THRESHOLDS.items():
        for name in names.split():
            found = list(plateau(module, name, runs))
            best = max(named - COST_OF_A_FALSE_ALARM * alarms for _, named, alarms in found)
            values = [value for value, named, alarms in found if named - COST_OF_A_FALSE_ALARM * alarms == best]
            present = getattr(module, name)
            mark = "" if min(values) <= present <= max(values) else "  <<<"
            print(f"{module.__name__.split('.')[-1]}.{name}: {present:.3g}; best from {min(values):.3g} to {max(values):.3g}{mark}")
    print("SCORES: dict[str, float] = {")
    for name, value in scores([*runs.hurt, *runs.controls, *others.hurt, *others.controls]).items():
        print(f'    "{name}": {value},')
    print("}")


if __name__ == "__main__":
    main()
