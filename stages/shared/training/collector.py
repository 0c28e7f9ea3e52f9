"""Gathers the evidence of a training, piece by piece, and stops it when the loss is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from stages.shared.augmentation import change, draw, random_numbers
from stages.shared.errors import NonFiniteLossError
from stages.shared.evidence import Epoch, NonFinite, Probe, Step, TrainEvidence, from_parts
from stages.shared.prepared import Prepared
from stages.shared.training.batches import TrainBatches

EvidenceSink = Callable[[str, BaseModel], None]
PROBE_IMAGES = 256
PROBE_SEED = 0


class EvidenceLog:
    """All evidence so far; each piece goes to ``sink`` as it comes."""

    def __init__(self, sink: Callable[[str, dict[str, Any]], None]) -> None:
        self._sink = sink
        self._parts: list[tuple[str, dict[str, Any]]] = []

    def keep(self, name: str, part: BaseModel) -> None:
        """Add one piece."""
        self._add(name, part.model_dump(mode="json"))

    def _add(self, name: str, values: dict[str, Any]) -> None:
        self._parts.append((name, values))
        self._sink(name, values)

    def evidence(self) -> TrainEvidence | None:
        """All of it together; None as long as the setup is not known."""
        return from_parts(self._parts)

    def state(self) -> dict[str, Any]:
        return {"parts": self._parts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what was gathered before the training was cut off, also for the record of this run."""
        self._parts = []
        for name, values in state["parts"]:
            self._add(name, values)


class EvidenceCollector(keras.callbacks.Callback):  # type: ignore[misc]
    """Hands each piece of evidence to ``sink``: per epoch, and for sampled steps.

    Steps are sampled at powers of two from the start of each phase (where an unsuitable rate shows at once) and once in
    the middle of each epoch; of steps whose gradients are averaged, the last, which changes the weights.
    """

    def __init__(self, sink: EvidenceSink, batches: TrainBatches, gradient_accumulation_steps: int) -> None:
        super().__init__()
        self._sink, self._batches, self._steps_a_change = sink, batches, gradient_accumulation_steps
        self._phase = ""
        self._epoch = 0
        self._num_steps_done = 0
        self._before: list[NDArray[Any]] | None = None

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        self._phase, self._num_steps_done = phase, 0

    def state(self) -> dict[str, Any]:
        return {"num_steps_done": self._num_steps_done}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._num_steps_done = state["num_steps_done"]

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._is_sampled(self._step(batch)):
            self._before = kernels(self.model)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss, step = float((logs or {})["loss"]), self._step(batch)
        self._num_steps_done += 1
        if self._before is not None:
            ratio = _update_ratio(self._before, kernels(self.model))
            self._sink("step", Step(phase=self._phase, epoch=self._epoch, step=step, loss=loss, update_ratio=ratio))
            self._before = None
        if not math.isfinite(loss):
            self._sink("non_finite", NonFinite(phase=self._phase, epoch=self._epoch, step=step, loss=loss))
            raise NonFiniteLossError(f"the training loss became {loss} at step {step} of epoch {self._epoch} of the phase '{self._phase}'.")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        values = {name: float(logs[name]) for name in names}
        self._sink("epoch", Epoch(phase=self._phase, epoch=epoch, learning_rate=rate, **values))

    def _is_sampled(self, step: int) -> bool:
        number, rest = divmod(self._num_steps_done + 1, self._steps_a_change)
        changes = rest == 0
        is_power_of_two = (number - 1) & (number - 2) == 0
        middle = self._batches.num_steps // 2
        return changes and (is_power_of_two or middle <= step < middle + self._steps_a_change)

    def _step(self, batch: int) -> int:
        return self._batches.first_step + batch


def kernels(model: Any) -> list[NDArray[Any]]:
    """Copies of the trainable weights, without those of BatchNorm and the biases."""
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.trainable_variables if weight.ndim > 1]


def _update_ratio(before: list[NDArray[Any]], after: list[NDArray[Any]]) -> float:
    """Median over kernels of the norm of the change over the norm of the weights."""
    ratios = [
        float(np.linalg.norm((new - old).ravel()) / (np.linalg.norm(old.ravel()) + 1e-12)) for old, new in zip(before, after, strict=True)
    ]
    return float(np.median(ratios)) if ratios else 0.0


def probe(classifier: Any, train_batches: TrainBatches, val_set: Prepared, sink: EvidenceSink) -> None:
    """Evaluate the finished model on fixed subsets: A (training images as they are), A_augmented (the same, changed), V (validation)."""
    train_set, policy = train_batches.images, train_batches.policy
    train_rows, val_rows = _subset(len(train_set.labels)), _subset(len(val_set.labels))
    plain = train_set.gather(train_rows)
    changed = change(list(plain), draw(policy, random_numbers(PROBE_SEED, 0, len(plain)), train_set.size_px), policy.fill_mode)
    for name, images, truth in (
        ("A", plain, train_set.labels[train_rows]),
        ("A_augmented", changed, train_set.labels[train_rows]),
        ("V", val_set.gather(val_rows), val_set.labels[val_rows]),
    ):
        probabilities = _probabilities(classifier, images, train_batches.batch_size)
        losses = -np.log(np.clip(probabilities[np.arange(len(truth)), truth], 1e-7, 1))
        accuracy = float((probabilities.argmax(axis=1) == truth).mean())
        sink("probe", Probe(name=name, loss=float(losses.mean()), accuracy=accuracy, num_images=len(truth)))


def _probabilities(classifier: Any, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Answers in inference mode, (n, num_classes)."""
    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return np.concatenate([keras.ops.convert_to_numpy(classifier(part, training=False)) for part in parts])


def _subset(num_images: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(PROBE_SEED).permutation(num_images)[:PROBE_IMAGES])
