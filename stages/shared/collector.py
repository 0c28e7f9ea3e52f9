"""Keras callbacks that gather the evidence of a training, piece by piece, and stop it when the loss is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from stages.shared.augmentation import Draws, draw, random_numbers, unchanged
from stages.shared.batches import TrainBatches
from stages.shared.errors import NonFiniteLossError
from stages.shared.evidence import Epoch, NonFinite, Probe, Step
from stages.shared.prepared import Prepared

EvidenceSink = Callable[[str, BaseModel], None]
PROBE_IMAGES = 256
PROBE_SEED = 0


class EvidenceCollector(keras.callbacks.Callback):  # type: ignore[misc]
    """Hands each piece of evidence to ``sink`` as it comes: per epoch, and for sampled steps.

    Steps are sampled at powers of two from the start of the training (where an unsuitable rate shows at once) and once
    in the middle of each epoch.
    """

    def __init__(self, sink: EvidenceSink) -> None:
        super().__init__()
        self._sink = sink
        self.phase = ""
        self._epoch = 0
        self._num_steps_done = 0
        self._before: list[NDArray[Any]] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        number = self._num_steps_done
        is_power_of_two = number & (number - 1) == 0
        if is_power_of_two or batch == self.params["steps"] // 2:
            self._before = self._kernels()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss = float((logs or {})["loss"])
        self._num_steps_done += 1
        if self._before is not None:
            ratio = _update_ratio(self._before, self._kernels())
            self._sink("step", Step(phase=self.phase, epoch=self._epoch, step=batch, loss=loss, update_ratio=ratio))
            self._before = None
        if not math.isfinite(loss):
            self._sink("non_finite", NonFinite(phase=self.phase, epoch=self._epoch, step=batch, loss=loss))
            raise NonFiniteLossError(f"the training loss became {loss} at step {batch} of epoch {self._epoch} of the phase '{self.phase}'.")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        values = {name: float(logs[name]) for name in names}
        self._sink("epoch", Epoch(phase=self.phase, epoch=epoch, learning_rate=rate, **values))

    def _kernels(self) -> list[NDArray[Any]]:
        return [np.array(keras.ops.convert_to_numpy(weight)) for weight in self.model.trainable_variables if weight.ndim > 1]


def _update_ratio(before: list[NDArray[Any]], after: list[NDArray[Any]]) -> float:
    """Median over kernels of the norm of the change over the norm of the weights."""
    ratios = [
        float(np.linalg.norm((new - old).ravel()) / (np.linalg.norm(old.ravel()) + 1e-12)) for old, new in zip(before, after, strict=True)
    ]
    return float(np.median(ratios)) if ratios else 0.0


def probe(model: Any, train_batches: TrainBatches, val_set: Prepared, sink: EvidenceSink) -> None:
    """Evaluate the finished model on fixed subsets: A (training images as they are), A_augmented (the same, changed), V (validation)."""
    train_set, policy = train_batches.images, train_batches.policy
    train_rows, val_rows = _subset(len(train_set.labels)), _subset(len(val_set.labels))
    changes = draw(policy, random_numbers(PROBE_SEED, 0, len(train_rows)), train_set.size_px)
    for name, images, rows, drawn in (
        ("A", train_set, train_rows, unchanged(len(train_rows))),
        ("A_augmented", train_set, train_rows, changes),
        ("V", val_set, val_rows, unchanged(len(val_rows))),
    ):
        probabilities = _probabilities(model, images, rows, drawn, train_batches.batch_size)
        truth = images.labels[rows]
        losses = -np.log(np.clip(probabilities[np.arange(len(rows)), truth], 1e-7, 1))
        accuracy = float((probabilities.argmax(axis=1) == truth).mean())
        sink("probe", Probe(name=name, loss=float(losses.mean()), accuracy=accuracy, num_images=len(rows)))


def _probabilities(model: Any, images: Prepared, rows: NDArray[np.int64], changes: Draws, batch_size: int) -> NDArray[np.float32]:
    """Answers in inference mode for images that are changed as drawn, (len(rows), num_classes)."""
    answers = []
    for start in range(0, len(rows), batch_size):
        part = slice(start, start + batch_size)
        changed = model.get_layer("augmentation")(images.gather(rows[part]), changes.transforms[part], changes.colours[part], training=True)
        answers.append(keras.ops.convert_to_numpy(model.get_layer("classifier")(changed, training=False)))
    return np.concatenate(answers)


def _subset(num_images: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(PROBE_SEED).permutation(num_images)[:PROBE_IMAGES])
