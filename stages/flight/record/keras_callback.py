"""Seen from recording, a training: curves and digests of every epoch go into the journal as they come."""

from __future__ import annotations

import hashlib
from typing import Any

import keras
import numpy as np

from stages.flight.record.journal import Journal


class JournalCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes metrics and digests of each epoch; ``batches`` has ``order()`` and gives the batches of the present epoch."""

    def __init__(self, log: Journal, batches: Any) -> None:
        super().__init__()
        self._log, self._batches = log, batches
        self._num_epochs = 0
        self._inputs: dict[str, str] = {}

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        inputs, _, _ = self._batches[0]
        augmented = self.model.get_layer("augmentation")(*inputs.values(), training=True)
        self._inputs = {"order": _digest(self._batches.order()), "first_batch": _digest(keras.ops.convert_to_numpy(augmented))}

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        values = {name: float(value) for name, value in (logs or {}).items()}
        values["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        self._log.metrics("train", values, step=self._num_epochs)
        weights = hashlib.sha256()
        for variable in self.model.weights:
            weights.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
        digests = {**self._inputs, "loss": values["loss"].hex(), "weights": weights.hexdigest()}
        self._log.write("digest", epoch=self._num_epochs, values=digests)
        self._num_epochs += 1


def _digest(values: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
