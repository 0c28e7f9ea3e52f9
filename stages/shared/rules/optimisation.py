"""Rules about trainings that do not learn, or break."""

from __future__ import annotations

import math

from stages.shared.evidence import FINE_TUNE, HEAD, PHASES, Epoch, Evidence, Step, TrainEvidence
from stages.shared.params import Params
from stages.shared.rules.outcome import Finding, Fix, Missing, action, changes, rounded
from stages.shared.rules.signals import (
    KNOWN_LOSS,
    UNLEARNED_LOSS,
    USUAL_RATIO,
    WARM_UP_STEPS,
    chance_deviation,
    epochs_of,
    finite,
    rate_of,
    size,
    skill,
    steps_of,
    swing,
    typical_ratio,
    untrained_loss,
)

HIGH_RATIO, HIGH_RATIO_OF_A_HEAD = 1e-2, 5e-2  # a new head on a frozen backbone has small weights, and steps of 7e-3 in good trainings
# Adam's very first steps are larger than usual: 0.03 in healthy trainings of the sample, 0.07 for a new head on a pretrained backbone.
HIGHEST_FIRST_RATIO, VIOLENT_RATIO = 0.03, 0.1
GROWTH = 10  # from the first steps to the last before a NaN
DIVERGED_LOSS = 1.5  # times ln K, what an untrained classifier has
UNSETTLED_LOSS = 0.5  # of validation, times ln K, where steps were violent
MAX_SWING = 0.5
MIN_DROP, MIN_JUMP = 0.08, 1.3
LOWEST_TUNING_RATE = 1e-6
NOT_FINITE = {"input": "an image", "label": "a label", "weight": "the weight of an image"}


