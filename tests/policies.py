"""Augmentation policies for tests, and images that a probe tells apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.shared.augmentation import Draws, Images, draw, random_numbers
from stages.shared.params import AugmentParams, load
from stages.shared.prepared import Prepared
from tests.tiny import ROOT

SIZE_PX = 16
SHIPPED = load(ROOT / "params.yaml").augment
IDENTITY = SHIPPED.model_copy(
    update={
        "rotation_degrees": 0.0,
        "width_shift": 0.0,
        "height_shift": 0.0,
        "shear": 0.0,
        "zoom": 0.0,
        "horizontal_flip": False,
        "brightness": 0.0,
        "contrast": 0.0,
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
)


def policy(**changes: Any) -> AugmentParams:
    """A policy that changes nothing but what is named."""
    return IDENTITY.model_copy(update=changes)


STRONG = policy(
    rotation_degrees=20.0,
    width_shift=0.1,
    height_shift=0.1,
    shear=0.1,
    zoom=0.2,
    horizontal_flip=True,
    brightness=0.2,
    contrast=0.2,
)
EVERYTHING = STRONG.model_copy(update={"random_erasing": 0.5, "mixup": 0.4, "cutmix": 1.0})


def draws_of(chosen: AugmentParams, num_draws: int = 50, epoch: int = 0, size_px: int = 9) -> Draws:
    """What an epoch of ``num_draws`` draws."""
    return draw(chosen, random_numbers(chosen.seed, epoch, num_draws), size_px)


def upright(num_images: int = 120, num_classes: int = 2) -> Prepared:
    """Class k is dark with a bright bar across, in a row of its own: a turn by 90° takes its place away, a mirror does not."""
    labels = np.arange(num_images) % num_classes
    images = np.random.default_rng(0).integers(30, 90, (num_images, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    for number, label in enumerate(labels):
        top = 2 + label * (SIZE_PX - 6) // max(num_classes - 1, 1)
        images[number, top : top + 3] += 120
    names = tuple(f"class-{label}" for label in range(num_classes))
    return Prepared(names, labels, tuple(map(str, range(num_images))), SIZE_PX, (images,), "")


def by_rows(images: Images) -> NDArray[np.float32]:
    """Features that tell where a bar is: the mean of each row."""
    rows: NDArray[np.float32] = images.mean(axis=(2, 3), dtype=np.float32)
    return rows
