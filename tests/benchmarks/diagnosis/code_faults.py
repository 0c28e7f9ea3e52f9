"""Mistakes in the code, made in this process alone. Each says which real mistake it stands for; what it does is the mistake itself.

Modules import names directly: each is changed where it is used.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import cv2
import keras
import numpy as np
import psutil
from numpy.typing import NDArray

from stages.shared import model
from stages.shared.augmentation import random_numbers
from stages.shared.sampling import epoch_rows
from stages.shared.training import batches as batches_module
from stages.shared.training import optimizers
from stages.shared.training.batches import Batch, PlainBatches, TrainBatches
from stages.shared.training.resume import Checkpointer

Pixels = NDArray[np.uint8]
# ImageNet's mean and deviation, in shares of 255, as PyTorch's models want their input (torchvision's documentation); here of all channels.
TORCH_MEAN, TORCH_DEVIATION = 0.449, 0.226
RESTART = 10


def _change_model(change: Callable[[Any], None]) -> None:
    """Have each classifier changed after it has been built."""
    build = model.build_classifier

    @functools.wraps(build)
    def changed(*arguments: Any, **options: Any) -> Any:
        classifier = build(*arguments, **options)
        change(classifier)
        return classifier

    model.build_classifier = changed


def _build_with(name: str, layer: Callable[..., Any]) -> None:
    """Have each classifier built with ``layer`` in place of ``keras.layers.<name>``; MobileNetV2 itself takes its layers elsewhere."""
    build = model.build_classifier

    @functools.wraps(build)
    def changed(*arguments: Any, **options: Any) -> Any:
        with patch.object(keras.layers, name, layer):
            return build(*arguments, **options)

    model.build_classifier = changed


def _scale_input(new_scale: float, new_offset: float) -> None:
    rescaling = keras.layers.Rescaling
    _build_with("Rescaling", lambda scale, offset, name: rescaling(new_scale, offset=new_offset, name=name))


def raw_pixels(_amount: float) -> None:
    """``preprocess_input`` has been forgotten: the backbone gets 0 to 255."""
    _scale_input(1.0, 0.0)


def unshifted_input(_amount: float) -> None:
    """``rescale=1/255``, as most tutorials for other networks have it: the backbone gets 0 to 1."""
    _scale_input(1 / 255, 0.0)


def input_scaled_twice(_amount: float) -> None:
    """Both the reading of images and the model scale, so that every pixel is about -1."""
    _scale_input(1 / 127.5**2, -1 / 127.5 - 1)


def torch_input(_amount: float) -> None:
    """Input as PyTorch's MobileNetV2 wants it: less ImageNet's mean, over its deviation."""
    _scale_input(1 / (255 * TORCH_DEVIATION), -TORCH_MEAN / TORCH_DEVIATION)


def _read_validation(change: Callable[[Pixels], Pixels]) -> None:
    def read(self: PlainBatches, rows: NDArray[np.int64]) -> Pixels:
        return change(self.images.gather(rows))

    PlainBatches.read = read  # type: ignore[method-assign]


def validation_scaled(_amount: float) -> None:
    """The reading of validation images divides by 255, and then the model scales once more."""
    _read_validation(lambda images: images // 255)


def validation_inverted(_amount: float) -> None:
    """Validation images are read by code that takes black for white, as by the palette of another export."""
    _read_validation(lambda images: 255 - images)


def validation_swapped(_amount: float) -> None:
    """Validation images are read by OpenCV, whose channels come as blue, green, red."""
    _read_validation(lambda images: np.ascontiguousarray(images[..., ::-1]))


def validation_cropped(share: float) -> None:
    """Validation images are cropped to their middle (``share`` of each side) and enlarged, training images are not."""

    def crop(images: Pixels) -> Pixels:
        size = images.shape[1]
        margin = round(size * (1 - share) / 2)
        inner = images[:, margin : size - margin, margin : size - margin]
        return np.stack([cv2.resize(image, (size, size)) for image in inner]).astype(np.uint8)

    _read_validation(crop)


def linear_head(_amount: float) -> None:
    """The last layer has no softmax while the loss expects probabilities (``from_logits=False``)."""
    dense = keras.layers.Dense
    _build_with("Dense", lambda units, activation, **options: dense(units, activation="linear", **options))


def softmax_twice(_amount: float) -> None:
    """A layer of softmax follows a last layer that has one already. (``from_logits=True`` would not do: Keras notices softmax.)"""
    dense = keras.layers.Dense

    def twice(units: int, activation: str, dtype: str, name: str) -> Callable[[Any], Any]:
        first = dense(units, activation=activation, dtype=dtype, name="softmax")
        return lambda features: keras.layers.Softmax(dtype=dtype, name=name)(first(features))

    _build_with("Dense", twice)


def frozen_augmentation(_amount: float) -> None:
    """``dataset.map(augment).cache()``: the first epoch's variants are seen in every epoch."""
    batches_module.random_numbers = lambda seed, epoch, num_draws: random_numbers(seed, 0, num_draws)  # type: ignore[attr-defined]


