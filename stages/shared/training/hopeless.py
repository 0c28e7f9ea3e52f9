"""When nothing can come of a training any more: judged by its evidence alone, and so that no healthy one is ever stopped."""

from __future__ import annotations

import math
import statistics

from stages.shared.evidence import Step, TrainEvidence, skill, untrained_loss

# Times ln K, the loss of an untrained classifier; healthy trainings have come back from twice that within an epoch.
DIVERGED, NUM_DIVERGED_EPOCHS = 3.0, 2
GUESSING = 0.1  # of the way from guessing to perfect: a training that knows more than that is not hopeless
# Training loss within two percent of the untrained, or above: nothing is known after so many steps and epochs.
STUCK, NUM_STUCK_STEPS, NUM_STUCK_EPOCHS = 0.98, 300, 4
# A step changes the weights by about a thousandth of them (Karpathy, CS231n notes, 'ratio of weights:updates').
LOWEST_RATIO, HIGHEST_RATIO = 1e-6, 0.1
NUM_UNCHANGED_STEPS, NUM_UNCHANGED_EPOCHS = 8, 2


def reason(train: TrainEvidence) -> str | None:
    """Why the present phase is hopeless, in a sentence; None as long as something may still come of it."""
    if not train.epochs:
        return None
    phase = train.epochs[-1].phase
    epochs = [epoch for epoch in train.epochs if epoch.phase == phase]
    steps = [step for step in train.steps if step.phase == phase]
    untrained = untrained_loss(train)
    losses = [epoch.loss for epoch in epochs]
    if skill(train, max(epochs[-1].accuracy, epochs[-1].val_accuracy)) > GUESSING:
        return None
    if len(losses) >= NUM_DIVERGED_EPOCHS and min(losses[-NUM_DIVERGED_EPOCHS:]) > DIVERGED * untrained and losses[-1] >= losses[-2]:
        return f"The loss has diverged: {losses[-1]:.3g} after {len(epochs)} epochs, {untrained:.3g} untrained."
    still = len(steps) >= NUM_UNCHANGED_STEPS and all(step.unchanged_share == 1 for step in steps)
    if still and len(losses) >= NUM_UNCHANGED_EPOCHS and losses[-1] >= STUCK * losses[0]:
        return f"Nothing trains: no weight has changed in {len(steps)} sampled steps of the phase '{phase}'."
    num_steps = sum(epoch.num_steps for epoch in epochs)
    is_stuck = num_steps >= NUM_STUCK_STEPS and len(losses) >= NUM_STUCK_EPOCHS and min(losses) > STUCK * untrained
    if is_stuck and (ratio := _unusual(steps)) is not None:
        return (
            f"The loss is stuck at {losses[-1]:.3g}, that of guessing ({untrained:.3g}), after {num_steps} steps, "
            f"and a step changes the weights by {ratio:.1e} of their size (usual: about 1e-3)."
        )
    return None


def _unusual(steps: list[Step]) -> float | None:
    """The typical change of a step, where it is far from usual."""
    ratios = [step.update_ratio if math.isfinite(step.update_ratio) else math.inf for step in steps]
    if not ratios or LOWEST_RATIO <= (median := statistics.median(ratios)) <= HIGHEST_RATIO:
        return None
    return median
