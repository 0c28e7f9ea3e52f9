"""How the images of a run differ from those of the run before: a pure comparison of two manifests, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.flight.runs import images
from stages.shared import files, page

PAGE = Path(__file__).parent / "pages/drift.html"
MEASURES = ("width", "height", "num_bytes", "brightness", "sharpness", "entropy")
NUM_BINS = 10
MISSING_COUNT = 0.5  # added to each bin, so that an empty one is small and not infinitely far
# Population stability index, as read in credit scoring (Siddiqi, 'Credit Risk Scorecards', 2006): below 0.1 stable, above 0.25 shifted.
SHIFTED = 0.25
MAX_LISTED = 50


def compare(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    """What was added, removed, relabelled or moved between splits (by content), changed (by path), and how classes and measures shifted."""
    found = images.changes(*(images.of_table(table) for table in (before, after)))
    changes = {name: {"count": len(some), "first": [image.path for image in some[:MAX_LISTED]]} for name, some in found.items()}
    num_copies = [len(table) - table["sha256"].nunique() for table in (before, after)]
    usable = [table[table["status"] == "ok"] for table in (before, after)]
    measures = [_measure(name, *(table[name].to_numpy(float) for table in usable)) for name in MEASURES]
    return {
        "sentence": _sentence(changes, measures, num_copies[1] - num_copies[0]),
        "num_before": len(before),
        "num_after": len(after),
        "changes": changes,
        "classes": _classes(before, after),
        "measures": measures,
    }


def metrics(found: dict[str, Any]) -> dict[str, float]:
    """The counts and indices by name, for curves over the runs."""
    counts = {name.replace(" ", "_"): float(change["count"]) for name, change in found["changes"].items()}
    return counts | {f"psi/{measure['name']}": measure["psi"] for measure in found["measures"]}


def write(found: dict[str, Any], names: Sequence[str], folder: Path) -> None:
    """summary.json and the page; ``names`` are those of the run before and of this one."""
    files.write_json(folder / "summary.json", found)
    files.write_text(folder / "index.html", page.render(PAGE, found=found, names=names, shifted=SHIFTED))


def _classes(before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, Any]]:
    old, new = (table.loc[table["status"] == "ok", "label"].value_counts() for table in (before, after))
    return [
        {"label": label, "before": int(old.get(label, 0)), "after": int(new.get(label, 0))} for label in sorted({*old.index, *new.index})
    ]


def _measure(name: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> dict[str, Any]:
    """Means, shares in the bins that split the values before into tenths and beyond, and the population stability index beyond chance."""
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    if not (len(before) and len(after)):
        return {"name": name, "mean_before": None, "mean_after": None, "shares": [], "psi": 0.0}
    # Beside the tenths a bin for all that is below, and one for all that is above, anything seen before.
    inner = np.quantile(before, np.linspace(0, 1, NUM_BINS + 1)[1:-1])
    edges = np.unique([np.nextafter(before.min(), -np.inf), *inner, before.max()])
    counts = [np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) for values in (before, after)]
    shares = [count / count.sum() for count in counts]
    old, new = ((count + MISSING_COUNT) / (count + MISSING_COUNT).sum() for count in counts)
    # What two samples of one distribution differ by on average (Yurdakul, 'Statistical Properties of Population Stability Index', 2018).
    by_chance = (len(edges) - 2) * (1 / len(before) + 1 / len(after))
    return {
        "name": name,
        "mean_before": float(before.mean()),
        "mean_after": float(after.mean()),
        "shares": [[round(float(share), 4) for share in pair] for pair in zip(*shares, strict=True)],
        "psi": round(max(0.0, float(((new - old) * np.log(new / old)).sum()) - by_chance), 4),
    }


def _sentence(changes: dict[str, dict[str, Any]], measures: Sequence[dict[str, Any]], more_copies: int) -> str:
    told = [f"{change['count']} {name}" for name, change in changes.items() if change["count"]]
    told += [f"{abs(more_copies)} copies {'more' if more_copies > 0 else 'fewer'}"] if more_copies else []
    shifted = [f"{measure['name'].replace('_', ' ')} has shifted" for measure in measures if measure["psi"] > SHIFTED]
    return "; ".join(filter(None, [", ".join(told), ", ".join(shifted)])) or "the same images, labels and splits"
