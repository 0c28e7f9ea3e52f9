"""Rules about the speed of learning: too slow, slowed down, or ended too early."""

from __future__ import annotations

import itertools
from typing import Literal

from stages.shared.evidence import FINE_TUNE, HEAD, PHASES, Epoch, Evidence, TrainEvidence, skill, untrained_loss
from stages.shared.params import Params
from stages.shared.rules.outcome import Finding, Fix, Missing, action, changes, rounded
from stages.shared.rules.signals import (
    KNOWN_LOSS,
    MUCH_MIXED,
    USUAL_RATES,
    WARM_UP_STEPS,
    best_epoch,
    change_of,
    epochs_of,
    finite,
    is_enough,
    probe,
    rate_of,
    steps_of,
    still_from,
    typical_ratio,
    usual_rate,
    wants_more,
)

LOW_RATIO = 6e-4
STILL_RATIO = 1e-6  # below it a loss may rise and fall by chance alone
LITTLE_FALL = 0.35  # times ln K
# Of a rate that is usual for others they make so small steps that little is learned.
SLOW_OPTIMIZERS, USUAL_FOR_OTHERS = ("sgd", "adagrad", "adadelta"), 3e-4
# A loss that is lower later in such a share of all pairs of epochs (as in Kendall's tau), and is still so high (times ln K) when the images
# are known with so much skill, has further to fall.
STEADY, LAGGING_LOSS, HALF_LEARNED = 0.82, 0.35, 0.75
COLLAPSED_RATE = 2e-3  # of the highest one
FELL_BEFORE = 0.05  # of the loss, in the three epochs before
PLATEAU = 3  # epochs without a better validation loss, after which a rate may well fall
WELL_KNOWN = 0.95  # skill on training images with which a rate may well fall
RUN_DOWN = 0.3  # of the highest rate: a schedule has come to its end
MIN_GAIN_AN_EPOCH = 0.05
ENOUGH_EPOCHS = 12


