"""Seen from recording, a training: curves, speed and digests of every epoch go into the journal as they come."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from stages.flight.record import moment
from stages.flight.record.journal import UNTIL_VARIABLE, Journal
from stages.shared.errors import FlightError


class StoppedError(FlightError):
    """The training came to the step at which it was asked to stop."""

    failure_kind = "interrupted"


class JournalCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes metrics and digests of each epoch.

    ``batches`` gives ``order(epoch)``, ``make(epoch, step)``, the present ``epoch``, and in ``waited_s`` how long one waited for it.
    """

    def __init__(self, log: Journal, batches: Any) -> None:
        super().__init__()
        self._log, self._batches = log, batches
        self._epochs: list[dict[str, dict[str, Any]]] = []
        self._inputs: dict[str, str] = {}
        self._begun, self._trained_at, self._waited_s, self._num_steps = 0.0, 0.0, 0.0, 0
        until = os.environ.get(UNTIL_VARIABLE, "")
        self._until = int(until) if until.isdecimal() else None

    def state(self) -> dict[str, Any]:
        return {"epochs": self._epochs}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over the epochs of a training that was cut off: this run's curves begin where that one's did."""
        self._epochs = []
        for epoch in state["epochs"]:
            self._write(epoch)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        images, _, _ = self._batches.make(self._batches.epoch, 0)
        self._inputs = {"order": _digest(self._batches.order(self._batches.epoch)), "first_batch": _digest(images)}
        self._begun, self._waited_s, self._num_steps = time.monotonic(), self._batches.waited_s, 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._until is None:
            return
        step = self._batches.first_step + self._num_steps
        if self._batches.epoch * self._batches.num_steps + step >= self._until and self._log.folder is not None:
            moment.write(self.model, self._batches, self._batches.epoch, step, self._log.folder)
            raise StoppedError(f"stopped before step {step} of epoch {self._batches.epoch} (both count from 0), as asked for.")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._num_steps += 1
        self._trained_at = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        values["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        seconds = self._trained_at - self._begun
        first = self._batches.first_step * self._batches.batch_size
        last = min(first + self._num_steps * self._batches.batch_size, self._batches.num_draws)
        values["images_per_second"] = (last - first) / seconds
        values["data_wait_share"] = (self._batches.waited_s - self._waited_s) / seconds
        weights = hashlib.sha256()
        for variable in self.model.weights:
            weights.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
        self._write({"metrics": values, "digest": {**self._inputs, "loss": values["loss"].hex(), "weights": weights.hexdigest()}})

    def _write(self, epoch: dict[str, dict[str, Any]]) -> None:
        number = len(self._epochs)
        self._epochs.append(epoch)
        self._log.metrics("train", epoch["metrics"], step=number)
        self._log.write("digest", epoch=number, values=epoch["digest"])


def _digest(values: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
