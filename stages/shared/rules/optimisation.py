"""Rules about trainings that do not learn, or break."""

from __future__ import annotations

import math
import statistics

from stages.shared.evidence import FINE_TUNE, HEAD, PHASES, Epoch, Evidence, Step, TrainEvidence, skill, untrained_loss
from stages.shared.params import Params
from stages.shared.rules.outcome import Finding, Fix, Missing, action, changes, rounded, sentence
from stages.shared.rules.signals import (
    ENOUGH_IMAGES,
    KNOWN_LOSS,
    LARGEST_LOSS,
    MAX_SWING,
    UNLEARNED_LOSS,
    USUAL_RATIO,
    WARM_UP_STEPS,
    chance_deviation,
    change_of,
    epochs_of,
    finite,
    phase_reached,
    rate_of,
    size,
    steps_of,
    still_from,
    swing,
    typical_ratio,
    usual_rate,
)

HIGH_RATIO, HIGH_RATIO_OF_A_HEAD = 1e-2, 5e-2  # a new head on a frozen backbone has small weights, and steps of 7e-3 in good trainings
# Adam's very first steps are larger than usual: 0.03 in healthy trainings of the sample, 0.07 for a new head on a pretrained backbone.
HIGHEST_FIRST_RATIO, VIOLENT_RATIO, VIOLENT_KERNEL = 0.03, 0.15, 3.0
GROWTH = 10  # from the first steps to the last before a NaN
DIVERGED_LOSS = 1.4  # times ln K, what an untrained classifier has
LITTLE_LEARNED = 0.5  # skill; mixed and smoothed targets keep the loss high where more is known
UNSETTLED = 2.2  # times the loss that its accuracy explains
MIN_DROP, MIN_JUMP = 0.08, 1.3
LOWEST_TUNING_RATE, USUAL_TUNING_RATE, HIGHEST_TUNING_RATE = 1e-6, 1e-5, 1e-4
LOWEST_RATE = 1e-7
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
    """Whether some step was far too large, or the last one ten times as large as is typical of them, and larger than usual."""
    sizes = [change_of(step) for step in steps]
    grew = len(sizes) > 3 and sizes[-1] >= GROWTH * statistics.median(sizes) and sizes[-1] >= HIGH_RATIO
    highest = max((size(step.highest_ratio) * min(1.0, step.norm_share) for step in steps), default=0.0)
    return grew or max(sizes, default=0.0) >= VIOLENT_RATIO or highest >= VIOLENT_KERNEL


