"""Whether a fault hurt: a unit against its healthy twins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from tests.benchmarks.diagnosis.result import Figures, Result
from tests.benchmarks.diagnosis.unit import Unit

LEAST_LOST = {"test_accuracy": 0.03, "macro_recall": 0.05, "test_loss": math.log(1.2), "last_val_loss": math.log(1.2)}
MISJUDGED = 0.05
# Of these the classifier may be as good as ever; wrong is what validation says of it.
OF_VALIDATION = ("leakage", "label-order-mismatch", "preprocessing-mismatch", "bad-split")


def harm(result: Result, healthy: Figures) -> str | None:
    """In which way the unit is worse than its twins (``usual``), in a few words; None if it is not.

    It is, if
    - it did not come to its end, as every healthy twin does;
    - the test's accuracy is lower by .03, about 1.4 standard deviations of a difference on 430 images at .9, or macro recall by .05, which
      rare classes move more;
    - the loss (of the kept weights on the test, or of the last epoch on validation) is 1.2 times the twins' or more: overconfidence, and
      what early signs of overfitting look like, come before lost accuracy. Seeds alone move it by a tenth;
    - for a fault of the validation data: its accuracy in the chosen epoch is .05 away from the test's, so that it misleads, although the
      classifier itself may be as good.
    """
    if result.evidence.failure:
        return f"ended in {result.evidence.failure.stage}: {result.evidence.failure.kind}"
    amounts = lost(result.figures, healthy)
    smoothed = result.params["train"]["label_smoothing"] > 0  # other losses anyway
    for name, least in LEAST_LOST.items():
        if not amounts[name] < least and not (smoothed and name == "last_val_loss"):
            return f"{name}: {getattr(result.figures, name):.3g}, {getattr(healthy, name):.3g} of the twins"
    if result.unit.fault in OF_VALIDATION and (difference := _misjudged(result.figures)) >= MISJUDGED:
        return f"validation accuracy {difference:.3f} away from the test's"
    return None


def usual(unit: Unit, by_name: Mapping[str, Result]) -> Figures | None:
    """The mean figures of the unit's healthy twins, over their seeds; None without a result of each."""
    twins = [by_name[name].figures.model_dump() for name in unit.twins if name in by_name]
    if len(twins) < len(unit.twins):
        return None
    return Figures(**{name: statistics.fmean(twin[name] for twin in twins) for name in twins[0]})


def lost(found: Figures, healthy: Figures) -> dict[str, float]:
    """How much worse each figure is than the healthy one: shares as they are, losses by their logarithm."""
    shares = {name: getattr(healthy, name) - getattr(found, name) for name in ("test_accuracy", "macro_recall")}
    losses = {name: _logarithm(getattr(found, name)) - _logarithm(getattr(healthy, name)) for name in ("test_loss", "last_val_loss")}
    return shares | losses


def _logarithm(loss: float) -> float:
    return math.log(max(loss, 1e-6)) if math.isfinite(loss) else math.inf


def _misjudged(found: Figures) -> float:
    if found.best_val_accuracy is None or found.test_accuracy is None:
        return 0.0
    return abs(found.best_val_accuracy - found.test_accuracy)
