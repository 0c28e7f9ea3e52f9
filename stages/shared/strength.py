"""How strong an augmentation policy is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.shared.augmentation import draw, random_numbers
from stages.shared.params import AugmentParams


@dataclass(frozen=True)
class Strength:
    """How far a policy moves an image: shares of its side and area, means over draws."""

    mean_displacement: float
    max_displacement: float
    mean_share_outside: float
    mean_brightness_change: float
    mean_contrast_change: float


def measure_strength(policy: AugmentParams, size_px: int, num_draws: int = 1000) -> Strength:
    """Where the pixels of a grid come from in ``num_draws`` variants; mirroring counts as no displacement."""
    still = policy.model_copy(update={"horizontal_flip": False})
    draws = draw(still, random_numbers(policy.seed, 0, num_draws), size_px)
    axis = np.linspace(0, size_px - 1, 16)
    x, y = (values.ravel() for values in np.meshgrid(axis, axis))
    source = draws.transforms[:, :, :2] @ np.stack([x, y]) + draws.transforms[:, :, 2:]
    moved = np.hypot(source[:, 0] - x, source[:, 1] - y) / size_px
    outside = ((source < -0.5) | (source > size_px - 0.5)).any(axis=1)
    return Strength(
        round(float(moved.mean()), 4),
        round(float(moved.max()), 4),
        round(float(outside.mean()), 4),
        round(float(np.abs(draws.colours[:, 1]).mean()) / 255, 4),
        round(float(np.abs(draws.colours[:, 0] - 1).mean()), 4),
    )
