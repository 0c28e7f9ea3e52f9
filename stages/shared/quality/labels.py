"""What labels betray: classes that a mere property of the file tells, and splits with other shares of the classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

NUM_FOLDS = 5
NUM_BINS = 16
CHANCE = 0.001  # a difference that chance explains more often than this is none


def telling_properties(table: pd.DataFrame) -> pd.DataFrame:
    """How well size, aspect, file size, brightness or format alone tells a class from all others: a row each, column ``difference``.

    The total variation distance between the property's distributions (in 16 equally full bins) inside and outside of the class, 0 to 1:
    what one learns about the class by seeing nothing else. The bins that speak for the class are chosen on four fifths of the data and
    judged on the rest, so that few images do not seem telling by chance.
    """
    labels, classes = pd.factorize(table["label"], sort=True)
    area = table["width"].to_numpy(np.float64) * table["height"]
    properties: Mapping[str, NDArray[np.int64]] = {
        "size": _binned(np.asarray(area)),
        "aspect": _binned(np.asarray(table["width"] / np.maximum(table["height"], 1), np.float64)),
        "file size": _binned(table["num_bytes"].to_numpy(np.float64)),
        "brightness": _binned(table["brightness"].to_numpy(np.float64)),
        "format": pd.factorize(table["format"] + " " + table["mode"], sort=True)[0],
    }
    found = {
        f"{name}: {label}": difference
        for name, bins in properties.items()
        for label, difference in zip(classes, _differences(bins, labels, len(classes)), strict=True)
    }
    return pd.DataFrame({"difference": found}, dtype=float)


def _binned(values: NDArray[np.float64]) -> NDArray[np.int64]:
    if not len(values):
        return np.zeros(0, np.int64)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    return np.searchsorted(edges, values).astype(np.int64)


def _differences(bins: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """One number a class, (num_classes,)."""
    if num_classes < 2:
        return np.zeros(num_classes)
    fold = np.random.default_rng(0).permutation(len(labels)) % NUM_FOLDS
    inside = np.zeros((NUM_FOLDS, int(bins.max()) + 1, num_classes))
    np.add.at(inside, (fold, bins, labels), 1)
    outside = inside.sum(axis=2, keepdims=True) - inside
    inside_elsewhere, outside_elsewhere = (counts.sum(axis=0) - counts for counts in (inside, outside))
    speaks_for = inside_elsewhere * outside_elsewhere.sum(axis=1, keepdims=True) > outside_elsewhere * inside_elsewhere.sum(
        axis=1, keepdims=True
    )
    shares = [(counts * speaks_for).sum(axis=(0, 1)) / np.maximum(counts.sum(axis=(0, 1)), 1) for counts in (inside, outside)]
    return np.asarray(np.maximum(shares[0] - shares[1], 0).round(4), np.float64)


def split_difference(per_split: pd.DataFrame) -> pd.DataFrame:
    """How far the shares of the classes in val and test lie from those in train: a row a split, column ``difference``.

    ``per_split`` counts images, a row a class, a column a split. The difference is the total variation distance, 0 to 1; 0 where a
    chi-squared test finds that chance explains it.
    """
    found = {}
    for name in ("val", "test"):
        counts = per_split[["train", name]].to_numpy(np.float64)
        counts = counts[counts.sum(axis=1) > 0]
        compared = len(counts) > 1 and bool((counts.sum(axis=0) > 0).all())
        shares = counts / np.maximum(counts.sum(axis=0), 1)
        by_chance = not compared or chi2_contingency(counts).pvalue > CHANCE
        found[name] = 0.0 if by_chance else round(float(np.abs(shares[:, 0] - shares[:, 1]).sum() / 2), 4)
    return pd.DataFrame({"difference": found}, dtype=float)
