"""Charts of the data-quality page as numbers: histograms of measures with the lines of outliers, and the map of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stages.shared.quality import issues, outliers

NUM_BINS = 40
NUM_CELLS = 28
# Measure, its name in words, and how its values are told; ``base^`` for powers.
SHOWN = (
    ("bright_end", "brightness of the bright end", "{:.2f}"),
    ("dark_end", "brightness of the dark end", "{:.2f}"),
    ("contrast", "contrast", "{:.2f}"),
    ("log10_sharpness", "sharpness (variance of the Laplacian)", "10^"),
    ("entropy", "entropy in bits", "{:.1f}"),
    ("log2_aspect", "shorter over longer side", "2^"),
    ("log2_size", "side of a square of the same area, in pixels", "2^"),
)


@dataclass(frozen=True)
class Histogram:
    """``shares`` of the highest bar, from ``low`` to ``high`` (in words); lines as share of the width, with their values in words."""

    name: str
    shares: tuple[float, ...]
    low: str
    high: str
    lines: tuple[tuple[str, float, str, int], ...]  # issue, position, value, number of images beyond


@dataclass(frozen=True)
class SizeMap:
    """Images by width and height: cells (column, row, share of the fullest), both axes in equal powers of two."""

    cells: tuple[tuple[int, int, float], ...]
    num_cells: int
    smallest: int
    largest: int


def of_measures(manifest: pd.DataFrame, lines: Sequence[outliers.Line]) -> list[Histogram]:
    """A histogram for each measure on which outliers are judged."""
    decoded = manifest[~manifest["issues"].map(lambda names: bool({*issues.UNREADABLE, "constant"}.intersection(names))).astype(bool)]
    if decoded.empty:
        return []
    values = outliers.measures(decoded)
    return [_histogram(values[measure], words, form, [line for line in lines if line.measure == measure]) for measure, words, form in SHOWN]


def _histogram(values: pd.Series[float], words: str, form: str, lines: Sequence[outliers.Line]) -> Histogram:
    ends = [float(values.min()), float(values.max()), *(line.value for line in lines)]
    low, high = min(ends), max(ends)
    high = high if high > low else low + 1
    counts, _ = np.histogram(values, NUM_BINS, (low, high))
    shares = tuple(round(float(share), 4) for share in np.sqrt(counts / counts.max()))  # roots, so that a single outlier is seen
    marks = tuple(
        (
            line.issue,
            round((line.value - low) / (high - low), 4),
            _told(form, line.value),
            int(line.crossed(np.asarray(values, np.float64)).sum()),
        )
        for line in lines
    )
    return Histogram(words, shares, _told(form, low), _told(form, high), marks)


def _told(form: str, value: float) -> str:
    """A value in words, powers written out."""
    return f"{float(form[:-1]) ** value:.3g}" if form.endswith("^") else form.format(value)


def of_sizes(manifest: pd.DataFrame) -> SizeMap | None:
    """Where widths and heights lie; None if no image has a size."""
    sized = manifest[(manifest["width"] > 0) & (manifest["height"] > 0)]
    if sized.empty:
        return None
    sides = np.log2(sized[["width", "height"]].to_numpy(float))
    low, high = sides.min(), max(sides.max(), sides.min() + 0.5)
    cells = np.minimum(((sides - low) / (high - low) * NUM_CELLS).astype(int), NUM_CELLS - 1)
    found, counts = np.unique(cells, axis=0, return_counts=True)
    shares = np.sqrt(counts / counts.max())
    listed = tuple((int(column), int(row), round(float(share), 3)) for (column, row), share in zip(found, shares, strict=True))
    return SizeMap(listed, NUM_CELLS, round(float(2**low)), round(float(2**high)))
