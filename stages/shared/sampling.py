"""Which image is drawn how often in an epoch, and in which order: a pure function of (seed, epoch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Streams of random numbers, so that no two uses share their draws.
STREAM_ORDER, STREAM_REMAINDER, STREAM_AUGMENTATION = 0, 1, 2


@dataclass(frozen=True)
class SamplingPlan:
    """How often each class is drawn in an epoch, and what its images weigh in the loss."""

    draws_per_class: tuple[int, ...]
    class_weights: tuple[float, ...]

    @property
    def num_draws(self) -> int:
        """Images an epoch."""
        return sum(self.draws_per_class)


def plan_sampling(class_counts: NDArray[np.int64], balancing: str) -> SamplingPlan:
    """Balance by weight (n / (K · n_class), as scikit-learn's ``balanced``), or by drawing each class equally often."""
    counts = [int(count) for count in class_counts]
    wanted = {"oversample": max(counts), "undersample": min(counts)}.get(balancing)
    weights = [sum(counts) / (len(counts) * count) if balancing == "class_weight" else 1.0 for count in counts]
    return SamplingPlan(tuple(counts if wanted is None else [wanted] * len(counts)), tuple(weights))


def epoch_rows(labels: NDArray[np.int64], plan: SamplingPlan, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The training rows of an epoch in their order, and the number of each draw; both of shape (num_draws,).

    Within an epoch each image of a class is drawn equally often, give or take one; who is drawn once more (or, when
    undersampling, at all) changes with the epoch.
    """
    rows = []
    for label, wanted in enumerate(plan.draws_per_class):
        members = np.flatnonzero(labels == label)
        whole, remainder = divmod(wanted, len(members))
        extra = np.random.default_rng([seed, epoch, STREAM_REMAINDER, label]).permutation(members)[:remainder]
        rows.append(np.concatenate([np.tile(members, whole), extra]))
    order = np.random.default_rng([seed, epoch, STREAM_ORDER]).permutation(plan.num_draws)
    return np.concatenate(rows)[order], order
