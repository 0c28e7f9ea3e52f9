"""Rules about trainings that learn, but not what they should: by heart, from images changed too much, or held back."""

from __future__ import annotations

import math
from typing import Any

from stages.shared.evidence import AugmentEvidence, Evidence, TrainEvidence, skill, untrained_loss
from stages.shared.params import ALPHAS, Params
from stages.shared.rules.outcome import Finding, Fix, Missing, action, changes, rounded
from stages.shared.rules.signals import (
    ENOUGH_IMAGES,
    KNOWN_LOSS,
    LARGEST_LOSS,
    MAX_SWING,
    MUCH_MIXED,
    best_epoch,
    chance_deviation,
    epochs_of,
    finite,
    is_enough,
    phase_reached,
    probe,
    swing,
    wants_more,
)

MIN_GAP, LARGE_GAP = 0.10, 0.14  # the second tells wherever validation loss was lowest, if a gate is missed
MIN_LOSS_RISE = 1.1
LATEST_MINIMUM = 0.6
MEMORISED = 0.9
MIN_LOSS_GAP = 0.35  # in nats, between validation and training images
MAX_COST_OF_WEAKNESS = 0.04
WEAK_DISPLACEMENT = 0.02
MIN_COST = 0.1
MIN_FALL_FROM_BEST, MIN_LOSS_ABOVE_BEST = 0.03, 1.15
LAST_EPOCHS, SUDDEN = 2, 2.0  # in which validation loss became so many times what it was
MIN_DROPOUT_GAP, MIN_DROPOUT_LOSS_GAP, SHRUNK, MUCH_PENALTY = 0.15, 0.085, 0.4, 0.5  # the second times ln K
LITTLE_SKILL, HALF_LEARNED = 0.2, 0.7
GOOD, UNSURE = 0.92, 0.25  # skill, and loss times ln K, with which nobody calls a training held back
MIN_COMPARED = 8  # images that look alike by chance where half are only mirrored: 1 in 256
QUALITY = ("accuracy", "macro_recall", "macro_f1")
FLAT = 0.08  # of validation loss, in the last three epochs
ONE_ANSWER = 0.9  # of the answers are the same class
SMALLEST_PUBLISHED_PX = 96  # for which weights of MobileNetV2 are published (keras.io/api/applications/mobilenet)
LARGER = "take larger images, a wider network, or unfreeze more of it"
MODERATE = {
    "rotation_degrees": 10.0,
    "width_shift": 0.1,
    "height_shift": 0.1,
    "shear": 0.1,
    "zoom": 0.1,
    "brightness": 0.1,
    "contrast": 0.1,
    "random_erasing": 0.2,
    "mixup": 0.2,
    "cutmix": 0.5,
}
MORE_IMAGES = "collect more training images: what parameters can do is done"
STRONGER = {
    "augment.rotation_degrees": 8.0,
    "augment.width_shift": 0.1,
    "augment.height_shift": 0.1,
    "augment.zoom": 0.1,
}


