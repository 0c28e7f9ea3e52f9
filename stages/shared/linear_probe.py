"""A linear probe: a plain classifier on features that are given."""

from __future__ import annotations

from typing import Any

NUM_COMPONENTS = 100  # of the features, that the probe looks at


def linear_probe(num_images: int, num_features: int) -> Any:
    """An unfitted probe, to be fitted to ``num_images`` or more, which takes all classes for equally frequent."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = min(NUM_COMPONENTS, num_images - 1, num_features)
    return make_pipeline(PCA(parts, random_state=0), StandardScaler(), LogisticRegression(C=0.1, max_iter=300, class_weight="balanced"))