def learning_rate_too_low(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The loss falls steadily, yet by little in all, because each step hardly changes the weights."""
    found = _slow(evidence)
    if found is None or isinstance(found, Missing) or _is_unsuitable(found[0]):
        return found if isinstance(found, Missing) else None
    train, ratio, fall = found
    key, present = rate_of(train, params, HEAD)
    return Finding(
        fault="learning-rate-too-low",
        severity="critical",
        evidence=_of_slow(train, ratio, fall),
        explanation=_told_of_slow(train, ratio, fall),
        fix=changes(params, {key: rounded(max(usual_rate(train), 10 * present))}),
    )


def unsuitable_optimizer(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The loss falls too slowly at a usual rate, because this optimizer makes little of it: Adadelta, Adagrad or SGD.

    It hardly falls in all, or steadily to the end of the schedule, and is far from learned even so. Another optimizer, or a rate many times
    as high, are both right.
    """
    found = _slow(evidence) or _lagging(evidence)
    if found is None or isinstance(found, Missing) or not _is_unsuitable(found[0]):
        return found if isinstance(found, Missing) else None
    train, ratio, fall = found
    return Finding(
        fault="unsuitable-optimizer",
        severity="critical",
        evidence={**_of_slow(train, ratio, fall), "optimizer": train.setup.optimizer},
        explanation=f"{_told_of_slow(train, ratio, fall)} The rate would do for Adam; {train.setup.optimizer} makes little of it.",
        fix=changes(params, {"train.optimizer": "adam", "train.learning_rate": usual_rate(train, "adam")}),
    )


def _slow(evidence: Evidence) -> tuple[TrainEvidence, float, float] | Missing | None:
    """The training, the typical ratio and the fall of the loss of its first phase, if that learns too slowly because of small steps."""
    train = evidence.train
    steps, epochs = (steps_of(train, HEAD), epochs_of(train, HEAD)) if train else ((), ())
    if train is None or len(epochs) < 2 or not steps:
        return Missing("two epochs of training and their updates")
    chance, ratio = untrained_loss(train), typical_ratio(steps)
    first = next((first.loss for first in train.first_steps if first.phase == HEAD), epochs[0].loss)
    fall = max(first, epochs[0].loss) - epochs[-1].loss
    falls = epochs[-1].loss < epochs[0].loss or ratio < STILL_RATIO
    known = skill(train, max(train.epochs[-1].accuracy, finite(train.epochs[-1].val_accuracy, 0.0)))
    if max(epoch.learning_rate for epoch in epochs) >= USUAL_RATES.get(train.setup.optimizer, 1e-3):
        return None  # then it is the data that are hard
    is_little = fall <= LITTLE_FALL * chance or epochs[-1].loss >= chance
    if not 0 < ratio < LOW_RATIO or not falls or not is_little or known > HALF_LEARNED:
        return None
    return train, ratio, fall


def _lagging(evidence: Evidence) -> tuple[TrainEvidence, float, float] | None:
    """The same of a training whose loss fell to the end of its first phase, the only one, and whose images are half learned."""
    train, known = evidence.train, probe(evidence.train, "A")
    is_mixed = evidence.augment is not None and evidence.augment.mean_share_mixed > MUCH_MIXED  # and the loss high anyway
    if train is None or known is None or is_mixed or epochs_of(train, FINE_TUNE) or skill(train, known.accuracy) > HALF_LEARNED:
        return None
    epochs = epochs_of(train, HEAD)
    if max((epoch.learning_rate for epoch in epochs), default=0.0) >= USUAL_RATES.get(train.setup.optimizer, 1e-3) / 2:
        return None  # then it is the data that are hard
    losses = [epoch.loss for epoch in epochs]
    pairs = list(itertools.combinations(losses, 2))
    num_falls = sum(after < before for before, after in pairs)
    if len(losses) < 4 or num_falls < STEADY * len(pairs) or losses[-1] < LAGGING_LOSS * untrained_loss(train):
        return None
    return train, typical_ratio(steps_of(train, HEAD)), losses[0] - losses[-1]


def _is_unsuitable(train: TrainEvidence) -> bool:
    """Whether the rate is one that would do for Adam."""
    rate = max(epoch.learning_rate for epoch in epochs_of(train, HEAD))
    return train.setup.optimizer in SLOW_OPTIMIZERS and rate >= USUAL_FOR_OTHERS


def _of_slow(train: TrainEvidence, ratio: float, fall: float) -> dict[str, float | str]:
    return {"loss": rounded(epochs_of(train, HEAD)[-1].loss), "fall": rounded(fall), "typical_update_ratio": rounded(ratio)}


def _told_of_slow(train: TrainEvidence, ratio: float, fall: float) -> str:
    epochs = epochs_of(train, HEAD)
    return (
        f"the loss fell by {fall:.2g} in {len(epochs)} epochs and is still {epochs[-1].loss:.3g}; "
        f"a step changes the weights by {ratio:.1e} of their size."
    )


def learning_rate_collapsed(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The schedule took the rate down to nothing long before the end, while the loss was still falling.

    A plateau schedule without patience takes every noisy epoch for a plateau.
    """
    train = evidence.train
    if train is None or max(len(epochs_of(train, phase)) for phase in PHASES) < 4:
        return Missing("four epochs of a phase")
    found = collapse(train)
    if found is None:
        return None
    phase, collapsed = found
    rates = [epoch.learning_rate for epoch in epochs_of(train, phase)]
    changed = max((change_of(step) for step in steps_of(train, phase)), default=0.0)
    fall = (
        f"the rate fell from {max(rates):.2g} to {rates[collapsed]:.2g} by epoch {collapsed + 1} of {len(rates)}"
        if rates[collapsed] < max(rates)
        else f"a step changed the weights by up to {changed:.1e} of their size, and by nothing from epoch {collapsed + 1} of {len(rates)} "
        f"on, at a rate of {rates[collapsed]:.2g}"
    )
    return Finding(
        fault="learning-rate-collapsed",
        evidence={"epoch": collapsed + 1, "num_epochs": len(rates), "highest_rate": max(rates), "last_rate": rates[-1]},
        explanation=f"{fall}; what came after changed nothing.",
        fix=_later_fall(params),
    )


def _collapsed_at(train: TrainEvidence, phase: str) -> int | None:
    """The epoch of a phase from which its rate is next to nothing, if that is early and not all had been learned."""
    epochs = epochs_of(train, phase)
    rates = [epoch.learning_rate for epoch in epochs]
    known = probe(train, "A")
    if not rates or (known is not None and skill(train, known.accuracy) >= WELL_KNOWN):
        return None
    fallen = (i for i, rate in enumerate(rates) if rate <= COLLAPSED_RATE * max(rates))
    collapsed = next(fallen, len(rates)) if max(rates) > 0 else still_from(train, phase)
    if best_epoch([epoch.val_loss for epoch in epochs[:collapsed]] or [0.0]) < collapsed - PLATEAU:
        return None  # it fell for good reason
    if not 0 < collapsed <= 0.6 * len(rates) or collapsed == len(rates) - 1:
        return None
    before, last = epochs[max(0, collapsed - 4)].loss, epochs[collapsed - 1].loss
    fell = last < (1 - FELL_BEFORE) * before or collapsed == 1
    return collapsed if fell and epochs[collapsed].loss > KNOWN_LOSS * untrained_loss(train) else None


def collapse(train: TrainEvidence) -> tuple[str, int] | None:
    """The phase whose rate collapsed, and the epoch in it."""
    return next(((phase, at) for phase in PHASES if (at := _collapsed_at(train, phase)) is not None), None)


def _later_fall(params: Params | None) -> Fix:
    if params is not None and params.train.schedule == "plateau":
        patience, factor = max(3, params.train.plateau_patience), max(0.5, params.train.plateau_factor)
        patient = changes(params, {"train.plateau_patience": patience, "train.plateau_factor": factor})
        return patient or changes(params, {"train.schedule": "cosine"})
    return changes(params, {"train.schedule": "cosine"}) or action("let the rate fall later: a higher floor, or fewer falls")


def under_trained(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Training ended while the loss was still falling: it needed more epochs, or more patience with one that was no better.

    Validation loss tells; where it is noisy, training loss. It counts where a gate is missed, or where nothing has been tested.
    """
    train = evidence.train
    if train is None or not train.epochs or evidence.failure is not None or train.non_finite is not None:
        return Missing("the end of a training")
    phase = train.epochs[-1].phase
    epochs = epochs_of(train, phase)
    losses = [epoch.val_loss for epoch in epochs]
    was_meant = epochs[-1].learning_rate <= RUN_DOWN * max(epoch.learning_rate for epoch in epochs)
    num_steps = sum(epoch.num_steps for epoch in train.epochs)
    # What is wanted are the gates; where nothing has been tested yet, a rate run down says that it was enough, if there were steps enough.
    was_enough = is_enough(evidence) or (evidence.evaluate is None and was_meant and num_steps >= 2 * WARM_UP_STEPS)
    if was_enough or not losses[-1] >= KNOWN_LOSS * untrained_loss(train):
        return None
    waited = len(losses) - 1 - best_epoch(losses)
    stopped = any(stop.phase == phase for stop in train.stops)
    impatient = stopped and waited == 1
    gain = _gain_an_epoch(train, epochs[: len(epochs) - waited], "val_loss") if waited == 0 or impatient else 0.0
    followed = "validation"
    least = MIN_GAIN_AN_EPOCH * (2 if was_meant else 1)
    if gain < least and waited <= 1 and wants_more(evidence):
        gain, followed = (_gain_an_epoch(train, epochs, "loss") if len(train.epochs) > 1 else 1.0), "training"
    if gain < least:
        return None
    key, planned = {HEAD: ("train.epochs", train.setup.num_head_epochs)}.get(
        phase, ("train.fine_tune_epochs", train.setup.num_fine_tune_epochs)
    )
    reason = (
        f"training ended after {len(losses)} of {planned} epochs, at the first whose validation loss was no better"
        if impatient
        else "training ended after a single epoch"
        if len(train.epochs) == 1
        else f"{followed} loss still fell by {gain:.0%} an epoch when training ended after {len(losses)}, validation at {losses[-1]:.3g}"
    )
    longer = changes(params, {key: max(ENOUGH_EPOCHS, 3 * len(epochs), planned)})
    return Finding(
        fault="under-trained",
        evidence={"num_epochs": len(losses), "last_validation_loss": losses[-1], "gain_an_epoch": rounded(gain), "waited": waited},
        explanation=f"{reason}.",
        fix=(changes(params, {"train.early_stopping_patience": 5}) if stopped else ()) or longer or action("train for longer"),
    )


def _gain_an_epoch(train: TrainEvidence, epochs: tuple[Epoch, ...], name: Literal["loss", "val_loss"]) -> float:
    """By how much of itself a loss fell in an epoch, over the last three of a phase; in a single one, from the loss before it."""
    losses = [getattr(epoch, name) for epoch in epochs[-3:]]
    if len(losses) == 1:
        before = [getattr(epoch, name) for epoch in train.epochs if epoch.phase != epochs[0].phase]
        losses = [before[-1] if before else untrained_loss(train), *losses]
    return float((losses[0] - losses[-1]) / (len(losses) - 1) / max(losses[0], 1e-9))
