"""BatchNorm's statistics of exactly the present weights, before each validation: for trainings too short for moving averages."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from stages.shared import model
from stages.shared.training.batches import TrainBatches


class Recalibration(keras.callbacks.Callback):  # type: ignore[misc]
    """Replaces the moving statistics by those over the first ``num_images`` of the epoch (Wu and Johnson 2021, 'Precise BatchNorm').

    With momentum 0.999, moving averages are of little use before some thousand steps. Training itself does not use them.
    """

    def __init__(self, batches: TrainBatches, num_images: int) -> None:
        super().__init__()
        self._batches = batches
        self._num_steps = min(batches.num_steps, -(-num_images // batches.batch_size))
        self._forward: Any = None

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        layers = [layer for layer in model.batchnorm_layers(self.model) if layer.trainable]
        if not layers:
            return
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.momentum = 0.0  # the statistics of a batch as they are; read when the step is traced
        batches = [self._batches.make(self._batches.epoch, step)[0] for step in range(self._num_steps)]
        sizes = [len(images) for images in batches]
        means, variances = zip(*(self._statistics(layers, images) for images in batches), strict=True)
        for layer, momentum, *found in zip(layers, momenta, *(zip(*values, strict=True) for values in (means, variances)), strict=True):
            mean = np.average(found[0], axis=0, weights=sizes)
            between = np.average((np.array(found[0]) - mean) ** 2, axis=0, weights=sizes)
            layer.momentum = momentum
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(np.average(found[1], axis=0, weights=sizes) + between)

    def _statistics(self, layers: list[Any], images: NDArray[np.uint8]) -> tuple[list[Any], list[Any]]:
        """Mean and variance at each layer over one batch."""
        if self._forward is None:
            self._forward = model.BackboneInTraining(self.model)
        self._forward.predict_on_batch(images)
        return tuple(
            [np.array(keras.ops.convert_to_numpy(getattr(layer, name))) for layer in layers] for name in ("moving_mean", "moving_variance")
        )  # type: ignore[return-value]
