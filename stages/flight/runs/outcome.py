"""What came out of recorded runs, beside each other, and whether two differ by more than chance."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from stages.flight.runs.run import Run

METRICS = ("accuracy", "macro_recall", "macro_f1", "expected_calibration_error")
MAIN = "accuracy"
CURVES = ("loss", "val_loss", "accuracy", "val_accuracy")
SEEDS = ("train.seed", "augment.seed")
SIGNIFICANT = 0.05
LEAST_DEGREES = 3  # of freedom: of fewer repetitions the spread is hardly known
NEARLY_ALL = 0.9  # of the test images of both runs have to be the same


@dataclass(frozen=True)
class Chance:
    """Whether the accuracy of the last run differs from the first's by more than chance; None where nothing tells. ``how`` it is known."""

    beyond: bool | None
    how: str


@dataclass(frozen=True)
class Flip:
    """A test image that two runs answered differently."""

    path: str
    actual: str
    before: str
    after: str

    @property
    def is_lost(self) -> bool:
        return self.before == self.actual

    @property
    def is_gained(self) -> bool:
        return self.after == self.actual


@dataclass(frozen=True)
class Answers:
    """Test images that two runs answered differently, how many both were asked about, and the most that one was asked about."""

    flips: tuple[Flip, ...]
    num_compared: int
    num_asked: int


def outcome(runs: Sequence[Run], everyone: Sequence[Run]) -> dict[str, Any]:
    """Metrics with intervals, classes, changed answers of the last run against the first, curves, verdicts and failures.

    ``everyone`` are all recorded runs: among them are repetitions of these with other seeds.
    """
    answers = flipped(runs[0].folder, runs[-1].folder)
    verdicts = [run.verdict() for run in runs]
    return {
        "metrics": _metrics(runs),
        "classes": _classes(runs),
        "flips": [asdict(flip) for flip in answers.flips],
        "num_compared": answers.num_compared,
        "chance": asdict(chance(runs[0], runs[-1], everyone, answers)),
        "curves": {name: [_curve(run.folder, name) for run in runs] for name in CURVES},
        "verdicts": [verdict["verdict"] if verdict else None for verdict in verdicts],
        "statuses": [run.status for run in runs],
        "failures": [{name: run.failure[name] for name in ("stage", "kind", "cause")} if run.failure else None for run in runs],
    }


def _metrics(runs: Sequence[Run]) -> list[dict[str, Any]]:
    rows = []
    for name in METRICS:
        values = [_finite(run, name) for run in runs]
        if any(value is not None for value in values):
            intervals = [[_finite(run, f"{name}_{end}") for end in ("low", "high")] for run in runs]
            rows.append({"name": name, "values": values, "intervals": intervals})
    return rows


def _finite(run: Run, name: str) -> float | None:
    value = run.metrics.get(f"evaluate/{name}", math.nan)
    return value if math.isfinite(value) else None


def _classes(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Recall by class, those that changed most first."""
    found = [
        {row["label"]: _number(row.get("recall")) for row in _read_csv(run.folder / "reports/evaluate/per_class.csv") if row.get("label")}
        for run in runs
    ]
    labels = sorted({label for recalls in found for label in recalls})
    rows = [{"label": label, "recalls": [recalls.get(label) for recalls in found]} for label in labels]
    return sorted(rows, key=lambda row: -abs((row["recalls"][-1] or 0.0) - (row["recalls"][0] or 0.0)))


def flipped(before: Path, after: Path) -> Answers:
    """Test images that two runs answered differently: those lost first, then those gained, then those that neither knew."""
    old, new = ({row.get("path"): row for row in _read_csv(folder / "reports/evaluate/predictions.csv")} for folder in (before, after))
    both = [path for path in old if path and path in new and old[path].get("actual") == new[path].get("actual")]
    rows = [(path, old[path].get("actual"), old[path].get("predicted"), new[path].get("predicted")) for path in both]
    flips = [Flip(*map(str, row)) for row in rows if row[2] != row[3]]
    ordered = sorted(flips, key=lambda flip: (not flip.is_lost, not flip.is_gained, flip.actual, flip.path))
    return Answers(tuple(ordered), len(both), max(len(old), len(new)))


def chance(first: Run, last: Run, everyone: Sequence[Run], answers: Answers) -> Chance:
    """By repetitions with other seeds, where there are enough; else by McNemar's test on the same images; else by the intervals.

    The test and the intervals know the chance of the images, and not that of the seeds, which comes on top of it.
    """
    if bool(first.failure) != bool(last.failure):
        return Chance(None, f"{(first if first.failure else last).id} failed, and the other did not")
    values = [run.metrics.get(f"evaluate/{MAIN}", math.nan) for run in (first, last)]
    if not all(map(math.isfinite, values)):
        return Chance(None, "not both were evaluated")
    return _by_seeds(first, last, everyone) or _by_answers(answers) or _by_intervals(first, last)


def _by_seeds(first: Run, last: Run, everyone: Sequence[Run]) -> Chance | None:
    """Student's t for two single runs, by the pooled spread of repetitions with other seeds; None if they are too few."""
    groups = {_identity(run): accuracies_by_seed(run, everyone) for run in (first, last)}
    degrees = sum(len(group) - 1 for group in groups.values())
    if degrees < LEAST_DEGREES:
        return None
    squares = sum((value - statistics.fmean(group.values())) ** 2 for group in groups.values() for value in group.values())
    margin = student_t(degrees) * math.sqrt(2 * squares / degrees)
    difference = abs(last.metrics[f"evaluate/{MAIN}"] - first.metrics[f"evaluate/{MAIN}"])
    numbers = " and ".join(str(len(group)) for group in groups.values())
    told = f"by repetitions with other seeds ({numbers}) two runs are up to {margin:.3f} apart by chance; these are {difference:.3f}"
    return Chance(difference > margin, told)


def student_t(degrees: int) -> float:
    """The quantile of Student's t at 97.5 %, by its expansion about the normal (Abramowitz and Stegun 26.7.5); .7 % low at 3 degrees."""
    z = statistics.NormalDist().inv_cdf(1 - SIGNIFICANT / 2)
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / float(degrees**power) for power, term in enumerate(terms, 1))


