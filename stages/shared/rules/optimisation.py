"""Rules about trainings that do not learn, or break."""

from __future__ import annotations

import math
import statistics

from stages.shared.evidence import Evidence, TrainEvidence
from stages.shared.params import Params
from stages.shared.rules.outcome import Finding, Missing, change, rounded

# A usual step changes the weights by about a thousandth (Karpathy, CS231n notes, 'ratio of weights:updates').
HIGH_UPDATE_RATIO, LOW_UPDATE_RATIO = 1e-2, 1e-4
# Adam's very first steps are larger: 0.032 in healthy trainings of the sample, 0.025 on photos with a pretrained backbone.
HIGHEST_HEALTHY_RATIO, HIGH_FIRST_RATIO = 0.03, 0.1
DIVERGED_LOSS = 1.5  # times ln K, what an untrained classifier has
UNLEARNED_LOSS = 0.8  # times ln K
HIGHEST_USUAL_RATE = 0.1
WARM_UP_STEPS = 100  # fewer steps are too few to learn in, at any rate


def learning_rate_too_high(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The weights change so fast that the loss diverges, or stays where an untrained classifier's is."""
    train = evidence.train
    if train is None or not train.steps:
        return Missing("the losses and updates of training")
    chance_loss = math.log(train.setup.num_classes)
    highest = max(_size(step.update_ratio) for step in train.steps)
    losses = [epoch.loss for epoch in train.epochs] or [step.loss for step in train.steps]
    last = train.non_finite.loss if train.non_finite else losses[-1]
    diverged = not math.isfinite(last) or last > DIVERGED_LOSS * chance_loss
    stuck = len(train.epochs) * train.setup.steps_per_epoch >= WARM_UP_STEPS and last > UNLEARNED_LOSS * chance_loss
    fast = highest >= HIGH_FIRST_RATIO or _median_ratio(train) >= HIGH_UPDATE_RATIO
    if not fast or not (diverged or stuck):
        return None
    key, present = _rate(train, params)
    # A step is proportional to the rate, so the rate that would have kept to the usual is known.
    factor = min(0.1, HIGHEST_HEALTHY_RATIO / highest) if math.isfinite(highest) else 0.1
    return Finding(
        fault="learning-rate-too-high",
        score=0.9 if diverged else 0.7,
        severity="critical",
        evidence={"loss": last, "untrained_loss": rounded(chance_loss), "highest_update_ratio": rounded(highest)},
        explanation=f"the loss reached {last:.3g} (untrained: {chance_loss:.2f}) while single steps changed the weights by up to "
        f"{highest:.2g} times their size (usual: below {HIGHEST_HEALTHY_RATIO}).",
        fix=(change(params, key, rounded(min(present * factor, HIGHEST_USUAL_RATE))), change(params, "train.clip_norm", 1.0)),
    )


def _size(ratio: float) -> float:
    """A change that is not a number is beyond all measure."""
    return ratio if math.isfinite(ratio) else math.inf


def _median_ratio(train: TrainEvidence) -> float:
    """The median change of a step, past the first steps where there are others."""
    late = [step for step in train.steps if step.epoch > 0] or train.steps
    return statistics.median(_size(step.update_ratio) for step in late)


def non_finite_values(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The loss became NaN or infinite although the weights changed little before: an input, a label or the precision is to blame."""
    train = evidence.train
    if train is None:
        return Missing("the losses of training")
    if train.non_finite is None or any(_size(step.update_ratio) >= HIGH_FIRST_RATIO for step in train.steps):
        return None
    where = train.non_finite
    return Finding(
        fault="non-finite-values",
        score=0.8,
        severity="critical",
        evidence={"phase": where.phase, "epoch": where.epoch, "step": where.step, "loss": str(where.loss)},
        explanation=f"the loss became {where.loss} at step {where.step} of epoch {where.epoch}, with ordinary updates before.",
        fix=(change(params, "train.precision", "float32"), {"action": "look for images or labels that are not finite"}),
    )


def learning_rate_too_low(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The loss falls steadily, yet by little in all, because each step hardly changes the weights."""
    train = evidence.train
    if train is None or len(train.epochs) < 2 or not train.steps:
        return Missing("two epochs of training and their updates")
    chance_loss = math.log(train.setup.num_classes)
    ratio = _median_ratio(train)
    fall = train.epochs[0].loss - train.epochs[-1].loss
    learned = train.epochs[-1].loss < UNLEARNED_LOSS * chance_loss
    if learned or not 0 < ratio < LOW_UPDATE_RATIO or fall > 0.2 * chance_loss:
        return None
    key, present = _rate(train, params)
    return Finding(
        fault="learning-rate-too-low",
        score=0.8,
        severity="critical",
        evidence={
            "loss": rounded(train.epochs[-1].loss),
            "fall": rounded(fall),
            "median_update_ratio": rounded(ratio),
        },
        explanation=f"the loss fell by {fall:.2g} in {len(train.epochs)} epochs and is still {train.epochs[-1].loss:.3g}; "
        f"a step changes the weights by only {ratio:.1e} of their size.",
        fix=(change(params, key, rounded(present * 100)),),
    )


def _rate(train: TrainEvidence, params: Params | None) -> tuple[str, float]:
    """The parameter of the rate in the phase that was reached, and its value."""
    in_fine_tuning = any(step.phase == "fine-tune" for step in train.steps)
    key = "train.fine_tune_learning_rate" if in_fine_tuning else "train.learning_rate"
    if params is not None:
        return key, params.train.fine_tune_learning_rate if in_fine_tuning else params.train.learning_rate
    return key, train.epochs[0].learning_rate if train.epochs else 1e-3
