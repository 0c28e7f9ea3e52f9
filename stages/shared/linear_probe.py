"""A linear probe, a plain classifier on features that are given; and the features of a pretrained backbone to give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.shared import files

NUM_COMPONENTS = 100  # of the features, that the probe looks at
BATCH = 64

Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def pretrained_features(backbone: Path, size_px: int, alpha: float) -> Features | None:
    """What makes features of images, (n, size_px, size_px, 3) to (n, num_features); None if the backbone starts from random weights."""
    if not files.read_json(backbone / "backbone.json")["weights"]:
        return None
    from stages.shared import model  # TensorFlow takes seconds to load

    network = model.pooled_backbone(backbone, size_px, alpha)
    return lambda images: np.concatenate(
        [np.asarray(network.predict_on_batch(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
    )


def linear_probe(num_images: int, num_features: int) -> Any:
    """An unfitted probe, to be fitted to ``num_images`` or more, which takes all classes for equally frequent."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = min(NUM_COMPONENTS, num_images - 1, num_features)
    return make_pipeline(PCA(parts, random_state=0), StandardScaler(), LogisticRegression(C=0.1, max_iter=300, class_weight="balanced"))
