"""The probe: the classifier asked about fixed images in several ways, which tells look-alike curves apart.

Every question is put beside training: nothing of the model, its random generators or its optimizer changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from stages.shared import model
from stages.shared.augmentation import change, draw, random_numbers
from stages.shared.evidence import EvidenceSink, Inputs, Objective, Probe
from stages.shared.prepared import Prepared
from stages.shared.training.batches import PlainBatches, TrainBatches, one_hot
from stages.shared.training.beside import Beside

PROBE_IMAGES = 256
INPUT_IMAGES = 64  # whose pixels are compared at the backbone
SEED = 0
# Pixels (of 3 channels) that go through the classifier at a time where answers do not depend on it: 256 images of 64 px. Most of a call's
# time is the same for few images as for many.
PIXELS_A_CALL = 2**20
SMALLEST_PROBABILITY = 1e-7  # Keras's own clipping (keras.config.epsilon)
# The start, the moments in between and the end of the first phase cost a pass over both subsets; the end asks all.
BRIEF = ("A", "V")
WHOLE = ("A", "A_batch", "A_dropout", "A_augmented", "B", "V", "V_batch")

Answers = NDArray[np.float32]


class Prober:
    """Asks a classifier about the same images each time: up to 256 of training, of which none is augmented, and 256 of validation."""

    def __init__(self, classifier: Any, batches: TrainBatches, validation: PlainBatches, sink: EvidenceSink) -> None:
        self._classifier, self._batches, self._validation, self._sink = classifier, batches, validation, sink
        self._train_rows, self._val_rows = _subset(batches.images), _subset(validation.images)
        self._features = Beside(keras.Model(classifier.inputs, classifier.get_layer(model.POOL_LAYER).output))
        self._scaled = Beside(classifier.get_layer(model.INPUT_LAYER))
        names = [layer.name for layer in classifier.layers]
        self._after_pooling = [(layer, Beside(layer)) for layer in classifier.layers[names.index(model.POOL_LAYER) + 1 :]]
        # The training images by the code that reads validation's.
        self._as_validation = PlainBatches(batches.images, batches.batch_size)

    def look_at_inputs(self) -> Inputs:
        """What arrives at the backbone, before anything is trained."""
        rows = self._train_rows[:INPUT_IMAGES]
        raw, by_train, by_val = self._batches.images.gather(rows), self._batches.read(rows), self._as_validation.read(rows)
        train, val = (self._at_backbone(images) for images in (by_train, by_val))
        expected = raw.astype(np.float32) / 127.5 - 1
        found = Inputs(
            **_by_channel("train", train),
            **_by_channel("val", val),
            **_by_channel("expected", expected, ("mean", "deviation")),
            difference=float(np.abs(train - val).mean()),
        )
        self._sink(found)
        return found

    def ask(self, moment: str, epoch: int, names: tuple[str, ...] = WHOLE) -> None:
        """Put the questions ``names`` to the present weights; ``epoch`` counts over both phases."""
        treatments = self._treatments()
        for name in names:
            answers = treatments[name]()
            if answers is not None:
                self._sink(_judged(answers, self._truth(name), moment=moment, epoch=epoch, name=name))
            if answers is not None and name == "V" and moment == "end":
                self._sink(self._objective(answers, self._truth(name), epoch))

    def _truth(self, name: str) -> NDArray[np.int64]:
        images, rows = (self._validation.images, self._val_rows) if name.startswith("V") else (self._batches.images, self._train_rows)
        return images.labels[rows]

    def _treatments(self) -> dict[str, Callable[[], Answers | None]]:
        """By question, what gives class probabilities (n, num_classes); None where they cannot differ from those of A, or of V."""
        trained, validated = self._batches.read(self._train_rows), self._validation.read(self._val_rows)
        by_validation = self._as_validation.read(self._train_rows)
        learns_statistics = any(layer.trainable for layer in model.batchnorm_layers(self._classifier))
        is_augmented = self._batches.policy.changes_images
        features = functools.cache(lambda: self._pooled(trained))
        by_batch = functools.partial(self._pooled, training=True)
        return {
            "A": lambda: self._classified(features()),
            "A_batch": lambda: self._classified(by_batch(trained)) if learns_statistics else None,
            "A_dropout": lambda: self._classified(features(), dropping=True),
            "A_augmented": lambda: self._classified(self._pooled(self._augmented(trained))) if is_augmented else None,
            "B": lambda: None if np.array_equal(by_validation, trained) else self._classified(self._pooled(by_validation)),
            "V": lambda: self._classified(self._pooled(validated)),
            "V_batch": lambda: self._classified(by_batch(validated)) if learns_statistics else None,
        }

    def _augmented(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        policy = self._batches.policy
        return change(list(images), draw(policy, random_numbers(SEED, 0, len(images)), images.shape[1]), policy.fill_mode)

    def _pooled(self, images: NDArray[Any], *, training: bool = False) -> Answers:
        """Features (n, num_features) of images; in training, BatchNorm layers that are trained go by the statistics of the batch."""
        size = self._batches.batch_size if training else self._num_a_call()
        return _in_parts(functools.partial(self._features, training=training), images, size)

    def _classified(self, features: Answers, *, dropping: bool = False) -> Answers:
        """The answers to features by the layers after the pooling, without dropout or with a fixed draw of it."""
        for layer, asked in self._after_pooling:
            if not isinstance(layer, keras.layers.Dropout):
                features = _in_parts(asked, features, len(features))
            elif dropping:
                kept = np.random.default_rng(SEED).random(features.shape) >= layer.rate
                features = (features * kept / (1 - layer.rate)).astype(np.float32)
        return features

    def _num_a_call(self) -> int:
        return max(1, PIXELS_A_CALL // self._batches.images.size_px**2)

    def _at_backbone(self, images: NDArray[Any]) -> NDArray[np.float32]:
        return _in_parts(self._scaled, images, self._num_a_call())

    def _objective(self, answers: Answers, truth: NDArray[np.int64], epoch: int) -> Objective:
        targets = one_hot(truth, answers.shape[1])
        smoothing = getattr(self._classifier.loss, "label_smoothing", 0.0)
        smoothed = targets * (1 - smoothing) + smoothing / answers.shape[1]
        recomputed = -(smoothed * np.log(np.clip(answers, SMALLEST_PROBABILITY, 1))).sum(axis=1).mean()
        return Objective(
            epoch=epoch,
            loss=float(keras.ops.convert_to_numpy(self._classifier.loss(targets, answers))),
            recomputed_loss=float(recomputed),
            penalty=float(sum(keras.ops.convert_to_numpy(penalty) for penalty in self._classifier.losses)),
            output_low=float(answers.min()),
            output_high=float(answers.max()),
            output_sum=float(answers.sum(axis=1).mean()),
        )


def _in_parts(answer: Callable[[Any], Any], inputs: NDArray[Any], size: int) -> Answers:
    parts = [keras.ops.convert_to_numpy(answer(inputs[start : start + size])) for start in range(0, len(inputs), size)]
    return np.concatenate(parts).astype(np.float32)


def _judged(answers: Answers, truth: NDArray[np.int64], *, moment: str, epoch: int, name: str) -> Probe:
    num_classes = answers.shape[1]
    predicted = answers.argmax(axis=1)
    losses = -np.log(np.clip(answers[np.arange(len(truth)), truth], SMALLEST_PROBABILITY, 1))
    halves = np.zeros((2, num_classes, num_classes), np.int64)
    np.add.at(halves, (np.arange(len(truth)) % 2, truth, predicted), 1)
    return Probe(
        moment=moment,
        epoch=epoch,
        name=name,
        loss=float(losses.mean()),
        accuracy=float((predicted == truth).mean()),
        num_images=len(truth),
        matched_accuracy=_matched(halves) / len(truth),
        largest_share=float(halves.sum(axis=(0, 1)).max() / len(truth)),
    )


def _matched(halves: NDArray[np.int64]) -> int:
    """Right answers if the classes were renamed as suits the other half best; ``halves`` counts (half, true, answered).

    On the half that it suits best, a renaming finds much among many classes by chance.
    """
    return int(sum(mine[linear_sum_assignment(other, maximize=True)].sum() for mine, other in (halves, halves[::-1])))


def _by_channel(prefix: str, values: NDArray[np.float32], names: Sequence[str] = ("low", "high", "mean", "deviation")) -> dict[str, Any]:
    """Figures of images (n, height, width, 3), each (3,), under the names that ``Inputs`` gives them."""
    axes = (0, 1, 2)
    figures: dict[str, Callable[[], Any]] = {
        "low": lambda: values.min(axes),
        "high": lambda: values.max(axes),
        "mean": lambda: values.mean(axes, np.float64),
        "deviation": lambda: values.std(axes, np.float64),
    }
    return {f"{prefix}_{name}": tuple(map(float, figures[name]())) for name in names}


def _subset(images: Prepared) -> NDArray[np.int64]:
    """The same rows each time, in an order in which the classes are mixed."""
    return np.random.default_rng(SEED).permutation(len(images.labels))[:PROBE_IMAGES]