def non_finite_values(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The loss became NaN or infinite although the weights changed little before: an input, a label or the precision is to blame.

    Half precision overflows above 65,504 and needs loss scaling; one NaN in an image or a label spreads into every weight.
    """
    train = evidence.train
    if train is None:
        return Missing("the losses of training")
    where = train.non_finite
    unseen = [epoch for epoch in train.epochs if epoch.has_validation and not math.isfinite(epoch.val_loss)]
    if where is None and not (unseen and len(unseen) == len(train.epochs) and math.isfinite(train.epochs[-1].loss)):
        return None
    if where is None:
        return Finding(
            fault="non-finite-values",
            severity="critical",
            evidence={"epochs_with_such_a_validation_loss": len(unseen)},
            explanation="validation loss is not finite in any epoch, and training loss is: an image or label of validation is to blame.",
            fix=action("find what is not finite in the validation images or labels, and quarantine it"),
        )
    if not where.source and _is_violent(steps_of(train, where.phase)):
        return None
    from_data = {name: f"{what} of that batch is not finite" for name, what in NOT_FINITE.items()}
    is_half = train.setup.precision != "float32"
    reason = from_data.get(where.source, "with ordinary updates before and a finite batch" + (", in half precision" if is_half else ""))
    return Finding(
        fault="non-finite-values",
        severity="critical",
        evidence={"phase": where.phase, "epoch": where.epoch, "step": where.step, "loss": str(where.loss), "source": where.source},
        explanation=f"the loss became {where.loss} at step {where.step} of epoch {where.epoch}: {reason}.",
        fix=(changes(params, {"train.precision": "float32"}) if is_half and not where.source else ())
        or action("find what is not finite (an image, a label, a weight loaded), and take it out"),
    )


def _is_violent(steps: tuple[Step, ...]) -> bool:
    """Whether some step was far too large, or steps grew tenfold to more than usual."""
    sizes = [size(step.update_ratio) for step in steps]
    grew = len(sizes) > 3 and sizes[-1] >= GROWTH * min(sizes[:3]) and sizes[-1] >= HIGH_RATIO
    return grew or any(found >= VIOLENT_RATIO for found in sizes) or any(size(step.highest_ratio) >= 10 * VIOLENT_RATIO for step in steps)


def nothing_trains(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """No weight changes: everything is frozen, the rate is 0, or no gradient arrives."""
    train, failure = evidence.train, evidence.failure
    if train is None:
        return Missing("the steps of training")
    told = failure.cause if failure is not None and "UntrainableError" in failure.cause and "no weight" in failure.cause else ""
    still = next((phase for phase in PHASES if _is_still(train, phase)), None)
    frozen = any(first.num_trainable == 0 for first in train.first_steps)
    if not (told or still or frozen):
        return None
    return Finding(
        fault="nothing-trains",
        severity="critical",
        evidence={"sampled_steps": len(train.steps), "trainable": min((first.num_trainable for first in train.first_steps), default=-1)},
        explanation=told or f"no weight has changed in any sampled step of the phase '{still or HEAD}'.",
        fix=_move_something(told, params),
    )


def _is_still(train: TrainEvidence, phase: str) -> bool:
    """Whether no sampled step of a phase changed a weight, and the loss says so too."""
    steps, losses = steps_of(train, phase), [epoch.loss for epoch in epochs_of(train, phase)]
    fell = len(losses) > 1 and losses[-1] < 0.98 * losses[0]
    return len(steps) >= 4 and all(step.unchanged_share == 1 for step in steps) and not fell


def _move_something(told: str, params: Params | None) -> Fix:
    if params is not None and "gradient_accumulation_steps" in told:
        return changes(params, {"train.gradient_accumulation_steps": 1})
    if params is not None:
        usual = {"train.learning_rate": 1e-3, "train.fine_tune_learning_rate": 1e-5}
        present = (params.train.learning_rate, params.train.fine_tune_learning_rate)
        if zero := {name: rate for (name, rate), now in zip(usual.items(), present, strict=True) if now == 0}:
            return changes(params, zero)
    return action("unfreeze a layer and compile again (model.unfreeze in stages/shared/model.py)")


def destructive_fine_tuning(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Fine-tuning undoes what the head had learned: validation falls and the loss jumps as soon as the backbone is unfrozen.

    Its weights are good already; steps as large as for a new head, or BatchNorm in training mode, break them.
    """
    train = evidence.train
    if train is None:
        return Missing("a phase of fine-tuning after one of the head")
    head, tuned = epochs_of(train, HEAD), epochs_of(train, FINE_TUNE)
    broke = train.non_finite is not None and train.non_finite.phase == FINE_TUNE
    if not head or not (tuned or broke):
        return Missing("a phase of fine-tuning after one of the head")
    before = max(epoch.val_accuracy for epoch in head)
    after, last = (tuned[0].val_accuracy, tuned[-1].val_accuracy) if tuned else (1 / train.setup.num_classes,) * 2
    jump = _jump(head[-1], tuned[0]) if tuned else math.inf
    least = MIN_DROP + chance_deviation(train.setup.num_val)
    fell = before - after >= least and jump >= MIN_JUMP and before - last >= MIN_DROP / 4
    if skill(train, before) < 0.1 or not (broke or fell):
        return None
    return Finding(
        fault="destructive-fine-tuning",
        severity="critical",
        evidence={
            "validation_accuracy_before": before,
            "after_one_epoch": after,
            "at_the_end": last,
            "jump_of_loss": rounded(finite(jump, 1e9)),
        },
        explanation=f"validation accuracy was {before:.2f} before the backbone was unfrozen"
        + (f" and {after:.2f} an epoch later." if tuned else ", and the loss was not finite before an epoch had passed."),
        fix=_gentler(train, params),
    )


def _jump(head: Epoch, tuned: Epoch) -> float:
    """By what factor training or validation loss rose from the last epoch before to the first after."""
    pairs = ((head.loss, tuned.loss), (head.val_loss, tuned.val_loss))
    return max(finite(after, math.inf) / max(before, 1e-3) for before, after in pairs)


def _gentler(train: TrainEvidence, params: Params | None) -> Fix:
    """BatchNorm frozen, and a rate that does not break what is there: a hundredth, 1e-4 at most."""
    _, present = rate_of(train, params, FINE_TUNE)
    rate = max(min(present / 100, 1e-4), LOWEST_TUNING_RATE)
    gentler: dict[str, float | bool] = {"train.batchnorm_training": False, "train.restore_best_weights": True}
    if rate < present:
        gentler["train.fine_tune_learning_rate"] = rounded(rate)
    return changes(params, gentler) or changes(params, {"train.fine_tune_epochs": 0})


def learning_rate_too_high(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The weights change so fast that the loss diverges, stays where an untrained classifier's is, or swings without settling.

    A step should change a weight by about a thousandth of its size.
    """
    train = evidence.train
    if train is None or not train.steps:
        return Missing("the losses and updates of training")
    phase = next((phase for phase in PHASES if _is_too_fast(train, phase)), None)
    if phase is None:
        return None
    steps, epochs = steps_of(train, phase), epochs_of(train, phase)
    ratio, highest = typical_ratio(steps), max(size(step.update_ratio) for step in steps)
    is_last = phase == train.steps[-1].phase
    last = train.non_finite.loss if train.non_finite and is_last else epochs[-1].loss if epochs else steps[-1].loss
    key, present = rate_of(train, params, phase)
    # A step is proportional to the rate, so the rate that would have kept to the usual is known.
    factor = max(min(0.1, USUAL_RATIO / ratio, HIGHEST_FIRST_RATIO / highest), 1e-4) if math.isfinite(highest) else 1e-2
    clip = params.train.clip_norm if params is not None and params.train.clip_norm is not None else 1.0
    return Finding(
        fault="learning-rate-too-high",
        severity="critical",
        evidence={
            "loss": last,
            "untrained_loss": rounded(untrained_loss(train)),
            "typical_update_ratio": rounded(finite(ratio, 1e9)),
            "highest_update_ratio": rounded(finite(highest, 1e9)),
        },
        explanation=f"the loss reached {last:.3g} (untrained: {untrained_loss(train):.2f}) while single steps changed the weights by up to "
        f"{highest:.2g} times their size (usual: below {HIGHEST_FIRST_RATIO}).",
        fix=changes(params, {key: rounded(present * factor), "train.clip_norm": min(clip, 1.0)}),
    )


def _is_too_fast(train: TrainEvidence, phase: str) -> bool:
    """Whether steps of a phase are large, and its loss shows what comes of it."""
    steps, epochs = steps_of(train, phase), epochs_of(train, phase)
    if not steps:
        return False
    chance, ratio = untrained_loss(train), typical_ratio(steps)
    high = HIGH_RATIO_OF_A_HEAD if train.setup.pretrained and phase == HEAD else HIGH_RATIO
    losses = [epoch.loss for epoch in epochs] or [step.loss for step in steps]
    broken = train.non_finite is not None and train.non_finite.phase == phase
    last = math.nan if broken else losses[-1]
    broke = not last <= DIVERGED_LOSS * chance or max(map(size, losses)) > 2 * DIVERGED_LOSS * chance
    # The mean loss of a first epoch holds its beginning, so that it says little.
    stuck = len(epochs) > 1 and sum(epoch.num_steps for epoch in epochs) >= WARM_UP_STEPS and last > UNLEARNED_LOSS * chance
    if (_is_violent(steps) or ratio >= high) and (broke or stuck):
        return True
    if _is_violent(steps) and epochs and finite(epochs[-1].val_loss, math.inf) > UNSETTLED_LOSS * chance:
        return True
    swings = swing([epoch.val_loss for epoch in epochs], KNOWN_LOSS * chance) > MAX_SWING
    return ratio >= high / 2 and swings
