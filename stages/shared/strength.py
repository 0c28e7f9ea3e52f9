"""How strong an augmentation policy is, by what it draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.shared.augmentation import Draws, draw, random_numbers
from stages.shared.params import AugmentParams
from stages.shared.prepared import Prepared

NUM_DRAWS = 1000
GRID = 16  # points along a side
MAX_COUNTED = 200  # images whose grey levels are counted: the share of all tones at an end is then known to about a hundredth
# Below all of these an image hardly changes; of the displacement as for the rule ``overfitting``, which then advises more.
WEAK_DISPLACEMENT, WEAK_COLOUR_CHANGE = 0.02, 0.02


@dataclass(frozen=True)
class Strength:
    """How far a policy moves and changes an image: shares of its side, area and tones, means over draws.

    Saturated are tones that reach black or white and did not before; mixed is the smaller share of two partners.
    """

    mean_displacement: float
    max_displacement: float
    mean_share_outside: float
    mean_brightness_change: float
    mean_contrast_change: float
    mean_share_erased: float
    mean_share_saturated: float
    mean_share_mixed: float


def count_levels(train_set: Prepared) -> NDArray[np.int64]:
    """How often each grey level occurs, (256,), in training images evenly chosen."""
    rows = np.unique(np.linspace(0, len(train_set.labels) - 1, MAX_COUNTED).astype(int))
    counts = np.zeros(256, np.int64)
    for row in rows:
        counts += np.bincount(train_set.image(int(row)).ravel(), minlength=256)
    return counts


def measure_strength(policy: AugmentParams, size_px: int, levels: NDArray[np.int64]) -> Strength:
    """Where the pixels of a grid come from in many variants, and what becomes of grey levels; mirroring counts as no displacement."""
    still = policy.model_copy(update={"horizontal_flip": False})
    draws = draw(still, random_numbers(policy.seed, 0, NUM_DRAWS), size_px)
    axis = (np.arange(GRID) + 0.5) / GRID * size_px - 0.5  # each point stands for an equal part of the area
    x, y = (values.ravel() for values in np.meshgrid(axis, axis))
    source = draws.transforms[:, :, :2] @ np.stack([x, y]) + draws.transforms[:, :, 2:]
    moved = np.hypot(source[:, 0] - x, source[:, 1] - y) / size_px
    outside = ((source < -0.5) | (source > size_px - 0.5)).any(axis=1)
    sides = draws.erased[:, 2:] - draws.erased[:, :2]
    shares = (
        moved.mean(),
        moved.max(),
        outside.mean(),
        np.abs(draws.colours[:, 1]).mean() / 255,
        np.abs(draws.colours[:, 0] - 1).mean(),
        sides.prod(axis=1).mean() / size_px**2,
        _share_saturated(draws, levels),
        np.minimum(draws.shares, 1 - draws.shares).mean(),
    )
    return Strength(*(round(float(share), 4) for share in shares))


def _share_saturated(draws: Draws, levels: NDArray[np.int64]) -> float:
    """Of the tones between black and white, those that contrast and brightness push to an end."""
    tones = np.arange(1, 255)
    changed = (tones - 127.5) * draws.colours[:, :1] + 127.5 + draws.colours[:, 1:]
    lost = (np.rint(changed) <= 0) | (np.rint(changed) >= 255)
    counts = levels[1:255]
    return float((lost.mean(axis=0) * counts).sum() / max(counts.sum(), 1))


def is_weak(policy: AugmentParams, strength: Strength) -> bool:
    """Whether an image hardly differs from one epoch to the next; no fault by itself."""
    others = policy.horizontal_flip or policy.random_erasing or policy.mixup or policy.cutmix
    colour = max(strength.mean_brightness_change, strength.mean_contrast_change)
    return not others and strength.mean_displacement < WEAK_DISPLACEMENT and colour < WEAK_COLOUR_CHANGE
