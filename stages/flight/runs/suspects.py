"""Which of the differences between two runs may have made their outcomes differ, the likeliest first."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from stages.flight.record import journal
from stages.flight.record.names import STAGES
from stages.flight.runs.differences import Difference
from stages.flight.runs.run import Run

# How often a change of such a thing is what made a training better or worse, in our judgement: an order, and no frequency.
WEIGHTS_OF_PARAMS = {
    "train.learning_rate": 8,
    "train.optimizer": 7,
    "train.epochs": 6,
    "train.batchnorm_momentum": 6,
    "train.dropout": 5,
    "train.fine_tune_learning_rate": 5,
    "train.weight_decay": 5,
    "prepare.image_size_px": 5,
    "ingest.backbone_weights": 8,
    "augment.balancing": 5,
}
WEIGHTS = {"data": 7.0, "code": 5.0, "param": 4.0, "package": 2.0, "setting": 1.0, "hardware": 1.0}
SEED_WEIGHT, IDLE_WEIGHT = 0.5, 0.2
# Packages whose numbers reach the weights; any other is an unlikely cause.
NUMERICAL = ("tensorflow", "keras", "jax", "jaxlib", "numpy", "scipy", "opencv-python-headless", "pillow", "ml_dtypes", "python")
# What makes the pixels of each image, and is excused where those of the first batch are the same.
MAKES_PIXELS = "prepare."
NAMED_BY_DIAGNOSIS = 10.0


def suspects(found: Sequence[Difference], first: Run, last: Run) -> list[dict[str, Any]]:
    """Each with why it is where it is in the order; what cannot have had any effect is left out."""
    worse = first if first.failure else min((first, last), key=lambda run: run.metrics.get("evaluate/accuracy", -1.0))
    reached = _reached(first, last)
    named = _named_by(worse.verdict())
    same_stream = _has_same_stream(first, last)
    rows = []
    for difference in found:
        is_beyond = difference.kind == "param" and difference.name.partition(".")[0] not in reached
        if difference.values[0] == difference.values[-1] or is_beyond:
            continue  # it lies between others, or in a stage that was not reached
        weight, reason = _weigh(difference, named, same_stream=same_stream)
        if difference.kind == "code" and not {difference.name} & (first.inputs.keys() | last.inputs.keys()) and first.inputs:
            weight, reason = IDLE_WEIGHT, "no stage depends on it"
        if weight:
            rows.append({"kind": difference.kind, "name": difference.name, "weight": round(weight, 2), "reason": reason})
    return sorted(rows, key=lambda row: (-row["weight"], row["kind"], row["name"]))


def _weigh(difference: Difference, named: Mapping[str, str], *, same_stream: bool) -> tuple[float, str]:
    kind, name = difference.kind, difference.name
    if name in named:
        return NAMED_BY_DIAGNOSIS, f"the diagnosis of the worse run is {named[name]}, and names it"
    if kind == "data" and "data" in named:
        return NAMED_BY_DIAGNOSIS, f"the diagnosis of the worse run is {named['data']}, a fault of the images"
    if kind == "param" and name.startswith("evaluate."):
        return 0.0, ""
    weight, reason = WEIGHTS[kind], ""
    if kind == "param":
        weight = SEED_WEIGHT if name.endswith(".seed") else WEIGHTS_OF_PARAMS.get(name, WEIGHTS[kind]) * _size(difference)
    if kind == "package" and not is_numerical(name):
        return IDLE_WEIGHT, "its numbers do not reach the weights"
    if same_stream and kind == "param" and name.startswith(MAKES_PIXELS):
        return IDLE_WEIGHT, "order and first batch of the training are the same, bit for bit"
    return weight, reason


def is_numerical(package: str) -> bool:
    """Whether the numbers of a package reach the weights; of NVIDIA's all do."""
    return package in NUMERICAL or package.startswith("nvidia-")


def _size(difference: Difference) -> float:
    """More than 1 for a number that changed by a large factor, less for one that hardly did."""
    numbers = [value for value in (difference.values[0], difference.values[-1]) if isinstance(value, int | float)]
    if len(numbers) < 2 or isinstance(numbers[0], bool):
        return 1.0
    low, high = sorted(map(abs, map(float, numbers)))
    return min(2.0, 0.5 + math.log10(high / low)) if low else 1.0


def _named_by(verdict: Mapping[str, Any] | None) -> dict[str, str]:
    """Parameters that the fixes of a verdict would change, and ``data`` where it tells to look at the images; each with the fault."""
    named: dict[str, str] = {}
    for finding in (verdict or {}).get("findings", []):
        for fix in finding["fix"]:
            named.setdefault(fix.get("param", ""), finding["fault"])
        if finding["fault"] in ("label-noise", "leakage", "class-imbalance", "bad-split", "data-rejected", "undecodable-image"):
            named.setdefault("data", finding["fault"])
    return named


def _reached(first: Run, last: Run) -> tuple[str, ...]:
    """The stages up to the first in which one of the runs failed."""
    failed = [run.failure["stage"] for run in (first, last) if run.failure and run.failure["stage"] in STAGES]
    return STAGES[: min((STAGES.index(stage) for stage in failed), default=len(STAGES)) + 1]


def _has_same_stream(first: Run, last: Run) -> bool:
    """Whether both trainings began with the same images in the same order."""
    digests = [first_digest(run) for run in (first, last)]
    return all(digests) and all(digests[0].get(name) == digests[1].get(name) for name in ("order", "first_batch"))


def first_digest(run: Run) -> dict[str, str]:
    """The digests of a training's first epoch; none if it did not get there."""
    records: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        records, _ = journal.read(run.folder / journal.FILE_NAME)
    values = next((record.get("values") for record in records if record["type"] == "digest"), None)
    return values if isinstance(values, dict) else {}
