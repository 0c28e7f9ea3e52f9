"""Batches of prepared images for Keras, made ahead by threads, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import joblib
import keras
import numpy as np
from numpy.typing import NDArray

from stages.shared.augmentation import change, draw, mix, mix_targets, random_numbers
from stages.shared.params import AugmentParams
from stages.shared.prepared import Prepared
from stages.shared.sampling import SamplingPlan, epoch_rows

MAX_THREADS = 8

Batch = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of (images (n, size_px, size_px, 3) uint8, targets (n, num_classes) float32, weights (n,) float32).

    ``make`` is a pure function of (epoch, step). Some batches ahead, also into the next epoch, are always in the making.
    """

    def __init__(self, images: Prepared, batch_size: int, num_draws: int) -> None:
        super().__init__()
        self.images, self.batch_size, self.num_draws = images, batch_size, num_draws
        self.num_steps = -(-num_draws // batch_size)
        self.epoch, self.first_step = 0, 0
        self.waited_s = 0.0  # at most so long did the training wait for data, since it began
        self._num_ahead = min(MAX_THREADS, joblib.cpu_count()) + 1
        self._threads = ThreadPoolExecutor(self._num_ahead - 1, thread_name_prefix="batches", initializer=_give_way)
        self._made: dict[tuple[int, int], Future[Batch]] = {}

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of ``rows`` as this split is read, before any augmentation: (n, size_px, size_px, 3)."""
        return self.images.gather(rows)

    def make(self, epoch: int, step: int) -> Batch:
        """The batch of a step."""
        raise NotImplementedError

    def start(self, epoch: int, first_step: int = 0) -> None:
        """Go to ``epoch``, which counts over both phases, from one of its steps on.

        Called by whoever drives ``fit``: Keras's own ``on_epoch_end`` also comes before the first epoch.
        """
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        return self.num_steps - self.first_step

    def __getitem__(self, index: int) -> Batch:
        present = self.epoch * self.num_steps + self.first_step + index
        wanted = [self._place(present + ahead) for ahead in range(self._num_ahead)]
        self._made = made = {place: self._made.get(place) or self._threads.submit(self.make, *place) for place in wanted}
        begun = time.perf_counter()
        batch = made[wanted[0]].result()
        self.waited_s += time.perf_counter() - begun
        return batch

    def for_fit(self) -> Any:
        """What ``fit`` takes: on TensorFlow a data set without autotuning, else the batches themselves.

        An epoch's end waits for the thread that tunes, which sleeps for 10 ms, then 20, 40 and so on: a third of the epochs took
        half as long again or even twice as long (TensorFlow 2.21). There is nothing to tune here.
        """
        if keras.backend.backend() != "tensorflow":
            return self
        import tensorflow as tf

        signature = (
            tf.TensorSpec((None, self.images.size_px, self.images.size_px, 3), tf.uint8),
            tf.TensorSpec((None, len(self.images.classes)), tf.float32),
            tf.TensorSpec((None,), tf.float32),
        )
        options = tf.data.Options()
        options.autotune.enabled = False

        def batch(index: Any) -> Any:
            made = tf.numpy_function(self.__getitem__, [index], [spec.dtype for spec in signature])
            return tuple(tf.ensure_shape(tensor, spec.shape) for tensor, spec in zip(made, signature, strict=True))

        return tf.data.Dataset.range(len(self)).map(batch).prefetch(1).with_options(options)

    def _place(self, number: int) -> tuple[int, int]:
        """Epoch and step of the training's step ``number``."""
        return divmod(number, self.num_steps)


class TrainBatches(Batches):
    """The training split, each image changed as drawn for it."""

    def __init__(self, images: Prepared, plan: SamplingPlan, policy: AugmentParams, batch_size: int, seed: int) -> None:
        super().__init__(images, batch_size, plan.num_draws)
        self.plan, self.policy, self.seed = plan, policy, seed
        self._epoch = functools.lru_cache(2)(self._draw_epoch)  # the present one, and the next

    def _draw_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        rows, draws = epoch_rows(self.images.labels, self.plan, self.seed, epoch)
        return rows, draws, random_numbers(self.policy.seed, epoch, self.num_draws)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The rows of an epoch in the order in which they are trained on."""
        return self._epoch(epoch)[0]

    def make(self, epoch: int, step: int) -> Batch:
        rows, draws, numbers = self._epoch(epoch)
        part = slice(step * self.batch_size, (step + 1) * self.batch_size)
        drawn = draw(self.policy, numbers[draws[part]], self.images.size_px)
        changed = change(list(self.read(rows[part])), drawn, self.policy.fill_mode)
        labels = self.images.labels[rows[part]]
        weights = np.array(self.plan.class_weights, np.float32)[labels]
        weighted = mix_targets(one_hot(labels, len(self.images.classes)) * weights[:, None], drawn)  # each class keeps its own weight
        totals = weighted.sum(axis=1)
        return mix(changed, drawn), weighted / totals[:, None], totals


class PlainBatches(Batches):
    """A split in order, unchanged, the same in each epoch."""

    def __init__(self, images: Prepared, batch_size: int) -> None:
        super().__init__(images, batch_size, len(images.labels))

    def _place(self, number: int) -> tuple[int, int]:
        return 0, number % self.num_steps

    def make(self, epoch: int, step: int) -> Batch:
        rows = np.arange(self.num_draws)[step * self.batch_size : (step + 1) * self.batch_size]
        return self.read(rows), one_hot(self.images.labels[rows], len(self.images.classes)), np.ones(len(rows), np.float32)


def _give_way() -> None:
    """Have this thread run while the others leave a core idle: a step on a CPU has such moments, and need not wait for it."""
    if sys.platform == "linux":  # where a priority is a thread's
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def one_hot(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float32]:
    """Targets (n, num_classes) of labels (n,)."""
    return np.eye(num_classes, dtype=np.float32)[labels]
