"""Which image is trained on, validated on, tested on: stratified, seeded, duplicates together."""

from __future__ import annotations

import hashlib

import pandas as pd


def assign(table: pd.DataFrame, fractions: dict[str, float], seed: int) -> pd.Series[str]:
    """The split of each row of ``table`` (columns label, group, given_split; "" where none was given).

    Given splits are kept. Where a split was given to no image at all, its fraction is taken from the images that no
    other evaluation split claims, class by class and whole groups at a time, in an order that depends on the seed and
    the group's content alone. ``table`` also holds ``sha256``.
    """
    split = table["given_split"].copy()
    free = split.isin(["", "train"])
    for name, fraction in fractions.items():
        if (table["given_split"] == name).any():
            continue
        for _, members in table[free].groupby("label", sort=True):
            draws = _draws(members, seed)
            wanted = max(1, round(fraction * int((table["label"] == members["label"].iloc[0]).sum()))) if fraction else 0
            chosen = []
            for drawn, size in draws.value_counts().sort_index().items():
                if size <= wanted:  # a group that is too large is passed over
                    chosen.append(drawn)
                    wanted -= size
            split[members.index[draws.isin(chosen)]] = name
        free = split.isin(["", "train"])
    split[free] = "train"
    # A group that spans classes follows the first of its members that could be assigned.
    assigned = ~table["given_split"].isin(["val", "test"])
    first = split.where(assigned).groupby(table["group"]).transform("first")
    return split.where(~assigned, first)


def _draws(members: pd.DataFrame, seed: int) -> pd.Series[str]:
    """A number for each group that no other image's coming or going changes."""
    content = members.groupby("group")["sha256"].transform("min")
    return content.map(lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest())
