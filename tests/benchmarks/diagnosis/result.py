"""What is kept of a unit's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from stages.shared.evidence import Evidence, Number
from tests.benchmarks.diagnosis.unit import Unit

RESULTS = "results"  # the folder, in that of the runs


class Figures(BaseModel):
    """How good the classifier became; None where the run did not get there.

    ``best_`` is the epoch with the lowest validation loss, ``last_`` the last; ``test_loss`` is the cross-entropy of the weights kept.
    """

    model_config = ConfigDict(frozen=True)

    test_accuracy: float | None = None
    macro_recall: float | None = None
    test_loss: Number | None = None
    last_val_accuracy: Number | None = None
    last_val_loss: Number | None = None
    best_val_accuracy: Number | None = None
    best_val_loss: Number | None = None


class Result(BaseModel):
    """A unit, its parameters as params.yaml has them, and what its run left for a diagnosis."""

    model_config = ConfigDict(frozen=True)

    unit: Unit
    params: dict[str, Any]
    evidence: Evidence
    figures: Figures
    seconds: float


def path_of(unit: Unit, folder: Path) -> Path:
    """Where a folder of runs has the unit's result."""
    return folder / RESULTS / f"{unit.name}.json"


def kept(unit: Unit, folder: Path) -> Result | None:
    """The unit's result in a folder of runs, if it has been run as it is now."""
    path = path_of(unit, folder)
    result = Result.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    return result if result is not None and result.unit == unit else None


def figures(evidence: Evidence, test_loss: float | None) -> Figures:
    """Those of a run with this evidence."""
    tested = evidence.evaluate
    found: dict[str, float | None] = {"test_loss": test_loss}
    if tested:
        found |= {"test_accuracy": tested.accuracy, "macro_recall": tested.macro_recall}
    if evidence.train and evidence.train.epochs:
        epochs = evidence.train.epochs
        best = min(epochs, key=lambda epoch: epoch.val_loss if epoch.val_loss == epoch.val_loss else float("inf"))
        for prefix, epoch in (("last", epochs[-1]), ("best", best)):
            found |= {f"{prefix}_val_accuracy": epoch.val_accuracy, f"{prefix}_val_loss": epoch.val_loss}
    return Figures(**found)
