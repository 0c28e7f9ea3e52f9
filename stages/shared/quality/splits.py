"""Which image is trained on, validated on, tested on: stratified, seeded, duplicates together."""

from __future__ import annotations

import hashlib

import pandas as pd


def assign(table: pd.DataFrame, fractions: dict[str, float], seed: int) -> pd.Series[str]:
    """The split of each row of ``table`` (columns label, group, sha256, given_split; "" where none was given).

    Given splits are kept. Where a split was given to no image at all, its fraction is taken from the images that no
    other evaluation split claims, class by class and whole groups at a time, in an order that depends on the seed and
    the group's content alone.
    """
    split = table["given_split"].copy()
    draws = _draws(table, seed)
    sizes = table["label"].value_counts()
    for name, fraction in fractions.items():
        if (table["given_split"] == name).any():
            continue
        free = split.isin(["", "train"])
        for label, drawn in draws[free].groupby(table["label"], sort=True, observed=True):
            wanted = max(1, round(fraction * int(sizes[label])))
            chosen = []
            for draw, size in drawn.value_counts().sort_index().items():
                if not wanted:
                    break
                if size <= wanted:  # a group that is too large is passed over
                    chosen.append(draw)
                    wanted -= size
            split[drawn.index[drawn.isin(chosen)]] = name
    split[split == ""] = "train"
    return _with_groups_together(split, table)


def _draws(table: pd.DataFrame, seed: int) -> pd.Series[int]:
    """A number for each group of a class, that the coming or going of images outside of the group does not change."""
    content = table["sha256"].copy()
    shared = table["group"].duplicated(keep=False)
    content[shared] = table[shared].groupby(["label", "group"], observed=True)["sha256"].transform("min")
    numbers = [int.from_bytes(hashlib.sha256(f"{seed}:{digest}".encode()).digest()[:8], "big") for digest in content]
    return pd.Series(numbers, table.index, dtype="uint64")


def _with_groups_together(split: pd.Series[str], table: pd.DataFrame) -> pd.Series[str]:
    """A group that spans classes follows the first of its members that could be assigned."""
    movable = ~table["given_split"].isin(["val", "test"])
    shared = table["group"].duplicated(keep=False) & movable
    split[shared] = split[shared].groupby(table["group"][shared]).transform("first")
    return split