def frozen_augmentation(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Augmentation is on, and an image looks the same in every epoch: what was drawn once is kept.

    A cache after the random change, or a generator seeded anew each epoch, does this; the network sees no more images than there are.
    """
    train = evidence.train
    if train is None or train.variants is None or train.variants.num_compared < MIN_COMPARED:
        return Missing("enough images of the first batch that were seen again in the second epoch")
    found = train.variants
    augment = evidence.augment
    if augment is not None and not augment.mean_displacement + augment.mean_brightness_change + augment.mean_contrast_change:
        return Missing("an augmentation that changes every image")
    if not train.setup.is_augmented or found.num_different > found.num_compared / 10:
        return None
    return Finding(
        fault="frozen-augmentation",
        evidence={"num_compared": found.num_compared, "num_different": found.num_different},
        explanation=f"of {found.num_compared} images of the first batch {found.num_different} looked different in the next epoch, although "
        "augmentation is on.",
        fix=action("draw anew in each epoch: cache before the augmentation, not after it (stages/shared/training/batches.py)"),
    )


def insufficient_augmentation(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The training images are learned by heart while augmentation hardly changes them."""
    found = _overfits(evidence)
    if found is None or isinstance(found, Missing):
        return found
    if evidence.augment is None:
        return Missing("the measured strength of the augmentation")
    if not _is_weak(evidence, evidence.augment):
        return None
    strength = evidence.augment.mean_displacement
    return Finding(
        fault="insufficient-augmentation",
        evidence={**found, "mean_displacement": strength},
        explanation=f"{_told(found)} Augmentation moves an image by {strength:.1%} of its side and changes little else, so that each epoch "
        "shows nearly the same.",
        fix=changes(params, {**_stronger(params), "train.dropout": _more_dropout(params), "train.restore_best_weights": True})
        or action(MORE_IMAGES),
    )


def overfitting(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The training images are learned by heart: validation loss rises long before the end while training loss still falls.

    More and other images are the best cure; more augmentation, dropout and an early end are what parameters can do.
    """
    found = _overfits(evidence)
    if found is None or isinstance(found, Missing):
        return found
    if evidence.augment is not None and _is_weak(evidence, evidence.augment):
        return None
    return Finding(
        fault="overfitting",
        evidence=found,
        explanation=_told(found),
        fix=changes(
            params,
            {
                **_stronger(params),
                "train.dropout": _more_dropout(params),
                "train.early_stopping_patience": _patience(params),
                "train.restore_best_weights": True,
            },
        )
        or action(MORE_IMAGES),
    )


def _overfits(evidence: Evidence) -> dict[str, float | str] | Missing | None:
    """The figures of a training that knows its own images far better than others, if it does; of the weights that were kept."""
    train = evidence.train
    if train is None or len(train.epochs) < 4:
        return Missing("four epochs of training")
    known, validated = (probe(train, name, "kept") or probe(train, name) for name in ("A", "V"))
    if known is None or validated is None:
        return Missing("the probe at the end of training")
    losses = [epoch.val_loss for epoch in train.epochs]
    best = best_epoch(losses)
    rise = finite(losses[-1], math.inf) / max(losses[best], 1e-9)
    gap = known.accuracy - validated.accuracy
    is_late = best + 1 > LATEST_MINIMUM * len(losses)
    rises = rise >= MIN_LOSS_RISE and not is_late and train.epochs[-1].loss < train.epochs[best].loss
    is_wanting = wants_more(evidence)
    memorised = known.accuracy >= MEMORISED and validated.loss - known.loss >= MIN_LOSS_GAP and (not is_late or gap >= LARGE_GAP)
    # The best epoch's weights were kept, or the last was the best: then a gap alone is no fault.
    is_kept = probe(train, "V", "kept") is not None or best == len(losses) - 1
    # Where a test was missed and the gap is no chance, nothing else has to be seen.
    deviation = (0.25 / known.num_images + 0.25 / validated.num_images) ** 0.5
    is_clear = is_wanting and gap >= 2 * deviation
    if gap < MIN_GAP or not (rises or memorised or is_clear) or ((is_kept or is_late) and not is_wanting):
        return None
    return {
        "gap": rounded(gap),
        "validation_loss_rise": rounded(rise),
        "best_epoch": best + 1,
        "num_epochs": len(losses),
        "accuracy_on_training": known.accuracy,
        "accuracy_on_validation": validated.accuracy,
    }


def _told(found: dict[str, float | str]) -> str:
    return (
        f"accuracy is {found['accuracy_on_training']:.2f} on training images and {found['accuracy_on_validation']:.2f} on validation; "
        f"validation loss was lowest in epoch {found['best_epoch']} of {found['num_epochs']}, and ended at "
        f"{found['validation_loss_rise']:.2f} times that."
    )


def _is_weak(evidence: Evidence, augment: AugmentEvidence) -> bool:
    """Whether the policy hardly changes an image, as drawn, or as the network sees it."""
    known, changed = probe(evidence.train, "A"), probe(evidence.train, "A_augmented")
    costs_nothing = known is None or changed is None or known.accuracy - changed.accuracy < MAX_COST_OF_WEAKNESS
    changes_little = augment.mean_displacement < WEAK_DISPLACEMENT and augment.mean_share_erased + augment.mean_share_mixed < MUCH_MIXED
    return changes_little and costs_nothing


def _stronger(params: Params | None) -> dict[str, float]:
    """Moderate strengths, and none below the present one."""
    if params is None:
        return dict(STRONGER)
    return {name: max(value, getattr(params.augment, name.removeprefix("augment."))) for name, value in STRONGER.items()}


def _patience(params: Params | None) -> int:
    return (params.train.early_stopping_patience if params is not None else None) or 3


def _more_dropout(params: Params | None) -> float:
    return max(0.4, params.train.dropout) if params is not None else 0.4


def excessive_augmentation(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Augmentation takes away what tells the classes apart: the same images are known far better as they are.

    Training accuracy then stays below validation accuracy, and neither becomes what it could.
    """
    train = evidence.train
    known, changed, validated = (probe(train, name) for name in ("A", "A_augmented", "V"))
    if train is None or known is None or changed is None or validated is None or not train.epochs or evidence.augment is None:
        return Missing("the probe on augmented images at the end of training")
    cost, last = known.accuracy - changed.accuracy, train.epochs[-1]
    generalises = known.accuracy - validated.accuracy < MIN_GAP  # otherwise it needs what keeps it from learning by heart
    costly = cost >= MIN_COST and last.accuracy < last.val_accuracy and generalises
    half_learned = skill(train, known.accuracy) < HALF_LEARNED  # then there is less that augmentation could cost
    strong = bool(evidence.augment.too_strong) and (cost >= MIN_COST / 2 or evidence.augment.mean_share_mixed > MUCH_MIXED or half_learned)
    is_fine = is_enough(evidence) and not evidence.augment.too_strong
    if not (costly or strong) or is_fine or skill(train, validated.accuracy) >= GOOD:
        return None
    return Finding(
        fault="excessive-augmentation",
        evidence={
            "accuracy_on_training": known.accuracy,
            "accuracy_when_augmented": changed.accuracy,
            "share_from_outside": evidence.augment.mean_share_outside,
            "share_erased": evidence.augment.mean_share_erased,
            "share_mixed": evidence.augment.mean_share_mixed,
        },
        explanation=f"training images are known to {known.accuracy:.2f} as they are and to {changed.accuracy:.2f} when augmented; "
        f"training accuracy is {last.accuracy:.2f}, validation {last.val_accuracy:.2f}.",
        fix=_milder(params, evidence.augment),
    )


def _milder(params: Params | None, augment: AugmentEvidence) -> Fix:
    """What is more than moderate becomes mild, half of moderate; else no mirroring; else half of what is not tiny."""
    if params is None:
        return changes(None, dict(augment.too_strong)) or action("halve each strength of the augmentation")
    present = {name: getattr(params.augment, name) for name in MODERATE}
    chosen = [name for name, value in present.items() if value > MODERATE[name]]
    if not chosen and params.augment.horizontal_flip:
        return changes(params, {"augment.horizontal_flip": False})
    chosen = chosen or [name for name, value in present.items() if value > MODERATE[name] / 8]
    halves = {f"augment.{name}": rounded(min(present[name] / 2, MODERATE[name] / 2)) for name in chosen if present[name]}
    found = changes(params, halves)
    return found or action("change the images less (stages/shared/augmentation.py)")


def over_regularised(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Dropout or weight decay keeps the network from what it could learn.

    With dropout the same images are known far worse than without, and not well without it either; decay shrinks the weights faster than
    learning builds them up.
    """
    train = evidence.train
    known, dropped, validated = (probe(train, name) for name in ("A", "A_dropout", "V"))
    if train is None or known is None or dropped is None:
        return Missing("the probe with dropout at the end of training")
    gap, loss_gap = known.accuracy - dropped.accuracy, (dropped.loss - known.loss) / untrained_loss(train)
    shrunk = min((step.norm_share for step in train.steps), default=1.0)
    objective = train.objectives[-1] if train.objectives else None
    penalty = objective.penalty / max(objective.loss + objective.penalty, 1e-9) if objective else 0.0
    costs_loss = loss_gap >= MIN_DROPOUT_LOSS_GAP and len(train.epochs) >= 3 and wants_more(evidence)
    # Where nothing is known there is nothing that dropout could cost; and where a test has been passed it may, if training shows that
    # anything is learned.
    may_cost = (is_enough(evidence) and train.epochs[-1].loss < untrained_loss(train)) or skill(train, known.accuracy) < LITTLE_SKILL
    dropout_costs = (gap >= MIN_DROPOUT_GAP or costs_loss) and not may_cost
    reasons = {
        f"without dropout they are known to {known.accuracy:.2f}, and to {dropped.accuracy:.2f} with it": dropout_costs,
        f"the weights shrank to {shrunk:.2f} of their size, as weight decay makes them": shrunk <= SHRUNK,
        f"the penalty on the weights is {penalty:.0%} of what is minimised": penalty >= MUCH_PENALTY,
    }
    reason = next((told for told, holds in reasons.items() if holds), None)
    is_known = skill(train, known.accuracy) >= GOOD and known.loss < UNSURE * untrained_loss(train)
    overfits = validated is not None and known.accuracy - validated.accuracy >= MIN_GAP  # and is not held back
    if reason is None or is_known or overfits:
        return None
    dropout = min(0.2, params.train.dropout / 2) if params is not None else 0.2
    milder = {"train.dropout": dropout} if dropout_costs else {"train.weight_decay": 0.0}
    return Finding(
        fault="over-regularised",
        evidence={
            "accuracy_on_training": known.accuracy,
            "with_dropout": dropped.accuracy,
            "weights_shrunk_to": rounded(shrunk),
            "penalty_share": rounded(penalty),
        },
        explanation=f"the training images are known to {known.accuracy:.2f} only, with a loss of {known.loss:.2g}: {reason}.",
        fix=(changes(params, milder) if penalty < MUCH_PENALTY else ())
        or action("take down what is added to the loss in stages/shared/model.py"),
    )


def final_not_best(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The last weights were kept, and an earlier epoch was clearly better on validation.

    Something broke in the very end, or long before it; where that is by overfitting or by large steps, those are the cause.
    """
    train = evidence.train
    if train is None or len(train.epochs) < 3 or probe(train, "V") is None:
        return Missing("three epochs of training and the probe at their end")
    if probe(train, "V", "kept") is not None:
        return None
    accuracies = [epoch.val_accuracy for epoch in train.epochs]
    losses = [epoch.val_loss for epoch in train.epochs]
    best = best_epoch(losses)
    fall, rise = max(accuracies) - accuracies[-1], finite(losses[-1], math.inf) / max(losses[best], 1e-9)
    known, validated = probe(train, "A"), probe(train, "V")
    has_gap = known is not None and validated is not None and known.accuracy - validated.accuracy >= MIN_GAP
    is_by_heart = has_gap and known is not None and known.accuracy >= MEMORISED
    has_cause = has_gap or swing(losses[: best + 1], KNOWN_LOSS * untrained_loss(train)) > MAX_SWING
    is_sudden = finite(losses[-1], math.inf) >= SUDDEN * min(losses[-1 - LAST_EPOCHS : -1])
    is_fallen = fall >= MIN_FALL_FROM_BEST + chance_deviation(train.setup.num_val) and rise >= MIN_LOSS_ABOVE_BEST
    # As often right as before, and wrong with more confidence.
    by_one_image = LARGEST_LOSS / max(1, train.setup.num_val)
    counts = best > 0 and train.setup.num_val >= ENOUGH_IMAGES and losses[-1] - losses[best] > 2 * by_one_image
    is_overconfident = is_sudden and not has_cause and counts
    if is_by_heart or not (is_overconfident or (is_fallen and (is_sudden or not has_cause))):
        return None
    return Finding(
        fault="final-not-best",
        evidence={
            "best_epoch": best + 1,
            "best_accuracy": max(accuracies),
            "last_accuracy": accuracies[-1],
            "loss_above_best": rounded(rise),
        },
        explanation=f"validation accuracy was up to {max(accuracies):.2f} and is {accuracies[-1]:.2f} with the last weights, those kept; "
        f"validation loss {f'is {rise:.2g} times the lowest' if math.isfinite(rise) else 'is not finite'}.",
        fix=changes(params, {"train.restore_best_weights": True})
        or action("keep the best epoch's weights (BestWeights in stages/train.py)"),
    )


def capacity_limited(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Training and validation agree, both are flat, and both stay below what is wanted: the network or its images are too small.

    Counts where nothing else was found. What is wanted are the gates in params.yaml.
    """
    train, test = evidence.train, evidence.evaluate
    known, validated = probe(train, "A"), probe(train, "V")
    if train is None or test is None or known is None or validated is None or len(train.epochs) < 3:
        return Missing("the probe at the end of training, and the test")
    epochs = epochs_of(train, phase_reached(train))
    late = [epoch.val_loss for epoch in epochs[-3:]]
    flat = abs(late[0] - late[-1]) < FLAT * late[0]
    missed = [gate for gate in test.missed_gates if gate.split()[0] in QUALITY]
    is_like_test = abs(validated.accuracy - test.accuracy) < MIN_GAP
    if not missed or known.accuracy - validated.accuracy >= MIN_GAP or not flat or not is_like_test or validated.largest_share > ONE_ANSWER:
        return None
    return Finding(
        fault="capacity-limited",
        evidence={
            "accuracy_on_training": known.accuracy,
            "accuracy_on_validation": validated.accuracy,
            "missed": ", ".join(missed),
        },
        explanation=f"accuracy is {known.accuracy:.2f} on training images and {validated.accuracy:.2f} on validation, neither rises more, "
        f"and {', '.join(missed)} misses its gate.",
        fix=_larger(train, params),
    )


def _larger(train: TrainEvidence, params: Params | None) -> Fix:
    """Larger images, and more of the network trained, or a wider one; nothing smaller than it is."""
    if params is None:
        return action(LARGER)
    present = params.prepare.image_size_px
    least = SMALLEST_PUBLISHED_PX if train.setup.pretrained else 0
    values: dict[str, Any] = {"prepare.image_size_px": max(present, least, min(2 * present, 224))}
    if train.setup.pretrained:
        if not params.train.fine_tune_learning_rate:
            values["train.fine_tune_learning_rate"] = 1e-5
        values["train.fine_tune_epochs"] = max(5, params.train.fine_tune_epochs, params.train.warmup_epochs + 1)
        values["train.fine_tune_fraction"] = max(0.5, params.train.fine_tune_fraction)
    else:
        values["train.alpha"] = min((alpha for alpha in ALPHAS if alpha >= 2 * params.train.alpha), default=max(1.0, params.train.alpha))
    return changes(params, values) or action(LARGER)
