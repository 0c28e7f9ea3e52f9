"""What is checked before the first epoch and at its first steps: a training that cannot work ends here, and says why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from stages.shared import devices, model
from stages.shared.errors import TooLargeError, UntrainableError
from stages.shared.evidence import HEAD, EvidenceSink, FirstStep, Memory
from stages.shared.params import TrainParams
from stages.shared.training.batches import TrainBatches
from stages.shared.training.collector import kernels

# Peak memory of a step over that of all outputs of the layers that are trained, and what comes beside. Measured with TensorFlow on a CPU:
# 0.83 to 0.88 and 0.25 to 0.3 GB (96 px alpha .35 with 128 and 256 images, 160 px alpha 1.0 with 32 and 64). Taken a little low: it must
# refuse no batch that fits.
KEPT_SHARE, FIXED_BYTES = 0.8, 200_000_000
INPUT_RANGE, TOLERANCE = (-1.0, 1.0), 0.01
LEAST_SPREAD = 0.01
NUM_CHANGES = 8  # of which one at least changes a weight: one batch alone may be known with certainty
# Dynamic loss scaling leaves out steps until its factor fits: from 2^15 down to 1 at most.
LOSS_SCALING_STEPS = 16


def check_memory(classifier: Any, batches: TrainBatches, keep: EvidenceSink) -> None:
    """Estimate what a step needs.

    Raises:
        TooLargeError: if that is more than is free; names the largest power of two that fits.
    """
    per_image = KEPT_SHARE * _trained_bytes(classifier) / devices.num_replicas()
    free = devices.free_memory_bytes()
    largest = max(0, int((free - FIXED_BYTES) / max(per_image, 1)))
    num_images = min(batches.batch_size, batches.num_draws)
    found = Memory(needed_bytes=int(FIXED_BYTES + per_image * num_images), free_bytes=free, largest_batch=largest)
    if found.needed_bytes <= free:
        return
    keep(found)
    fits = (
        f"train.batch_size {2 ** int(math.log2(largest))} fits"
        if largest
        else "not even one image fits: free some memory, or use a smaller prepare.image_size_px"
    )
    raise TooLargeError(
        f"a step of train.batch_size {batches.batch_size} needs at least {found.needed_bytes / 1e9:.1f} GB at {batches.images.size_px} px, "
        f"and {free / 1e9:.1f} GB are free. By the same estimate {fits}; train.gradient_accumulation_steps makes up for smaller batches."
    )


def check_rates(params: TrainParams) -> None:
    """Look at the rates of all phases to come.

    Raises:
        UntrainableError: if one is 0.
    """
    phases = (("learning_rate", params.epochs, "1e-3"), ("fine_tune_learning_rate", params.fine_tune_epochs, "1e-5"))
    for name, num_epochs, usual in phases:
        if num_epochs and getattr(params, name) == 0:
            raise UntrainableError(
                f"train.{name} is 0, so no weight would ever change. "
                f"Usual are 1e-4 to 1e-2, and a hundredth of that for fine-tuning; type: dvc exp run -S train.{name}={usual}"
            )


def check_accumulation(params: TrainParams, steps_per_epoch: int) -> None:
    """Look at whether every phase has steps enough to change the weights.

    Raises:
        UntrainableError: if one has fewer than are averaged for one change.
    """
    for name in ("epochs", "fine_tune_epochs"):
        num_steps = getattr(params, name) * steps_per_epoch
        if 0 < num_steps < params.gradient_accumulation_steps:
            raise UntrainableError(
                f"train.gradient_accumulation_steps {params.gradient_accumulation_steps} averages more batches than the {num_steps} of "
                f"train.{name} {getattr(params, name)}, so no weight would ever change. "
                f"Expected {num_steps} at most; type: dvc exp run -S train.gradient_accumulation_steps=1"
            )


def check_shares(batch_size: int, split_sizes: Sequence[int]) -> None:
    """Look at how the devices share the batches: all alike in the first (Keras adds up their shares), and none nothing in the last.

    Raises:
        UntrainableError: if they cannot; names the nearest size that they can share.
    """
    num_replicas = devices.num_replicas()

    def is_shared(size: int) -> bool:
        firsts = [min(size, num_images) for num_images in split_sizes]
        rests = [num_images % size for num_images in split_sizes]
        return all(first % num_replicas == 0 for first in firsts) and all(rest == 0 or rest >= num_replicas for rest in rests)

    if not is_shared(batch_size):
        sizes = filter(is_shared, range(num_replicas, 2 * batch_size + num_replicas))
        nearest = min(sizes, key=lambda size: abs(size - batch_size), default=None)
        advice = f"type: dvc exp run -S train.batch_size={nearest}" if nearest else "train on one device, by CUDA_VISIBLE_DEVICES=0"
        raise UntrainableError(
            f"{num_replicas} devices cannot share batches of train.batch_size {batch_size}. Expected first batches that are "
            f"multiples of {num_replicas}, and last ones that have as many images, "
            f"for splits of {' and '.join(map(str, split_sizes))}; {advice}"
        )


def _trained_bytes(classifier: Any) -> float:
    """Bytes of all outputs, for one image, from the first layer on that is trained: what the way back needs."""
    backbone = classifier.get_layer(model.BACKBONE_LAYER)
    first = next((number for number, layer in enumerate(backbone.layers) if layer.trainable_variables), len(backbone.layers))
    itemsize = np.dtype("float32" if backbone.compute_dtype == "float32" else "float16").itemsize
    return float(sum(math.prod(layer.output.shape[1:]) * itemsize for layer in backbone.layers[first:]))


class Preflight(keras.callbacks.Callback):  # type: ignore[misc]
    """Looks at the first batch of a phase on its way through, and at whether the first steps change the weights.

    Not for a phase that goes on from where it was cut off.

    Raises:
        UntrainableError: if the backbone's input is not in its range, or no weight moves.
    """

    def __init__(self, batches: TrainBatches, params: TrainParams, phase: str, keep: EvidenceSink) -> None:
        super().__init__()
        self._batches, self._params, self._phase, self._keep = batches, params, phase, keep
        rising = params.warmup_epochs > 0  # from a rate of 0
        scaled = LOSS_SCALING_STEPS if keras.config.dtype_policy().name == "mixed_float16" else 0
        self._num_steps = params.gradient_accumulation_steps * (NUM_CHANGES + rising) + scaled
        self._step = 0
        self._before: list[Any] = []

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        images, _, _ = self._batches.make(self._batches.epoch, 0)
        values = keras.ops.convert_to_numpy(self.model.get_layer(model.INPUT_LAYER)(images)).astype(np.float64)
        low, high, spread = float(values.min()), float(values.max()), float(values.std())
        if low < INPUT_RANGE[0] - TOLERANCE or high > INPUT_RANGE[1] + TOLERANCE or spread < LEAST_SPREAD:
            raise UntrainableError(
                f"the first batch reaches the backbone with values from {low:.3g} to {high:.3g}, standard deviation {spread:.2g}. "
                "Expected pictures in [-1, 1]: look at reports/augment/index.html, and at the layer input_range in stages/shared/model.py."
            )
        self._before = kernels(self.model)
        self._num_steps = min(self._num_steps, self.params["steps"] * self.params["epochs"])

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._step += 1
        if self._step == 1:
            num_trainable = model.num_trainable(self.model)
            loss = float((logs or {})["loss"])
            self._keep(FirstStep(phase=self._phase, loss=loss, num_trainable=num_trainable))
        if self._step == self._num_steps:
            moved = any(not np.array_equal(old, new) for old, new in zip(self._before, kernels(self.model), strict=True))
            self._before = []
            if not moved:
                raise UntrainableError(self._reason())

    def _reason(self) -> str:
        name = "learning_rate" if self._phase == HEAD else "fine_tune_learning_rate"
        return (
            f"the first {self._num_steps} steps changed no weight at train.{name} {getattr(self._params, name)}: "
            "all gradients are zero, or too small for the precision. Try train.precision=float32, "
            "and look at reports/validate/index.html for images that are all alike"
        )
