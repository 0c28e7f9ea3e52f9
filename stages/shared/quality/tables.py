"""What the checks look at: images, classes, splits, telling properties, and the data set as one row."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.shared.paths import SPLITS
from stages.shared.quality import issues, labels
from stages.shared.quality.checks import TableName

LIKE_A_SPLIT = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


def tables(table: pd.DataFrame, keep: Collection[str]) -> dict[TableName, pd.DataFrame]:
    """Tables of numbers whose index names the rows.

    ``table`` is that of ``Findings`` with status and split; the paths in ``keep`` are accepted whatever their issues are.
    """
    usable = table[table["status"] == "ok"]
    used = set(usable["path"]) if keep else set()
    per_split = pd.crosstab(usable["label"], usable["split"]).reindex(columns=list(SPLITS), fill_value=0)
    per_split = per_split.reindex(sorted(table["label"].unique()), fill_value=0)
    return {
        "images": _images(table, keep),
        "classes": _classes(per_split, table),
        "splits": labels.split_difference(per_split),
        "properties": labels.telling_properties(usable),
        "dataset": _dataset(table, usable),
        "keep": pd.DataFrame({"unknown": [int(path not in used) for path in keep]}, index=list(keep), dtype=np.int8),
    }


def _images(table: pd.DataFrame, keep: Collection[str]) -> pd.DataFrame:
    """A column of 0 and 1 an issue, and the images whose content, or nearly, lies in another split too; rows that have any of it.

    The others, nearly all, can break no check of images, and Great Expectations takes ten seconds to see that of a million.
    """
    kept = table["path"].isin(keep) & (table["status"] == "ok")
    found = np.where(kept, np.uint64(0), table["found"].to_numpy(np.uint64))
    split = np.where(table["status"] == "ok", table["split"].map({name: number for number, name in enumerate(SPLITS)}), -1).astype(np.int64)
    overlap = _in_several(pd.factorize(table["sha256"])[0], split)
    near = _in_several(table["group"].to_numpy(np.int64), split) & ~overlap
    rows = np.flatnonzero((found != 0) | overlap | near)
    columns = {name: ((found[rows] & bit) != 0).astype(np.int8) for name, bit in issues.BITS.items()}
    columns |= {"overlap": overlap[rows].astype(np.int8), "near_overlap": near[rows].astype(np.int8)}
    return pd.DataFrame(columns).set_axis(table["path"].iloc[rows])


def _in_several(group: NDArray[np.int64], split: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which used images (split not -1) share their group with a used image of another split."""
    used = split >= 0
    lowest = np.full(len(group), len(SPLITS))
    highest = np.full(len(group), -1)
    np.minimum.at(lowest, group[used], split[used])
    np.maximum.at(highest, group[used], split[used])
    several: NDArray[np.bool_] = used & (lowest < highest)[group]
    return several


def _classes(per_split: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    num_usable = per_split.sum(axis=1)
    smallest = max(int(num_usable.min()), 1) if len(num_usable) else 1
    columns = {
        "num_usable": num_usable,
        "smallest_split": per_split.min(axis=1),
        "ratio_to_smallest": (num_usable / smallest).astype(float),
    }
    like_a_split = table["label"].isin([label for label in per_split.index if label.lower() in LIKE_A_SPLIT])
    nested = set(table.loc[like_a_split & (table["given_split"] == ""), "path"].str.extract(r"^([^/]+)/[^/]+/", expand=False).dropna())
    return pd.DataFrame(columns).assign(misread_split=[int(label in nested) for label in per_split.index])


def _dataset(table: pd.DataFrame, usable: pd.DataFrame) -> pd.DataFrame:
    unreadable = issues.having(table["found"].to_numpy(np.uint64), *issues.UNREADABLE)
    values = {
        "num_usable": len(usable),
        "num_classes": usable["label"].nunique(),
        "unreadable_share": float(unreadable.mean()) if len(table) else 0.0,
    }
    return pd.DataFrame(values, index=["data/raw"])