def unshuffled(buffer_size: float) -> None:
    """Images come as the folders have them, class by class, through a shuffle buffer of ``buffer_size`` images (1: none)."""

    def by_class(labels: NDArray[np.int64], plan: Any, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rows, draws = epoch_rows(labels, plan, seed, epoch)
        generator = np.random.default_rng([seed, epoch])
        waiting: list[int] = []
        taken: list[int] = []
        for position in np.argsort(labels[rows], kind="stable"):
            waiting.append(int(position))
            if len(waiting) >= buffer_size:
                taken.append(waiting.pop(int(generator.integers(len(waiting)))))
        taken += generator.permutation(waiting).astype(np.int64).tolist()
        return rows[taken], draws[taken]

    batches_module.epoch_rows = by_class  # type: ignore[attr-defined]


def _change_batches(change: Callable[[Batch, int, int], Batch]) -> None:
    """Have each training batch changed; ``change`` gets it with its epoch and step."""
    make = TrainBatches.make
    TrainBatches.make = lambda self, epoch, step: change(make(self, epoch, step), epoch, step)  # type: ignore[method-assign]


def nan_in_image(step: float) -> None:
    """Each image is divided by its own deviation, which is 0 for one of them: from its batch on there is NaN."""

    def standardise(batch: Batch, _epoch: int, number: int) -> Any:
        images = batch[0].astype(np.float32)
        if number == step:
            images[0] = np.nan
        return images, *batch[1:]

    _change_batches(standardise)
    TrainBatches.for_fit = lambda self: self  # type: ignore[method-assign]  # what it promises else are uint8 pixels


def nan_in_label(step: float) -> None:
    """Soft labels are shares of votes, and nobody has voted on one image: 0/0."""

    def vote(batch: Batch, _epoch: int, number: int) -> Batch:
        targets = batch[1].copy()
        if number == step:
            targets[0] = np.nan
        return batch[0], targets, batch[2]

    _change_batches(vote)


def infinite_weight(step: float) -> None:
    """Sample weights are inverse counts, and one count is 0."""

    def weigh(batch: Batch, _epoch: int, number: int) -> Batch:
        weights = batch[2].copy()
        if number == step:
            weights[0] = np.inf
        return batch[0], batch[1], weights

    _change_batches(weigh)


def data_end_early(num_steps: float) -> None:
    """A generator ends after ``num_steps`` batches of each epoch, and the rest of the images is never seen."""
    for_fit = TrainBatches.for_fit
    TrainBatches.for_fit = lambda self: for_fit(self).take(int(num_steps))  # type: ignore[method-assign]


def everything_frozen(_amount: float) -> None:
    """``model.trainable = False`` on the whole classifier in place of its backbone."""

    def freeze(classifier: Any) -> None:
        classifier.trainable = False

    _change_model(freeze)


def _at_step(number: float, act: Callable[[Any], None]) -> None:
    """Do something, with the model, after so many steps of the training."""
    on_train_batch_end, counted = Checkpointer.on_train_batch_end, iter(range(1, 1_000_000))

    def counting(self: Checkpointer, batch: int, logs: dict[str, float] | None = None) -> None:
        on_train_batch_end(self, batch, logs)
        if next(counted) == number:
            act(self.model)

    Checkpointer.on_train_batch_end = counting  # type: ignore[method-assign]


def killed(step: float) -> None:
    """SIGKILL from outside: a scheduler at the end of the time allowed, or a machine that is taken away."""
    _at_step(step, lambda _: os.kill(os.getpid(), signal.SIGKILL))


def terminated(step: float) -> None:
    """SIGTERM, as a container gets it that is stopped."""
    _at_step(step, lambda _: os.kill(os.getpid(), signal.SIGTERM))


def interrupted(step: float) -> None:
    """Ctrl-C."""
    _at_step(step, lambda _: os.kill(os.getpid(), signal.SIGINT))


def rate_restarts(step: float) -> None:
    """Warm restarts (SGDR) whose last cycle begins just before the end: the rate jumps to ``RESTART`` times what it was."""

    def restart(classifier: Any) -> None:
        rate = classifier.optimizer.learning_rate
        rate.assign(rate * RESTART)

    _at_step(step, restart)


def rate_runs_out(share: float) -> None:
    """A cosine whose steps are counted wrongly (per GPU, or of the data before they grew): it is 0 after this share of the training."""
    schedule = optimizers._schedule
    optimizers._schedule = lambda params, rate, num_steps, num_warmup_steps: schedule(
        params, rate, max(1, round(share * num_steps)), num_warmup_steps
    )


def whole_set_in_memory(step: float) -> None:
    """From some step on all variants of all images are kept as numbers of 64 bits: more than any machine has."""

    def keep(batch: Batch, _epoch: int, number: int) -> Batch:
        if number == step:
            np.ones((10_000_000, *batch[0].shape[1:]), np.float64).sum()
        return batch

    _change_batches(keep)


def little_memory(gigabytes: float) -> None:
    """The stage may take so much memory and no more, as in a small container."""
    limit = psutil.Process().memory_info().vms + int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
