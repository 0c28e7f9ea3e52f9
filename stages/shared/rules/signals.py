"""What several rules read from the evidence of a training."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from stages.shared.evidence import FINE_TUNE, HEAD, Epoch, Evidence, Probe, Step, TrainEvidence
from stages.shared.params import Params

RATES = {HEAD: "train.learning_rate", FINE_TUNE: "train.fine_tune_learning_rate"}
# A usual step changes the weights by about a thousandth (Karpathy, CS231n notes, 'ratio of weights:updates').
USUAL_RATIO = 2e-3
USUAL_RATES = {"adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3, "sgd": 1e-2, "adagrad": 1e-2, "adadelta": 1.0}
WARM_UP_STEPS = 60  # fewer steps are too few to learn in, at any rate
UNLEARNED_LOSS = 0.8  # times ln K
ENOUGH_IMAGES = 100  # of validation, for its loss not to swing by chance
LARGEST_LOSS = 16.0  # of one image: -ln of the smallest probability that Keras reckons with (keras.config.epsilon)
MAX_SWING = 0.5  # of validation loss, from epoch to epoch
MUCH_MIXED = 0.1  # of an image is its partner
KNOWN_LOSS = 0.1  # times ln K: hardly anything is left to learn


def probe(train: TrainEvidence | None, name: str, moment: str = "end") -> Probe | None:
    """The last answer to a question at some moment."""
    return next((found for found in reversed(train.probes) if (found.name, found.moment) == (name, moment)), None) if train else None


def epochs_of(train: TrainEvidence, phase: str) -> tuple[Epoch, ...]:
    return tuple(epoch for epoch in train.epochs if epoch.phase == phase)


def steps_of(train: TrainEvidence, phase: str) -> tuple[Step, ...]:
    return tuple(step for step in train.steps if step.phase == phase)


def phase_reached(train: TrainEvidence) -> str:
    """The phase in which the training ended."""
    return train.steps[-1].phase if train.steps else HEAD


def rate_of(train: TrainEvidence, params: Params | None, phase: str) -> tuple[str, float]:
    """The parameter of a phase's rate, and its value."""
    if params is not None:
        return RATES[phase], {HEAD: params.train.learning_rate, FINE_TUNE: params.train.fine_tune_learning_rate}[phase]
    return RATES[phase], max((epoch.learning_rate for epoch in epochs_of(train, phase)), default=1e-3)


def size(ratio: float) -> float:
    """A change that is not a number is beyond all measure."""
    return ratio if math.isfinite(ratio) else math.inf


def usual_rate(train: TrainEvidence, optimizer: str = "") -> float:
    """Of an optimizer, or of the present one; a whole network bears more than a head on features that it must not unlearn."""
    return USUAL_RATES.get(optimizer or train.setup.optimizer, 1e-3) * (1 if train.setup.pretrained else 3)


def change_of(step: Step) -> float:
    """|change| of a step over |weights|; of weights that have shrunk, over what they were when the phase began."""
    return size(step.update_ratio) * min(1.0, finite(step.norm_share, 1.0))


def typical_ratio(steps: Sequence[Step]) -> float:
    """The median change of a step, past the first epoch where there are others, and with the rate not yet run down."""
    late = [step for step in steps if step.epoch > 0] or steps
    half = late[: max(1, (len(late) + 1) // 2)]  # schedules let the rate fall to nothing in the end
    return statistics.median(change_of(step) for step in half)


def wants_more(evidence: Evidence) -> bool:
    """Whether the test misses a gate, by which params.yaml says what is wanted."""
    return evidence.evaluate is not None and bool(evidence.evaluate.missed_gates)


def is_enough(evidence: Evidence) -> bool:
    """Whether a test has been passed: nobody who is content wants to hear what could be better still."""
    return evidence.evaluate is not None and not evidence.evaluate.missed_gates


def still_from(train: TrainEvidence, phase: str) -> int:
    """The epoch of a phase from which no sampled step changed a weight any more; past the last if none ever did, or but one says so."""
    steps, num_epochs = steps_of(train, phase), len(epochs_of(train, phase))
    first = max((step.epoch + 1 for step in steps if step.unchanged_share < 1), default=num_epochs)
    return first if sum(step.epoch >= first for step in steps) > 1 else num_epochs


def finite(value: float, otherwise: float) -> float:
    return value if math.isfinite(value) else otherwise


def best_epoch(losses: Sequence[float]) -> int:
    """Where a loss is lowest; NaN counts as infinite."""
    return min(range(len(losses)), key=lambda i: finite(losses[i], math.inf))


def swing(losses: Sequence[float], least: float) -> float:
    """How much a loss goes up and down from epoch to epoch in its second half, over its lowest there, or over ``least``."""
    late = [finite(loss, 1e9) for loss in losses[len(losses) // 2 :]]
    if len(late) < 3:
        return 0.0
    return statistics.median(abs(b - a) for a, b in itertools.pairwise(late)) / max(min(late), least)


def chance_deviation(num_images: int) -> float:
    """The standard deviation of an accuracy measured on so many images, at most."""
    return float((0.25 / max(1, num_images)) ** 0.5)
