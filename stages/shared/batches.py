"""Batches of prepared images for Keras, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from stages.shared.augmentation import Draws, SamplingPlan, draw, epoch_rows, random_numbers, unchanged
from stages.shared.params import AugmentParams
from stages.shared.prepared import Prepared


class TrainBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """The training split: batch ``i`` of an epoch is a gather of rows with the changes drawn for them.

    No random state: the same (seed, epoch, i) gives the same batch in any process.
    """

    def __init__(self, images: Prepared, plan: SamplingPlan, policy: AugmentParams, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images, self.plan, self.policy, self.batch_size, self.seed = images, plan, policy, batch_size, seed
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Go to the order and the changes of ``epoch``, which counts over both phases.

        Called by whoever drives ``fit``: Keras's own ``on_epoch_end`` also comes before the first epoch.
        """
        self.epoch = epoch
        self._rows, self._draws = epoch_rows(self.images.labels, self.plan, self.seed, epoch)
        self._numbers = random_numbers(self.policy.seed, epoch, self.plan.num_draws)

    def __len__(self) -> int:
        return -(-self.plan.num_draws // self.batch_size)

    def order(self) -> NDArray[np.int64]:
        """The rows of the present epoch in the order in which they are trained on."""
        return self._rows

    def __getitem__(self, index: int) -> tuple[dict[str, Any], NDArray[np.float32], NDArray[np.float32]]:
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        rows = self._rows[part]
        changes = draw(self.policy, self._numbers[self._draws[part]], self.images.size_px)
        labels = self.images.labels[rows]
        weights = np.array(self.plan.class_weights, np.float32)[labels]
        return _inputs(self.images.gather(rows), changes), _one_hot(labels, len(self.images.classes)), weights


class PlainBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """A split or chosen rows of it, in order, unchanged."""

    def __init__(self, images: Prepared, batch_size: int, rows: NDArray[np.int64] | None = None) -> None:
        super().__init__()
        self.images, self.batch_size = images, batch_size
        self.rows = np.arange(len(images.labels)) if rows is None else rows

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], NDArray[np.float32]]:
        rows = self.rows[index * self.batch_size : (index + 1) * self.batch_size]
        return _inputs(self.images.gather(rows), unchanged(len(rows))), _one_hot(self.images.labels[rows], len(self.images.classes))


def _inputs(images: NDArray[np.uint8], changes: Draws) -> dict[str, Any]:
    return {"image": images, "transforms": changes.transforms, "colours": changes.colours}


def _one_hot(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float32]:
    return np.eye(num_classes, dtype=np.float32)[labels]
