"""What a linear probe sees of an image: the pooled output of the frozen backbone, or, if it starts from random weights, the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from stages.shared import files
from stages.shared.images import load_square

PIXELS_SIDE = 20  # of a thumbnail whose colours are the features
BACKBONE_SIDE = 160
BATCH = 64


def features(raw: Path, image_paths: Sequence[str], backbone: Path, alpha: float) -> tuple[NDArray[np.float32], bool]:
    """One row an image, (num_images, num_features), and whether a trained backbone made them."""
    trained = bool(files.read_json(backbone / "backbone.json")["weights"])
    side = BACKBONE_SIDE if trained else PIXELS_SIDE
    rows: list[NDArray[np.float32]] = []
    network = _backbone(backbone, alpha) if trained else None
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:
        for start in range(0, len(image_paths), BATCH):
            pixels = np.stack(list(pool.map(lambda path: load_square(raw / path, side), image_paths[start : start + BATCH])))
            rows.append(
                pixels.reshape(len(pixels), -1).astype(np.float32) if network is None else np.asarray(network.predict_on_batch(pixels))
            )
    return np.concatenate(rows), trained


def _backbone(folder: Path, alpha: float) -> Any:
    from stages.shared import model  # TensorFlow takes seconds to load

    return model.pooled_backbone(folder, BACKBONE_SIDE, alpha)
