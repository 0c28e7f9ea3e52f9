"""How the images of a run differ from those of the run before: a pure comparison of two manifests, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.shared import files, page

PAGE = Path(__file__).parent / "pages/drift.html"
MEASURES = ("width", "height", "num_bytes", "brightness", "sharpness", "entropy")
NUM_BINS = 10
# Population stability index, as read in credit scoring (Siddiqi, 'Credit Risk Scorecards', 2006): below 0.1 stable, above 0.25 shifted.
SHIFTED = 0.25
LEAST_SHARE = 1e-4
MAX_LISTED = 50


def compare(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    """What was added, removed, relabelled or moved between splits (by content), changed (by path), and how classes and measures shifted."""
    old, new = (table.drop_duplicates("sha256").set_index("sha256") for table in (before, after))
    common = new.index.intersection(old.index)
    relabelled = common[new.loc[common, "label"].to_numpy() != old.loc[common, "label"].to_numpy()]
    moved = common[new.loc[common, "split"].to_numpy() != old.loc[common, "split"].to_numpy()]
    added, removed = new.index.difference(old.index), old.index.difference(new.index)
    changed = set(new.loc[added, "path"]) & set(old.loc[removed, "path"])
    changes = {
        "added": _listed(new, added[~new.loc[added, "path"].isin(changed)]),
        "removed": _listed(old, removed[~old.loc[removed, "path"].isin(changed)]),
        "changed": {"count": len(changed), "first": sorted(changed)[:MAX_LISTED]},
        "relabelled": _listed(new, relabelled),
        "moved between splits": _listed(new, moved),
    }
    measures = [_measure(name, before[name].to_numpy(float), after[name].to_numpy(float)) for name in MEASURES]
    return {
        "sentence": _sentence(changes, measures),
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


def _listed(table: pd.DataFrame, digests: pd.Index[Any]) -> dict[str, Any]:
    paths = sorted(table.loc[digests, "path"])
    return {"count": len(paths), "first": paths[:MAX_LISTED]}


def _classes(before: pd.DataFrame, after: pd.DataFrame) -> list[dict[str, Any]]:
    old, new = (table.loc[table["status"] == "ok", "label"].value_counts() for table in (before, after))
    return [
        {"label": label, "before": int(old.get(label, 0)), "after": int(new.get(label, 0))} for label in sorted({*old.index, *new.index})
    ]


def _measure(name: str, before: NDArray[np.float64], after: NDArray[np.float64]) -> dict[str, Any]:
    """Means, shares in the bins that split the values before into tenths, and the population stability index."""
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    if not (len(before) and len(after)):
        return {"name": name, "mean_before": None, "mean_after": None, "shares": [], "psi": 0.0}
    edges = np.unique(np.quantile(before, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    shares = [
        np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) / len(values) for values in (before, after)
    ]
    old, new = (np.maximum(share, LEAST_SHARE) for share in shares)
    return {
        "name": name,
        "mean_before": float(before.mean()),
        "mean_after": float(after.mean()),
        "shares": [[round(float(share), 4) for share in pair] for pair in zip(*shares, strict=True)],
        "psi": round(float(((new - old) * np.log(new / old)).sum()), 4),
    }


def _sentence(changes: dict[str, dict[str, Any]], measures: Sequence[dict[str, Any]]) -> str:
    told = [f"{change['count']} {name}" for name, change in changes.items() if change["count"]]
    shifted = [f"{measure['name'].replace('_', ' ')} has shifted" for measure in measures if measure["psi"] > SHIFTED]
    return "; ".join(filter(None, [", ".join(told), ", ".join(shifted)])) or "the same images, labels and splits"
