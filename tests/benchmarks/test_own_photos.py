"""Own photos with a pretrained backbone: the pipeline against a linear probe on the same features and split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from stages.shared import model, prepared
from tests import tiny
from tests.benchmarks.photos import PHOTOS, needs_photos

PARAMS = {
    "ingest.source": str(PHOTOS / "cats_dogs_photos.zip"),
    "ingest.backbone_weights": str(PHOTOS / "weights/mobilenet_v2_1.0_160_no_top.weights.h5"),
    "prepare.image_size_px": 160,
    "train.alpha": 1.0,
}


def features(backbone: Any, images: prepared.Prepared) -> NDArray[np.float32]:
    """Pooled features, (n, 1280)."""
    batches = [images.gather(rows) for rows in np.array_split(np.arange(len(images.labels)), -(-len(images.labels) // 32))]
    return np.concatenate([np.asarray(backbone.predict_on_batch(batch / 127.5 - 1)).mean(axis=(1, 2)) for batch in batches])


@pytest.mark.slow
@needs_photos
def test_at_least_as_good_as_a_linear_probe(tmp_path: Path) -> None:
    from scipy.stats import binomtest
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    clone = tmp_path / "clone"
    tiny.run(tmp_path, "git", "clone", "-q", str(tiny.ROOT), str(clone))
    tiny.set_params(clone, PARAMS)
    tiny.run(clone, "dvc", "repro")
    tiny.wait_for_recorders(clone)
    splits = {name: prepared.read(clone / "data/prepared", name) for name in ("train", "test")}
    classifier = model.build_classifier(2, 160, alpha=1.0, dropout=0.0, batchnorm_momentum=0.9, seed=0)
    assert model.load_backbone(classifier, clone / "data/backbone")
    backbone = classifier.get_layer("backbone")
    found = {name: features(backbone, images) for name, images in splits.items()}
    regression = LogisticRegressionCV(Cs=np.logspace(-4, 1, 8), l1_ratios=(0,), max_iter=1000, use_legacy_attributes=False)
    probe = make_pipeline(StandardScaler(), regression)
    probe.fit(found["train"], splits["train"].labels)
    probe_right = probe.predict(found["test"]) == splits["test"].labels
    rows = pd.read_csv(clone / "reports/evaluate/predictions.csv")
    right = (rows["predicted"] == rows["actual"]).to_numpy()
    only_probe, only_pipeline = int((probe_right & ~right).sum()), int((right & ~probe_right).sum())
    # McNemar's exact test (1947): the two answer the same photos, so only those where they differ count.
    p_value = binomtest(only_probe, only_probe + only_pipeline).pvalue if only_probe + only_pipeline else 1.0
    metrics = json.loads((clone / "reports/evaluate/metrics.json").read_text())
    interval = f"{metrics['accuracy_low']:.3f} to {metrics['accuracy_high']:.3f}"
    print(f"pipeline {metrics['accuracy']:.3f} ({interval}), probe {probe_right.mean():.3f}, {len(rows)} test photos, p = {p_value:.2f}")  # noqa: T201
    assert only_pipeline >= only_probe or p_value > 0.05
