"""Splits are stratified, seeded, and keep groups together."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from stages.shared.quality import findings, splits
from tests.facts import make_table

FRACTIONS = {"val": 0.15, "test": 0.2}


def ungrouped(counts: dict[str, int], **columns: list[Any]) -> pd.DataFrame:
    group = columns.pop("group", None)
    table = findings.with_labels(make_table(counts, **columns))
    return table.assign(group=range(len(table)) if group is None else group)


def test_splits_are_stratified() -> None:
    table = ungrouped({"a": 100, "b": 33, "c": 20})
    split = splits.assign(table, FRACTIONS, 0)
    counts = pd.crosstab(table["label"], split)
    for label, total in (("a", 100), ("b", 33), ("c", 20)):
        assert int(counts["val"][label]) == round(0.15 * total)
        assert int(counts["test"][label]) == round(0.2 * total)
    assert int(counts.to_numpy().sum()) == 153


def test_the_seed_decides_the_split() -> None:
    table = ungrouped({"a": 100, "b": 100})
    first = splits.assign(table, FRACTIONS, 0)
    assert splits.assign(table, FRACTIONS, 0).tolist() == first.tolist()
    assert splits.assign(table, FRACTIONS, 1).tolist() != first.tolist()


def test_the_split_does_not_depend_on_names_or_order() -> None:
    table = ungrouped({"a": 100, "b": 100})
    first = dict(zip(table["sha256"], splits.assign(table, FRACTIONS, 0), strict=True))
    shuffled = table.sample(frac=1, random_state=1).reset_index(drop=True)
    shuffled = shuffled.assign(group=range(len(shuffled)), path=[f"{number}.png" for number in range(len(shuffled))])
    assert dict(zip(shuffled["sha256"], splits.assign(shuffled, FRACTIONS, 0), strict=True)) == first


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_split(seed: int) -> None:
    """Groups of up to three, some of which span both classes."""
    group = [*[number // 3 for number in range(90)], *[number // 2 for number in range(90)]]
    table = ungrouped({"a": 90, "b": 90}, group=group)
    split = splits.assign(table, FRACTIONS, seed)
    assert split.groupby(table["group"]).nunique().max() == 1
    assert set(split) == {"train", "val", "test"}


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_split_where_val_is_carved_out_of_train(seed: int) -> None:
    group = [*[number // 3 for number in range(90)], *[number // 2 for number in range(90)], *range(1000, 1040)]
    given = [*["train"] * 180, *["test"] * 40]
    table = ungrouped({"a": 90, "b": 110, "a ": 20}, given_split=given, group=group)
    split = splits.assign(table, FRACTIONS, seed)
    assert split.groupby(table["group"]).nunique().max() == 1
    assert split[180:].tolist() == ["test"] * 40


def test_given_splits_are_kept() -> None:
    given = [*["train"] * 10, *["val"] * 30, *["test"] * 60, *["train"] * 50, *["val"] * 30, *["test"] * 20]
    table = ungrouped({"a": 100, "b": 100}, given_split=given)
    assert splits.assign(table, FRACTIONS, 0).tolist() == given


@pytest.mark.parametrize(("given", "missing"), [("test", "val"), ("val", "test")])
def test_a_split_that_was_not_given_comes_out_of_train(given: str, missing: str) -> None:
    table = ungrouped({"a": 100, "b": 60}, given_split=[*["train"] * 80, *[given] * 20, *["train"] * 50, *[given] * 10])
    split = splits.assign(table, FRACTIONS, 0)
    assert (split[table["given_split"] == given] == given).all()
    counts = pd.crosstab(table["label"], split)
    assert int(counts[missing]["a"]) == round(100 * FRACTIONS[missing])
    assert int(counts[missing]["b"]) == round(60 * FRACTIONS[missing])
    assert int(counts["train"]["a"]) == 80 - round(100 * FRACTIONS[missing])