def nothing_trains(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """No weight changes: everything is frozen, the rate is 0, or no gradient arrives."""
    train, failure = evidence.train, evidence.failure
    if train is None:
        return Missing("the steps of training")
    told = failure.cause if failure is not None and "UntrainableError" in failure.cause and "no weight" in failure.cause else ""
    if told and epochs_of(train, HEAD) and _too_fast(train, HEAD):
        return None  # large steps have made answers so sure that no gradient is left
    still = next((phase for phase in PHASES if _is_still(train, phase)), None)
    frozen = any(first.num_trainable == 0 for first in train.first_steps)
    stopped = next((phase for phase in PHASES if _has_stopped(train, phase)), None)
    if not (told or still or frozen or stopped):
        return None
    where = f"'{still or stopped or phase_reached(train)}'" + (f" from epoch {still_from(train, stopped) + 1} on" if stopped else "")
    num_trainable = {"num_trainable": min(first.num_trainable for first in train.first_steps)} if train.first_steps else {}
    return Finding(
        fault="nothing-trains",
        severity="critical",
        evidence={"sampled_steps": len(train.steps), **num_trainable},
        explanation=sentence(told) or f"no weight changed in any sampled step of the phase {where}.",
        fix=_move_something(told, train, params),
    )


def _is_still(train: TrainEvidence, phase: str) -> bool:
    """Whether no sampled step of a phase changed a weight, and the loss says so too."""
    steps, losses = steps_of(train, phase), [epoch.loss for epoch in epochs_of(train, phase)]
    fell = len(losses) > 1 and losses[-1] < 0.98 * losses[0]
    return len(steps) >= 4 and all(step.unchanged_share == 1 for step in steps) and not fell


def _has_stopped(train: TrainEvidence, phase: str) -> bool:
    """Whether weights changed in the beginning and for two epochs at least no more, at a rate above 0 and with all still to learn."""
    rates = [epoch.learning_rate for epoch in epochs_of(train, phase)[still_from(train, phase) :]]
    return len(rates) > 1 and min(rates) > LOWEST_RATE and _skill_at_end(train, epochs_of(train, phase)) < LITTLE_LEARNED


def _move_something(told: str, train: TrainEvidence, params: Params | None) -> Fix:
    if params is not None and "train.precision=float32" in told:
        return changes(params, {"train.precision": "float32"})
    if params is not None and "gradient_accumulation_steps" in told:
        return changes(params, {"train.gradient_accumulation_steps": 1})
    if params is not None:
        usual = {"train.learning_rate": usual_rate(train), "train.fine_tune_learning_rate": 1e-5}
        present = (params.train.learning_rate, params.train.fine_tune_learning_rate)
        if zero := {name: rate for (name, rate), now in zip(usual.items(), present, strict=True) if now < LOWEST_RATE}:
            return changes(params, zero)
    return action("unfreeze a layer and compile again (model.unfreeze in stages/shared/model.py)")


def destructive_fine_tuning(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Fine-tuning undoes what the head had learned: validation falls and the loss jumps as soon as the backbone is unfrozen.

    Its weights are good already; steps as large as for a new head, or BatchNorm in training mode, break them.
    """
    train = evidence.train
    if train is None:
        return Missing("a pretrained backbone's fine-tuning after a phase of the head")
    head, tuned = epochs_of(train, HEAD) if train.setup.pretrained else (), epochs_of(train, FINE_TUNE)
    broke = train.non_finite is not None and train.non_finite.phase == FINE_TUNE
    if not head or not (tuned or broke):
        return Missing("a pretrained backbone's fine-tuning after a phase of the head")
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
    """BatchNorm frozen, and a rate that does not break what is there: a hundredth, within what is usual."""
    key, present = rate_of(train, params, FINE_TUNE)
    gentler: dict[str, float | bool] = {"train.batchnorm_training": False, "train.restore_best_weights": True}
    is_usual = present <= USUAL_TUNING_RATE and params is not None and params.train.batchnorm_training
    rate = max(min(present / 100, HIGHEST_TUNING_RATE), min(USUAL_TUNING_RATE, present / 10))
    if not is_usual and rate >= LOWEST_TUNING_RATE:
        gentler[key] = rounded(rate)
    return changes(params, gentler) or changes(params, {"train.fine_tune_epochs": 0})


def learning_rate_too_high(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The weights change so fast that the loss diverges, stays where an untrained classifier's is, or does not settle.

    A step should change a weight by about a thousandth of its size.
    """
    train = evidence.train
    if train is None or not train.steps:
        return Missing("the losses and updates of training")
    phase, reason = next(((phase, reason) for phase in PHASES if (reason := _too_fast(train, phase))), (HEAD, ""))
    if not reason:
        return None
    steps = steps_of(train, phase)
    ratio, highest = typical_ratio(steps), max(change_of(step) for step in steps)
    key, present = rate_of(train, params, phase)
    # A step is proportional to the rate, so the rate that would have kept to the usual is known.
    factor = max(min(0.1, USUAL_RATIO / max(ratio, USUAL_RATIO), HIGHEST_FIRST_RATIO / highest), 1e-4) if math.isfinite(highest) else 1e-2
    clip = params.train.clip_norm if params is not None and params.train.clip_norm is not None else 1.0
    return Finding(
        fault="learning-rate-too-high",
        severity="critical",
        evidence={
            "untrained_loss": rounded(untrained_loss(train)),
            "typical_update_ratio": rounded(finite(ratio, 1e9)),
            "highest_update_ratio": rounded(finite(highest, 1e9)),
        },
        explanation=f"{reason}, and single steps changed the weights by up to {highest:.2g} times their size, typically by {ratio:.2g} "
        "(usual: 0.001 to 0.01).",
        fix=changes(params, {key: rounded(present * factor), "train.clip_norm": min(clip, 1.0)}),
    )


def _too_fast(train: TrainEvidence, phase: str) -> str:
    """What came of a phase's large steps, in words; nothing if they were not large, or harmed nothing."""
    steps, epochs = steps_of(train, phase), epochs_of(train, phase)
    if not steps:
        return ""
    chance, ratio, is_violent = untrained_loss(train), typical_ratio(steps), _is_violent(steps)
    high = HIGH_RATIO_OF_A_HEAD if train.setup.pretrained and phase == HEAD else HIGH_RATIO
    losses = [epoch.loss for epoch in epochs] or [step.loss for step in steps]
    if is_violent or ratio >= high:
        if train.non_finite is not None and train.non_finite.phase == phase:
            return f"the loss became {train.non_finite.loss}"
        if not losses[-1] <= DIVERGED_LOSS * chance or max(map(size, losses)) > 2 * DIVERGED_LOSS * chance:
            return f"the loss rose to {max(map(size, losses)):.3g} (untrained: {chance:.3g})"
        # The mean loss of a first epoch holds its beginning, so that it says little.
        was_long = len(epochs) > 1 and sum(epoch.num_steps for epoch in epochs) >= WARM_UP_STEPS
        if was_long and losses[-1] > UNLEARNED_LOSS * chance and _skill_at_end(train, epochs) < LITTLE_LEARNED:
            return f"the loss stays at {losses[-1]:.3g} (untrained: {chance:.3g})"
    by_one_image = LARGEST_LOSS / max(1, train.setup.num_val)
    if is_violent and epochs and not epochs[-1].val_loss - by_one_image <= UNSETTLED * _explained_loss(train, epochs[-1].val_accuracy):
        return f"validation loss is {epochs[-1].val_loss:.3g}, far more than an accuracy of {epochs[-1].val_accuracy:.2f} explains"
    swings = swing([epoch.val_loss for epoch in epochs], KNOWN_LOSS * chance)
    if ratio >= high / 2 and swings > MAX_SWING and train.setup.num_val >= ENOUGH_IMAGES:
        return f"validation loss goes up and down by {swings:.0%} from epoch to epoch"
    return ""


def _skill_at_end(train: TrainEvidence, epochs: tuple[Epoch, ...]) -> float:
    return skill(train, max(epochs[-1].accuracy, finite(epochs[-1].val_accuracy, 0.0)))


def _explained_loss(train: TrainEvidence, accuracy: float) -> float:
    """The loss of a classifier that knows no more than how often it is right: the entropy of its answer, at most ln K."""
    right = min(max(accuracy, 1e-3), 1 - 1e-3)
    others = max(1, train.setup.num_classes - 1)
    return min(-right * math.log(right) - (1 - right) * math.log((1 - right) / others), untrained_loss(train))
