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


def property_skill(table: pd.DataFrame) -> pd.DataFrame:
    """How well size, aspect, brightness or format alone tells the label: a row a property, column ``skill``.

    Each image's label is guessed as the likeliest of its bin (of 16 equally full ones) in the other four fifths of the data. ``skill`` is
    the mean recall of these guesses, 0 at chance, 1 if every label is guessed (Cohen's kappa for balanced classes).
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
    skills = {name: _skill(bins, labels, len(classes)) for name, bins in properties.items()}
    return pd.DataFrame({"skill": skills}, dtype=float)


def _binned(values: NDArray[np.float64]) -> NDArray[np.int64]:
    if not len(values):
        return np.zeros(0, np.int64)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    return np.searchsorted(edges, values).astype(np.int64)


def _skill(bins: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> float:
    if num_classes < 2:
        return 0.0
    fold = np.random.default_rng(0).permutation(len(labels)) % NUM_FOLDS
    counts = np.zeros((NUM_FOLDS, int(bins.max()) + 1, num_classes))
    np.add.at(counts, (fold, bins, labels), 1)
    others = counts.sum(axis=0) - counts
    totals = others.sum(axis=1, keepdims=True)  # a class's images outside the fold: rare classes count as much as common ones
    guesses = (others / np.maximum(totals, 1)).argmax(axis=2)[fold, bins]
    sizes = np.bincount(labels, minlength=num_classes)
    recalls = np.bincount(labels, weights=guesses == labels, minlength=num_classes) / np.maximum(sizes, 1)
    return round(float((recalls.mean() - 1 / num_classes) / (1 - 1 / num_classes)), 4)


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
