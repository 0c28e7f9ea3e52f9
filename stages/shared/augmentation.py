"""The augmentation policy: what each image of a batch goes through, drawn from (seed, epoch, draw) alone, and the going through it.

On the host, by OpenCV, in 8 bits: the arrays are the same for every backend and device, what a page shows is what training sees, and two
cores make more images than several GPUs take (``tests/benchmarks/test_input_speed.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.shared.params import AugmentParams
from stages.shared.sampling import STREAM_AUGMENTATION

if TYPE_CHECKING:
    from stages.shared.prepared import Prepared

# Geometry 7, colours 2, erasing 5, mixing 4.
NUM_RANDOM_NUMBERS = 18
GREY = 127
# Share of the image's area, and height over width, of what random erasing covers: Zhong et al. 2020, table 2.
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 1 / 0.3)
BORDERS = {
    "nearest": cv2.BORDER_REPLICATE,
    "constant": cv2.BORDER_CONSTANT,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
}

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Draws:
    """How each image of a batch is changed.

    Attributes:
        transforms: (n, 2, 3) float64, affine, from an output pixel's indices (x, y, 1) to the input's.
        colours: (n, 2) float32: contrast factor about mid-grey, then what is added, in grey levels (0 to 255).
        erased: (n, 4) int64, the rectangle (left, top, right, bottom) painted grey; of no area where nothing is erased.
        shares: (n,) float32, how much of an image is itself; the rest is its partner in the batch (the last's is the first).
        pasted: (n, 4) int64, the rectangle that comes from the partner; where it has no area and the share is below 1, both are blended.
    """

    transforms: NDArray[np.float64]
    colours: NDArray[np.float32]
    erased: NDArray[np.int64]
    shares: NDArray[np.float32]
    pasted: NDArray[np.int64]


def random_numbers(seed: int, epoch: int, num_draws: int) -> NDArray[np.float32]:
    """All random numbers of an epoch's augmentation, a row a draw, (num_draws, 18) in [0, 1)."""
    generator = np.random.default_rng([seed, epoch, STREAM_AUGMENTATION])
    return generator.random((num_draws, NUM_RANDOM_NUMBERS), dtype=np.float32)


def draw(policy: AugmentParams, numbers: NDArray[np.float32], size_px: int) -> Draws:
    """The changes that rows of ``random_numbers`` stand for, (n, 18); a row gives the same change in any order and batch."""
    either_way = 2 * numbers[:, :9] - 1
    colours = np.stack([1 + policy.contrast * either_way[:, 7], 255 * policy.brightness * either_way[:, 8]], axis=1)
    shares, pasted = _mixing(policy, numbers[:, 14:18], size_px)
    return Draws(
        _transforms(policy, either_way, size_px), colours.astype(np.float32), _erased(policy, numbers[:, 9:14], size_px), shares, pasted
    )


def _transforms(policy: AugmentParams, numbers: NDArray[np.float32], size_px: int) -> NDArray[np.float64]:
    """About the centre: mirrored and scaled, then sheared, then turned, then shifted."""
    numbers = numbers.astype(np.float64)
    angle = np.deg2rad(policy.rotation_degrees) * numbers[:, 0]
    shift_x, shift_y = (size_px * amount * numbers[:, i] for i, amount in ((1, policy.width_shift), (2, policy.height_shift)))
    shear = policy.shear * numbers[:, 3]
    scale_x, scale_y = (1 + policy.zoom * numbers[:, i] for i in (4, 5))
    flip = np.where((numbers[:, 6] < 0) & policy.horizontal_flip, -1.0, 1.0)
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = cos * scale_x * flip, (cos * shear - sin) * scale_y
    c, d = sin * scale_x * flip, (sin * shear + cos) * scale_y
    centre = (size_px - 1) / 2
    rows = [a, b, centre - a * centre - b * centre + shift_x, c, d, centre - c * centre - d * centre + shift_y]
    return np.stack(rows, axis=1).reshape(-1, 2, 3)


def _erased(policy: AugmentParams, numbers: NDArray[np.float32], size_px: int) -> NDArray[np.int64]:
    """Random erasing (Zhong et al. 2020), in grey, which is what the backbone takes for nothing."""
    chosen = numbers[:, 0] < policy.random_erasing
    low, high = ERASED_AREA
    area = np.where(chosen, low + (high - low) * numbers[:, 1], 0)
    aspect = np.exp(np.log(ERASED_ASPECT[0]) + (np.log(ERASED_ASPECT[1]) - np.log(ERASED_ASPECT[0])) * numbers[:, 2])
    sides = np.sqrt(np.stack([area / aspect, area * aspect], axis=1))
    return _rectangles(sides, numbers[:, 3:5], size_px)


def _mixing(policy: AugmentParams, numbers: NDArray[np.float32], size_px: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019): shares from Beta(alpha, alpha); where both are on, each half of the time."""
    nothing = np.zeros((len(numbers), 4), np.int64)
    if not (policy.mixup or policy.cutmix):
        return np.ones(len(numbers), np.float32), nothing
    cuts = numbers[:, 1] < (0.5 if policy.mixup else 1.0) if policy.cutmix else np.zeros(len(numbers), bool)
    shares = np.where(cuts, _beta(policy.cutmix, numbers[:, 0]), _beta(policy.mixup, numbers[:, 0]))
    sides = np.sqrt(np.where(cuts, 1 - shares, 0))[:, None].repeat(2, axis=1)
    pasted = _rectangles(sides, numbers[:, 2:4], size_px)
    area = (pasted[:, 2] - pasted[:, 0]) * (pasted[:, 3] - pasted[:, 1])
    return np.where(cuts, 1 - area / size_px**2, shares).astype(np.float32), pasted


def _beta(alpha: float, numbers: NDArray[np.float32]) -> NDArray[np.float64]:
    """Uniform numbers as draws from Beta(alpha, alpha), by its inverse distribution."""
    from scipy.special import betaincinv

    return np.asarray(betaincinv(alpha, alpha, numbers.astype(np.float64))) if alpha else np.ones(len(numbers))


def _rectangles(sides: NDArray[np.floating], places: NDArray[np.float32], size_px: int) -> NDArray[np.int64]:
    """Rectangles inside the image, (n, 4): of (n, 2) sides as shares of the image's (width, height), at (n, 2) places in [0, 1)."""
    lengths = np.minimum(np.rint(sides * size_px), size_px).astype(np.int64)
    corners = np.floor(places * (size_px - lengths + 1)).astype(np.int64)
    return np.concatenate([corners, corners + lengths], axis=1)


def change(images: Sequence[Images], draws: Draws, fill_mode: str) -> Images:
    """Put each image through what was drawn for it, without mixing: (n, size_px, size_px, 3)."""
    cv2.setNumThreads(1)  # a batch is made by one thread, and several batches at a time
    changed = np.empty((len(images), *images[0].shape), np.uint8)
    size = images[0].shape[1::-1]
    levels = np.arange(256, dtype=np.float32) - 127.5
    for number, (source, target) in enumerate(zip(images, changed, strict=True)):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(source, draws.transforms[number], size, dst=target, flags=flags, borderMode=BORDERS[fill_mode])
        contrast, added = draws.colours[number]
        if contrast != 1 or added != 0:
            table = np.clip(levels * contrast + (127.5 + added), 0, 255).round().astype(np.uint8)
            cv2.LUT(target, table, dst=target)
        left, top, right, bottom = draws.erased[number]
        target[top:bottom, left:right] = GREY
    return changed


def mix(images: Images, draws: Draws) -> Images:
    """Blend each image with its partner, or paste a rectangle of the partner into it."""
    if (draws.shares == 1).all():
        return images
    mixed = images.copy()
    for number, (share, (left, top, right, bottom)) in enumerate(zip(draws.shares, draws.pasted, strict=True)):
        partner = images[-1 - number]
        if right > left and bottom > top:
            mixed[number, top:bottom, left:right] = partner[top:bottom, left:right]
        elif share < 1:
            cv2.addWeighted(images[number], float(share), partner, 1 - float(share), 0, dst=mixed[number])
    return mixed


def mix_targets(targets: NDArray[np.float32], draws: Draws) -> NDArray[np.float32]:
    """Targets (n, num_classes) of mixed images: the shares of both partners."""
    shares = draws.shares[:, None]
    return shares * targets + (1 - shares) * targets[::-1]


def variants(train_set: Prepared, policy: AugmentParams, num_variants: int, labels: Sequence[int]) -> list[list[Images]]:
    """For each class an original and changed images, as training changes them (but not mixed), each (size_px, size_px, 3)."""
    draws = draw(policy, random_numbers(policy.seed, 0, num_variants), train_set.size_px)
    originals = [_example(train_set, label) for label in labels]
    return [[original, *change([original] * num_variants, draws, policy.fill_mode)] for original in originals]


def mixtures(train_set: Prepared, policy: AugmentParams, labels: Sequence[int]) -> list[tuple[Images, float, int, int]]:
    """A mixed image for each class and its neighbour in ``labels``: the image, the first's share, and both."""
    pairs = list(zip(labels, [*labels[1:], labels[0]], strict=True))
    batch = [*(first for first, _ in pairs), *(second for _, second in reversed(pairs))]  # so that they are partners
    draws = draw(policy, random_numbers(policy.seed, 0, len(batch)), train_set.size_px)
    mixed = mix(change([_example(train_set, label) for label in batch], draws, policy.fill_mode), draws)
    return [(image, float(share), *pair) for image, share, pair in zip(mixed, draws.shares, pairs, strict=False)]


def _example(train_set: Prepared, label: int) -> Images:
    return np.asarray(train_set.image(int(np.flatnonzero(train_set.labels == label)[0])))
