"""What a linear probe sees of an image: the pooled output of the frozen backbone, or, if it starts from random weights, the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray

from stages.shared.images import load_square
from stages.shared.linear_probe import BATCH, pretrained_features

PIXELS_SIDE = 20  # of a thumbnail whose colours are the features
BACKBONE_SIDE = 160


def features(raw: Path, image_paths: Sequence[str], backbone: Path, alpha: float) -> tuple[NDArray[np.float32], bool]:
    """One row an image, (num_images, num_features), and whether a trained backbone made them."""
    of_backbone = pretrained_features(backbone, BACKBONE_SIDE, alpha)
    side, of_images = (PIXELS_SIDE, _colours) if of_backbone is None else (BACKBONE_SIDE, of_backbone)
    rows: list[NDArray[np.float32]] = []
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        for start in range(0, len(image_paths), BATCH):
            pixels = pool.map(lambda path: load_square(raw / path, side), image_paths[start : start + BATCH])
            rows.append(of_images(np.stack(list(pixels))))
    return np.concatenate(rows), of_backbone is not None


def _colours(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)
