"""Gathers the evidence of a training, piece by piece, and stops it when the loss is not finite or nothing can come of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from stages.shared.errors import HopelessError, NonFiniteLossError
from stages.shared.evidence import Epoch, EvidenceSink, NonFinite, Part, Step, TrainEvidence, from_parts, name_of
from stages.shared.training import hopeless, signals, stream
from stages.shared.training.batches import Batch, TrainBatches
from stages.shared.training.probe import BRIEF, Prober

# Epochs whose order is looked at: the second tells whether it changes what the first shows.
ORDERED_EPOCHS = 2
# Images trained on between two probes. A brief probe passes 512 images forward, a third of the work of training on them: a quarter percent.
IMAGES_BETWEEN_PROBES = 70_000


class EvidenceLog:
    """All evidence so far; each piece goes to ``sink`` as it comes."""

    def __init__(self, sink: Callable[[str, dict[str, Any]], None]) -> None:
        self._sink = sink
        self._parts: list[tuple[str, dict[str, Any]]] = []

    def keep(self, part: Part) -> None:
        """Add one piece."""
        self._add(name_of(part), part.model_dump(mode="json"))

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
    """Hands each piece of evidence to ``sink``: per epoch, for sampled steps, and now and then the probe's answers.

    Steps are sampled at powers of two from the start of each phase (where an unsuitable rate shows at once) and once in
    the middle of each epoch. Where gradients of several steps are averaged, a sample spans as many, of which one changes the weights:
    which one, only the optimizer knows once it has left out a step.
    """

    def __init__(self, sink: EvidenceSink, batches: TrainBatches, prober: Prober, gradient_accumulation_steps: int) -> None:
        super().__init__()
        self._sink, self._batches, self._prober = sink, batches, prober
        self._steps_a_change = gradient_accumulation_steps
        self._phase = ""
        self._epoch = 0
        self._num_steps_done = 0
        self._num_epoch_steps = 0
        self._num_unprobed_steps = 0
        self._first_norms: list[float] = []
        self._before: list[NDArray[Any]] | None = None

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        self._phase, self._num_steps_done, self._first_norms = phase, 0, []

    def state(self) -> dict[str, Any]:
        return {
            "num_steps_done": self._num_steps_done,
            "num_unprobed_steps": self._num_unprobed_steps,
            "first_norms": self._first_norms,
            "weights": self._before or [],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._num_steps_done, self._num_unprobed_steps = state["num_steps_done"], state["num_unprobed_steps"]
        self._first_norms, self._before = state["first_norms"], list(state["weights"]) or None

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch, self._num_epoch_steps = epoch, self._batches.first_step
        if not self._first_norms:
            self._first_norms = _norms(kernels(self.model))
        if self._batches.first_step == 0 and self._batches.epoch < ORDERED_EPOCHS:
            self._sink(stream.order(self._batches, self._batches.epoch))
            if self._batches.epoch == 0:
                self._sink(stream.variants(self._batches, 0))

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._num_steps_done % self._steps_a_change == 0 and self._is_sampled(self._step(batch)):
            self._before = kernels(self.model)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss, step = float((logs or {})["loss"]), self._step(batch)
        self._num_steps_done += 1
        self._num_epoch_steps += 1
        self._num_unprobed_steps += 1
        if self._before is not None and self._num_steps_done % self._steps_a_change == 0:
            self._sink(Step(phase=self._phase, epoch=self._epoch, step=step, loss=loss, **self._changes(self._before)))
            self._before = None
        if not math.isfinite(loss):
            source = _not_finite(self._batches.make(self._batches.epoch, step))
            self._sink(NonFinite(phase=self._phase, epoch=self._epoch, step=step, loss=loss, source=source))
            raise NonFiniteLossError(f"the training loss became {loss} at step {step} of epoch {self._epoch} of the phase '{self._phase}'.")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        values: dict[str, Any] = {name: float(logs.get(name, math.nan)) for name in names}
        values |= {"num_steps": self._num_epoch_steps, "has_validation": "val_loss" in logs}
        self._sink(Epoch(phase=self._phase, epoch=epoch, learning_rate=rate, **values))
        if epoch == 0:
            batch = self._batches.make(self._batches.epoch, 0)
            self._sink(signals.gradients(self.model, batch, self._phase, epoch))
            self._sink(signals.activations(self.model, batch[0], self._phase, epoch))
        if self._num_unprobed_steps * self._batches.batch_size >= IMAGES_BETWEEN_PROBES:
            self._num_unprobed_steps = 0
            self._prober.ask("between", self._batches.epoch, BRIEF)

    def _changes(self, before: list[NDArray[Any]]) -> dict[str, float]:
        """The figures of a step from the kernels before it and now."""
        after = kernels(self.model)
        old_norms = _norms(before)
        sizes = _norms([new - old for old, new in zip(before, after, strict=True)])
        ratios = [size / (norm + 1e-12) for size, norm in zip(sizes, old_norms, strict=True)] or [0.0]
        shares = [now / (first + 1e-12) for first, now in zip(self._first_norms, _norms(after), strict=True)] or [1.0]
        return {
            "update_ratio": float(np.median(ratios)),
            "highest_ratio": float(np.max(ratios)),
            "unchanged_share": float(np.mean([ratio == 0 for ratio in ratios])),
            "norm_share": float(np.median(shares)),
        }

    def _is_sampled(self, step: int) -> bool:
        """Whether the change that begins with ``step`` of the epoch is looked at."""
        number = self._num_steps_done // self._steps_a_change  # of changes before it
        last, middle = step + self._steps_a_change - 1, self._batches.num_steps // 2
        return number & (number - 1) == 0 or middle <= last < middle + self._steps_a_change

    def _step(self, batch: int) -> int:
        return self._batches.first_step + batch


class StopWhenHopeless(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends a training of which nothing can come, at the end of an epoch, when the probe has been asked why.

    Raises:
        HopelessError: with the reason.
    """

    def __init__(self, log: EvidenceLog, prober: Prober) -> None:
        super().__init__()
        self._log, self._prober = log, prober

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        found = self._log.evidence()
        if found is not None and (reason := hopeless.reason(found)):
            self._prober.ask("end", len(found.epochs) - 1)
            raise HopelessError(f"{reason} Training stopped; to let such trainings run on: dvc exp run -S train.stop_when_hopeless=false")


def kernels(model: Any) -> list[NDArray[Any]]:
    """Copies of the trainable weights, without those of BatchNorm and the biases."""
    return [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.trainable_variables if weight.ndim > 1]


def _norms(arrays: list[NDArray[Any]]) -> list[float]:
    """Euclidean norms. NumPy's own ask BLAS, whose last digits depend on the kernels that it chooses for a processor."""
    return [float(np.sqrt(np.sum(np.square(array, dtype=np.float64)))) for array in arrays]


def _not_finite(batch: Batch) -> str:
    """Which of a batch's parts holds a NaN or an infinity."""
    parts: tuple[NDArray[Any], ...] = batch
    return next((name for name, values in zip(("input", "label", "weight"), parts, strict=True) if not np.isfinite(values).all()), "")
