"""Labels that look wrong to a linear probe which has not seen the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.shared.linear_probe import linear_probe
from stages.shared.quality import issues
from stages.shared.quality.features import features
from stages.shared.quality.findings import with_labels

NUM_FOLDS = 5
# Share that the probe must give to another class before a label is doubted. With 3 % of the labels changed at random, this found 64 % of
# them among 700 photos by the features of ImageNet's backbone, and doubted no other; by the pixels of the 4,600 images of the sample it
# found 9 %, and 6 others.
SURE_BY_BACKBONE, SURE_BY_PIXELS = 0.9, 0.98
LEAST_SKILL = 0.5  # of the probe, 0 at chance and 1 without a mistake: one that knows the classes badly says nothing about labels


def doubts(facts: pd.DataFrame, raw: Path, backbone: Path, alpha: float, max_images: int) -> dict[str, str] | None:
    """Path → likelier label of the images whose label is doubted; None if there are too few to judge.

    At most ``max_images`` are looked at, chosen by their hash: evenly, and the same each time.
    """
    decodable = ~issues.having(facts["found"].to_numpy(np.uint64), *issues.UNREADABLE, "constant")
    chosen = with_labels(facts[decodable].drop_duplicates("sha256").sort_values("sha256").head(max_images))
    counts = chosen["label"].value_counts()
    chosen = chosen[chosen["label"].isin(counts.index[counts >= 2 * NUM_FOLDS])].sort_values("path")
    if chosen["label"].nunique() < 2:
        return None
    seen, by_backbone = features(raw, list(chosen["path"]), backbone, alpha)
    likelier = doubtful(seen, chosen["label"], SURE_BY_BACKBONE if by_backbone else SURE_BY_PIXELS)
    return {str(path): str(label) for path, label in zip(chosen["path"], likelier, strict=True) if label is not None}


def doubtful(features: NDArray[np.float32], labels: pd.Series[str], sure: float) -> list[str | None]:
    """For each image the label that a linear probe, fitted to the other four fifths of the data, holds for right in place of its own.

    Confident learning (Northcutt et al., 2021) as in cleanlab, and of what it finds only where the probe is sure of another class, and
    only if the probe knows the classes at all.

    Args:
        features: (num_images, num_features).
        labels: (num_images,), each class at least twice as often as there are folds.
        sure: the share that the probe must give to the other class.
    """
    from cleanlab.filter import find_label_issues
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    codes, classes = pd.factorize(labels, sort=True)
    smallest_fit = len(labels) * (NUM_FOLDS - 1) // NUM_FOLDS
    probe = linear_probe(smallest_fit, features.shape[1])
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    # Rounded, so that the last bits, in which processors differ, decide nothing.
    shares = cross_val_predict(probe, features, codes, cv=folds, method="predict_proba").round(3)
    chosen = shares.argmax(axis=1)
    chance = 1 / len(classes)
    recall = np.mean([(chosen[codes == number] == number).mean() for number in range(len(classes))])
    if (recall - chance) / (1 - chance) < LEAST_SKILL:
        return [None] * len(labels)
    found = find_label_issues(codes, shares, filter_by="both", n_jobs=1)
    doubted = found & (chosen != codes) & (shares.max(axis=1) > sure)
    return [str(classes[number]) if wrong else None for number, wrong in zip(chosen, doubted, strict=True)]
