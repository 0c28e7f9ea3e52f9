"""Figures of a classification, and their 95 % intervals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

METRICS = ("accuracy", "macro_recall", "macro_f1", "expected_calibration_error")
NUM_BINS = 15  # Guo et al., 'On Calibration of Modern Neural Networks', 2017
NUM_RESAMPLES = 1000
RESAMPLING_SEED = 0
PERCENTILES = (2.5, 97.5)


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Counts (actual, predicted), (num_classes, num_classes)."""
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def score(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> dict[str, float]:
    """Accuracy, macro recall, macro F1 (over classes that occur), and expected calibration error (15 bins)."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    confusion = confusion_matrix(labels, predicted, probabilities.shape[1])
    actual, answered, hits = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    occurs = actual > 0
    correct = predicted == labels
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=correct, minlength=NUM_BINS) - np.bincount(bins, weights=confidence, minlength=NUM_BINS)
    return {
        "accuracy": float(correct.mean()),
        "macro_recall": float((hits[occurs] / actual[occurs]).mean()),
        "macro_f1": float((2 * hits[occurs] / (actual + answered)[occurs]).mean()),
        "expected_calibration_error": float(np.abs(gaps).sum() / len(labels)),
    }


def interval(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> dict[str, tuple[float, float]]:
    """Each metric's 95 % interval: Wilson's for accuracy, else percentiles of seeded bootstrap samples of images, less their bias.

    Resampling makes a calibration error larger than it is; the difference between the samples' mean and the value is
    taken off (Efron and Tibshirani, 'An Introduction to the Bootstrap', 1993, chapter 10).
    """
    values = score(labels, probabilities)
    generator = np.random.default_rng(RESAMPLING_SEED)
    samples = []
    for _ in range(NUM_RESAMPLES):
        rows = generator.integers(0, len(labels), len(labels))
        samples.append(score(labels[rows], probabilities[rows]))
    bounds = {}
    for name in METRICS:
        found = np.array([sample[name] for sample in samples])
        low, high = np.clip(np.percentile(found, PERCENTILES) - found.mean() + values[name], 0, 1)
        bounds[name] = float(low), float(high)
    return {**bounds, "accuracy": wilson(values["accuracy"], len(labels))}


def wilson(share: float, number: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``number`` cases, also where all or none are right (Wilson, 1927)."""
    z = 1.959964
    centre = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    return max(0.0, centre - half), min(1.0, centre + half)
