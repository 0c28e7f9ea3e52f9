"""Images unlike the rest of their data set: each measure against a line drawn where the data set itself and a fixed limit agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.shared.params import ValidateParams

# The modified z-score of Iglewicz and Hoaglin ('How to Detect and Handle Outliers', 1993) divides by 1.4826 times the median absolute
# deviation, the standard deviation of a normal distribution. They advise 3.5; 5 is for the tails of real photos.
SIGMA_OF_MAD = 1.4826
LEAST_Z = 5.0
GREY_BELOW = 0.004  # of the full range, between channels: one grey level, the rounding of JPEG
COLOUR_SHARE = 0.9


@dataclass(frozen=True)
class Line:
    """Where an issue begins: ``measure`` below (or above) ``value``."""

    issue: str
    measure: str
    side: Literal["below", "above"]
    value: float

    def crossed(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of ``values`` have the issue, same shape."""
        return values < self.value if self.side == "below" else values > self.value


def measures(table: pd.DataFrame) -> pd.DataFrame:
    """The measures that lines are drawn on: those of the scan, with size and aspect as powers of two, sharpness as a power of ten."""
    width, height = (np.maximum(table[name].to_numpy(np.float64), 1) for name in ("width", "height"))
    columns = {name: table[name].to_numpy(np.float64) for name in ("bright_end", "dark_end", "contrast", "entropy")}
    columns["log10_sharpness"] = np.log10(table["sharpness"].to_numpy(np.float64) + 0.01)
    columns["log2_size"] = np.log2(width * height) / 2
    columns["log2_aspect"] = -np.abs(np.log2(width / height))
    return pd.DataFrame(columns, index=table.index)


def lines(values: pd.DataFrame, params: ValidateParams) -> tuple[Line, ...]:
    """The lines for a data set with these ``measures`` (of its decodable images).

    A line lies at the limit from ``params`` or ``LEAST_Z`` deviations from the median, whichever is farther out: neither a data set that is
    dark throughout nor one slightly darker image is reported.
    """
    limits = params.limits
    bounds: tuple[tuple[str, str, Literal["below", "above"], float], ...] = (
        ("dark", "bright_end", "below", limits.dark),
        ("bright", "dark_end", "above", limits.bright),
        ("low-contrast", "contrast", "below", limits.low_contrast),
        ("blurry", "log10_sharpness", "below", float(np.log10(limits.blurry + 0.01))),
        ("low-information", "entropy", "below", limits.low_information),
        ("odd-aspect", "log2_aspect", "below", float(np.log2(limits.odd_aspect))),
    )
    found = [
        Line(issue, name, side, _possible(name, _farther(values[name].to_numpy(), side, limit))) for issue, name, side, limit in bounds
    ]
    size = values["log2_size"].to_numpy()
    middle, factor = float(np.median(size)) if len(size) else 0.0, float(np.log2(limits.odd_size))
    found.append(Line("odd-size", "log2_size", "below", _farther(size, "below", middle - factor)))
    found.append(Line("odd-size", "log2_size", "above", _farther(size, "above", middle + factor)))
    return tuple(found)


def _possible(measure: str, value: float) -> float:
    """The value kept in the range of its measure, for people to read; powers have none."""
    low, high = {"bright_end": (0, 1), "dark_end": (0, 1), "contrast": (0, 1), "entropy": (0, 8)}.get(measure, (-np.inf, np.inf))
    return round(float(np.clip(value, low, high)), 6)


def _farther(values: NDArray[np.float64], side: Literal["below", "above"], limit: float) -> float:
    if not len(values):
        return limit
    median = float(np.median(values))
    reach = LEAST_Z * SIGMA_OF_MAD * float(np.median(np.abs(values - median)))
    return min(limit, median - reach) if side == "below" else max(limit, median + reach)


def grey_among_colour(colour: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which images are grey, if at least nine in ten of the data set have colour; shape (num_images,)."""
    grey = colour < GREY_BELOW
    return grey if len(grey) and grey.mean() <= 1 - COLOUR_SHARE else np.zeros_like(grey)