def accuracies_by_seed(run: Run, everyone: Sequence[Run]) -> dict[tuple[Any, ...], float]:
    """Of the run and of those that differ from it by their seeds alone: one accuracy for the seeds (in the order of SEEDS) of each."""
    found = [*repetitions(run, everyone), run]
    return {tuple(other.params.get(name) for name in SEEDS): value for other in found if math.isfinite(value := accuracy(other))}


def repetitions(run: Run, everyone: Sequence[Run]) -> list[Run]:
    """Those that differ from it by nothing but seeds."""
    identity = _identity(run)
    return [other for other in everyone if _identity(other) == identity]


def accuracy(run: Run) -> float:
    """On the test split; NaN if the run was not evaluated."""
    return run.metrics.get(f"evaluate/{MAIN}", math.nan)


def _identity(run: Run) -> tuple[str, str]:
    """All that decides a run but its seeds: parameters, code and frozen inputs, as dvc.lock has them."""
    params = {name: value for name, value in run.params.items() if name not in SEEDS}
    return json.dumps(params, sort_keys=True, default=str), json.dumps(run.inputs, sort_keys=True)


def _by_answers(answers: Answers) -> Chance | None:
    """McNemar's exact test; None if the runs were not asked about the same images."""
    if not answers.num_compared or answers.num_compared < NEARLY_ALL * answers.num_asked:
        return None
    lost, gained = sum(flip.is_lost for flip in answers.flips), sum(flip.is_gained for flip in answers.flips)
    told = f"of the same {answers.num_compared} test images {lost} were lost and {gained} gained"
    p = mcnemar(lost, gained)
    return Chance(p < SIGNIFICANT, f"{told}: p = {p:.2g} (McNemar), the chance of seeds not counted")


def mcnemar(lost: int, gained: int) -> float:
    """The two-sided p of McNemar's exact test: how likely so uneven a split of the changed answers is by chance."""
    count = lost + gained
    return float(min(Fraction(1), Fraction(2 * sum(math.comb(count, k) for k in range(min(lost, gained) + 1)), 2**count)))


def _by_intervals(first: Run, last: Run) -> Chance:
    ends = [[run.metrics.get(f"evaluate/{MAIN}_{end}", math.nan) for end in ("low", "high")] for run in (first, last)]
    spreads = [high - low for low, high in ends]
    margin = math.hypot(*spreads) / 2
    if not math.isfinite(margin):
        return Chance(None, "other test images, and no interval of both")
    difference = abs(accuracy(last) - accuracy(first))
    told = f"by the intervals two such accuracies are up to {margin:.3f} apart by chance; these are {difference:.3f}"
    return Chance(difference > margin, f"{told}, the chance of seeds not counted")


def _curve(folder: Path, name: str) -> list[float | None]:
    return [_number(row.get(name)) for row in _read_csv(folder / "reports/train/history.csv")]


def _number(text: str | None) -> float | None:
    """A finite number; None for anything else that a file may hold."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _read_csv(path: Path) -> list[Mapping[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []
