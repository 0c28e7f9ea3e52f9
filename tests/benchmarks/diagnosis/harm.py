"""Whether a fault hurt: a unit against its healthy twin."""

from __future__ import annotations

import math

from tests.benchmarks.diagnosis.result import Figures, Result

LEAST_LOST = {"test_accuracy": 0.03, "macro_recall": 0.05, "test_loss": math.log(1.2), "last_val_loss": math.log(1.2)}
MISJUDGED = 0.05
# Of these the classifier may be as good as ever; wrong is what validation says of it.
OF_VALIDATION = ("leakage", "label-order-mismatch", "preprocessing-mismatch", "bad-split")


def harm(result: Result, twin: Result) -> str | None:
    """In which way the unit is worse than ``twin`` (its recipe as it is, with the same seed), in a few words; None if it is not.

    It is, if
    - it did not come to its end, as no healthy twin does;
    - the test's accuracy is lower by .03, about 1.4 standard deviations of a difference on 430 images at .9, or macro recall by .05, which
      rare classes move more;
    - the loss (of the kept weights on the test, or of the last epoch on validation) is 1.2 times the twin's or more: overconfidence, and
      what early signs of overfitting look like, come before lost accuracy. Seeds alone move it by a tenth;
    - for a fault of the validation data: its accuracy in the chosen epoch is .05 away from the test's, so that it misleads, although the
      classifier itself may be as good.
    """
    if result.evidence.failure:
        return f"ended in {result.evidence.failure.stage}: {result.evidence.failure.kind}"
    amounts = lost(result.figures, twin.figures)
    smoothed = result.params["train"]["label_smoothing"] != twin.params["train"]["label_smoothing"]  # other losses anyway
    for name, least in LEAST_LOST.items():
        if not amounts[name] < least and not (smoothed and name == "last_val_loss"):
            return f"{name}: {getattr(result.figures, name):.3g}, {getattr(twin.figures, name):.3g} of the twin"
    if result.unit.fault in OF_VALIDATION and (difference := _misjudged(result.figures)) >= MISJUDGED:
        return f"validation accuracy {difference:.3f} away from the test's"
    return None


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
