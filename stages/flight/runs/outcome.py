"""What came out of recorded runs, beside each other, and whether two differ by more than chance."""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.flight.runs.differences import Recorded
from stages.flight.runs.run import Run

METRICS = ("accuracy", "macro_recall", "macro_f1", "expected_calibration_error")
MAIN = "accuracy"
SEEDS = ("train.seed", "augment.seed")
# Student's t at 95 %, two-sided, by degrees of freedom; the last is that of many.
T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 1.96)
# Standard normal at 95 %, for McNemar's test.
Z = 1.96


@dataclass(frozen=True)
class Chance:
    """Whether the outcome of the last run differs from the first's by more than chance; None where nothing tells. ``how`` it is known."""

    beyond: bool | None
    how: str


@dataclass(frozen=True)
class Flip:
    """A test image that one run knew and the other did not."""

    path: str
    actual: str
    before: str
    after: str


def outcome(runs: Sequence[Recorded], everyone: Sequence[Run]) -> dict[str, Any]:
    """Metrics with intervals, classes, changed answers of the last run against the first, curves, verdicts and failures.

    ``everyone`` are all recorded runs: among them are repetitions of these with other seeds.
    """
    first, last = runs[0].run, runs[-1].run
    flips, num_compared = flipped(first.folder, last.folder)
    verdicts = [run.run.verdict() for run in runs]
    return {
        "metrics": _metrics(runs),
        "classes": _classes(runs),
        "flips": [asdict(flip) for flip in flips],
        "num_compared": num_compared,
        "chance": asdict(chance(first, last, everyone, flips, num_compared)),
        "curves": {name: [_curve(run.run.folder, name) for run in runs] for name in ("loss", "val_loss", "accuracy", "val_accuracy")},
        "verdicts": [verdict["verdict"] if verdict else None for verdict in verdicts],
        "statuses": [run.run.status for run in runs],
        "failures": [{name: run.run.failure[name] for name in ("stage", "kind", "cause")} if run.run.failure else None for run in runs],
    }


def _metrics(runs: Sequence[Recorded]) -> list[dict[str, Any]]:
    found = [_read_json(run.run.folder / "reports/evaluate/metrics.json") for run in runs]
    rows = []
    for name in METRICS:
        values = [metrics.get(name) for metrics in found]
        if any(value is not None for value in values):
            intervals = [[metrics.get(f"{name}_low"), metrics.get(f"{name}_high")] for metrics in found]
            rows.append({"name": name, "values": values, "intervals": intervals})
    return rows


def _classes(runs: Sequence[Recorded]) -> list[dict[str, Any]]:
    """Recall by class, those that changed most first."""
    found = [{row["label"]: float(row["recall"]) for row in _read_csv(run.run.folder / "reports/evaluate/per_class.csv")} for run in runs]
    labels = sorted({label for recalls in found for label in recalls})
    rows = [{"label": label, "recalls": [recalls.get(label) for recalls in found]} for label in labels]
    return sorted(rows, key=lambda row: -abs((row["recalls"][-1] or 0.0) - (row["recalls"][0] or 0.0)))


def flipped(before: Path, after: Path) -> tuple[list[Flip], int]:
    """Test images that one run knew and the other did not, those lost first; and of how many images both tell, with the same label."""
    old, new = ({row["path"]: row for row in _read_csv(folder / "reports/evaluate/predictions.csv")} for folder in (before, after))
    both = [path for path in old if path in new and old[path]["actual"] == new[path]["actual"]]
    flips = [
        Flip(path, old[path]["actual"], old[path]["predicted"], new[path]["predicted"])
        for path in both
        if (old[path]["predicted"] == old[path]["actual"]) != (new[path]["predicted"] == new[path]["actual"])
    ]
    return sorted(flips, key=lambda flip: (flip.before != flip.actual, flip.actual, flip.path)), len(both)


def chance(first: Run, last: Run, everyone: Sequence[Run], flips: Sequence[Flip], num_compared: int) -> Chance:
    """By repetitions with other seeds, where there are any; else by McNemar's test on the same images; else by the intervals.

    The test and the intervals know the chance of the images, and not that of the seeds, which comes on top of it.
    """
    if bool(first.failure) != bool(last.failure):
        failed = first if first.failure else last
        return Chance(True, f"{failed.id} failed, and the other did not")
    values = [run.metrics.get(f"evaluate/{MAIN}") for run in (first, last)]
    if values[0] is None or values[1] is None:
        return Chance(None, "not both were evaluated")
    difference = abs(values[1] - values[0])
    groups = [_repetitions(run, everyone) for run in (first, last)]
    degrees = sum(len(group) - 1 for group in _distinct(groups))
    if degrees:
        spread = math.sqrt(sum(sum((value - statistics.fmean(group)) ** 2 for value in group) for group in _distinct(groups)) / degrees)
        margin = T[min(degrees, len(T)) - 1] * spread * math.sqrt(2)
        numbers = " and ".join(str(len(group)) for group in groups)
        told = f"with other seeds ({numbers} runs) two runs are up to {margin:.3f} apart by chance; these are {difference:.3f}"
        return Chance(difference > margin, told)
    if num_compared:
        lost = sum(flip.before == flip.actual for flip in flips)
        gained = len(flips) - lost
        beyond = abs(lost - gained) > Z * math.sqrt(max(1, lost + gained))
        return Chance(beyond, f"of the same {num_compared} test images {lost} were lost and {gained} gained (McNemar; no repeated seeds)")
    margin = Z * math.sqrt(sum(_variance(run) for run in (first, last)))
    told = f"by the intervals two such accuracies are up to {margin:.3f} apart by chance; these are {difference:.3f}"
    return Chance(difference > margin, told)


def _repetitions(run: Run, everyone: Sequence[Run]) -> list[float]:
    """The accuracies of the run and of its repetitions with other seeds."""
    identity = _identity(run)
    found = [run, *(other for other in everyone if other.id != run.id and _identity(other) == identity)]
    return [value for other in found if (value := other.metrics.get(f"evaluate/{MAIN}")) is not None]


def _distinct(groups: Sequence[list[float]]) -> list[list[float]]:
    return [group for i, group in enumerate(groups) if group not in groups[:i]]


def _identity(run: Run) -> tuple[str, ...]:
    """All that decides a run but its seeds: parameters, code and frozen inputs, as dvc.lock has them."""
    params = {name: value for name, value in run.params.items() if name not in SEEDS}
    return json.dumps(params, sort_keys=True, default=str), json.dumps(run.inputs, sort_keys=True)


def _variance(run: Run) -> float:
    metrics = _read_json(run.folder / "reports/evaluate/metrics.json")
    half = (metrics.get(f"{MAIN}_high", 1.0) - metrics.get(f"{MAIN}_low", 0.0)) / 2
    return float((half / Z) ** 2)


def _curve(folder: Path, name: str) -> list[float]:
    rows = _read_csv(folder / "reports/train/history.csv")
    return [float(row[name]) for row in rows if row.get(name)]


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []
