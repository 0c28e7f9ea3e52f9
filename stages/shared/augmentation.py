"""The augmentation policy as a pure function of (seed, epoch, draw), and the plan of which image is drawn how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.shared.params import AugmentParams

if TYPE_CHECKING:
    from stages.shared.prepared import Prepared

# Streams of random numbers, so that no two uses share their draws.
STREAM_ORDER, STREAM_REMAINDER, STREAM_AUGMENTATION = 0, 1, 2
NUM_RANDOM_NUMBERS = 9


@dataclass(frozen=True)
class Draws:
    """How each image of a batch is changed.

    ``transforms`` (n, 8) float32: projective transforms from output to input pixels, as ``keras.ops.image.affine_transform``
    takes them. ``colours`` (n, 2) float32: contrast factor about mid-grey, then what is added, in grey levels (0 to 255).
    """

    transforms: NDArray[np.float32]
    colours: NDArray[np.float32]


def random_numbers(seed: int, epoch: int, num_draws: int) -> NDArray[np.float32]:
    """All random numbers of an epoch's augmentation, a row a draw, (num_draws, 9) in [-1, 1)."""
    generator = np.random.default_rng([seed, epoch, STREAM_AUGMENTATION])
    return 2 * generator.random((num_draws, NUM_RANDOM_NUMBERS), dtype=np.float32) - 1


def draw(policy: AugmentParams, numbers: NDArray[np.float32], size_px: int) -> Draws:
    """The changes that rows of ``random_numbers`` stand for, (n, 9); a row gives the same change in any order and batch."""
    angle = np.deg2rad(policy.rotation_degrees) * numbers[:, 0]
    shift_x, shift_y = (size_px * amount * numbers[:, i] for i, amount in ((1, policy.width_shift), (2, policy.height_shift)))
    shear = policy.shear * numbers[:, 3]
    scale_x, scale_y = (1 + policy.zoom * numbers[:, i] for i in (4, 5))
    flip = np.where((numbers[:, 6] < 0) & policy.horizontal_flip, -1.0, 1.0)
    # Output to input, about the centre: mirrored and scaled, then sheared, then turned, then shifted.
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = cos * scale_x * flip, (cos * shear - sin) * scale_y
    c, d = sin * scale_x * flip, (sin * shear + cos) * scale_y
    centre = (size_px - 1) / 2
    zeros = np.zeros_like(a)
    rows = [
        a,
        b,
        centre - a * centre - b * centre + shift_x,
        c,
        d,
        centre - c * centre - d * centre + shift_y,
        zeros,
        zeros,
    ]
    colours = [1 + policy.contrast * numbers[:, 7], 255 * policy.brightness * numbers[:, 8]]
    return Draws(np.stack(rows, axis=1).astype(np.float32), np.stack(colours, axis=1).astype(np.float32))


def unchanged(num_images: int) -> Draws:
    """Draws that leave images as they are."""
    identity = np.array([1, 0, 0, 0, 1, 0, 0, 0], np.float32)
    return Draws(np.tile(identity, (num_images, 1)), np.tile(np.array([1, 0], np.float32), (num_images, 1)))


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
    axis = np.linspace(0, size_px - 1, 16, dtype=np.float32)
    x, y = (values.ravel() for values in np.meshgrid(axis, axis))
    matrix = draws.transforms[:, :6].reshape(-1, 2, 3)
    source = matrix[:, :, :2] @ np.stack([x, y]) + matrix[:, :, 2:]
    moved = np.hypot(source[:, 0] - x, source[:, 1] - y) / size_px
    outside = ((source < -0.5) | (source > size_px - 0.5)).any(axis=1)
    return Strength(
        round(float(moved.mean()), 4),
        round(float(moved.max()), 4),
        round(float(outside.mean()), 4),
        round(float(np.abs(draws.colours[:, 1]).mean()) / 255, 4),
        round(float(np.abs(draws.colours[:, 0] - 1).mean()), 4),
    )


def variants(train_set: Prepared, policy: AugmentParams, num_variants: int) -> list[list[NDArray[np.uint8]]]:
    """For each class an original and changed images, drawn as training draws them, each (size_px, size_px, 3)."""
    firsts = [int(np.flatnonzero(train_set.labels == label)[0]) for label in range(len(train_set.classes))]
    rows = []
    for image in train_set.gather(np.array(firsts)):
        draws = draw(policy, random_numbers(policy.seed, 0, num_variants), train_set.size_px)
        rows.append([image, *(apply_to_image(image, draws, number, policy.fill_mode) for number in range(num_variants))])
    return rows


def apply_to_image(image: NDArray[np.uint8], draws: Draws, number: int, fill_mode: str) -> NDArray[np.uint8]:
    """One drawn change of one image on the host, for people to look at (training does it on the device)."""
    size_px = len(image)
    padding = {"nearest": "edge", "constant": "constant", "reflect": "symmetric", "wrap": "wrap"}[fill_mode]
    padded = np.pad(image, ((size_px,), (size_px,), (0,)), mode=padding)  # type: ignore[call-overload]
    a, b, c, d, e, f = draws.transforms[number, :6].astype(float)
    # Pillow maps pixel centres (x + 0.5), Keras maps indices; and the padded picture starts size_px earlier.
    shift = (0.5 - 0.5 * (a + b) + c + size_px, 0.5 - 0.5 * (d + e) + f + size_px)
    warped = Image.fromarray(padded).transform(
        (size_px, size_px), Image.Transform.AFFINE, (a, b, shift[0], d, e, shift[1]), Image.Resampling.BILINEAR
    )
    contrast, added = draws.colours[number]
    changed = (np.asarray(warped, np.float32) - 127.5) * contrast + 127.5 + added
    return np.asarray(np.clip(changed, 0, 255).round(), np.uint8)
