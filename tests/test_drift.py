"""The comparison of two manifests counts what was planted, and its page escapes what it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from stages.flight.runs import drift


def manifest(num_images: int = 200) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    table = pd.DataFrame({name: generator.normal(100, 10, num_images) for name in drift.MEASURES})
    table["path"] = [f"cat/{number}.png" for number in range(num_images)]
    table["sha256"] = [f"{number:064x}" for number in range(num_images)]
    return table.assign(label="cat", split="train", status="ok")


def test_nothing_new() -> None:
    found = drift.compare(manifest(), manifest())
    assert found["sentence"] == "the same images, labels and splits"
    assert {measure["psi"] for measure in found["measures"]} == {0.0}


def test_each_planted_change_is_counted() -> None:
    before, after = manifest(), manifest().iloc[3:].copy()
    after.loc[10:14, "label"] = "dog"
    after.loc[20:26, "split"] = "val"
    after.loc[30:31, "sha256"] = ["a" * 64, "b" * 64]
    after.loc[40:42, ["path", "sha256"]] = [[f"cat/new-{number}.png", f"{number:064x}"] for number in (901, 902, 903)]
    after["brightness"] += 30
    found = drift.compare(before, after)
    counts = {name: change["count"] for name, change in found["changes"].items()}
    assert counts == {
        "added": 3,
        "removed": 6,
        "changed": 2,
        "relabelled": 5,
        "moved between splits": 7,
        "newly left out": 0,
        "newly used": 0,
    }
    assert found["sentence"] == "3 added, 6 removed, 2 changed, 5 relabelled, 7 moved between splits; brightness has shifted"
    assert found["classes"] == [{"label": "cat", "before": 200, "after": 192}, {"label": "dog", "before": 0, "after": 5}]
    assert found["changes"]["relabelled"]["first"] == [f"cat/{number}.png" for number in range(10, 15)]


def test_copies_and_what_is_left_out_are_told() -> None:
    after = pd.concat([manifest(), manifest().iloc[:4].assign(path=[f"dog/{number}.png" for number in range(4)])])
    assert drift.compare(manifest(), after)["sentence"] == "4 copies more"
    less = manifest()
    less.loc[:9, ["status", "split"]] = ["quarantined", ""]
    assert drift.compare(manifest(), less)["sentence"] == "10 newly left out"


def test_the_index_is_that_of_its_definition() -> None:
    """Half of the values above the former median become all: shares 0.1 a bin before, 0.2 in five bins now."""
    before, after = manifest(1000), manifest(1000)
    high = before["entropy"].sort_values().to_numpy()[500:]
    after["entropy"] = np.repeat(high, 2)
    psi = next(measure["psi"] for measure in drift.compare(before, after)["measures"] if measure["name"] == "entropy")
    # Half an image is added to each of 12 bins (two lie beyond all that was seen before), and what chance explains is taken off.
    full, double, none = 100.5 / 1006, 200.5 / 1006, 0.5 / 1006
    expected = 5 * (double - full) * np.log(double / full) + 5 * (none - full) * np.log(none / full) - 10 * (1 / 1000 + 1 / 1000)
    assert abs(psi - expected) < 0.05


def test_a_value_that_all_images_share_shifts_both_ways() -> None:
    for side, shifted in ((28, False), (20, True), (40, True)):
        found = drift.compare(manifest().assign(width=28), manifest().assign(width=side))
        assert ("width has shifted" in found["sentence"]) == shifted, side


def test_two_samples_of_one_kind_have_not_shifted() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        before, after = (manifest(60).assign(brightness=generator.normal(0, 1, 60)) for _ in range(2))
        assert "shifted" not in drift.compare(before, after)["sentence"]


def test_images_that_are_left_out_do_not_count_in_the_measures() -> None:
    before, after = manifest(), manifest()
    for table in (before, after):
        table.loc[:10, "status"] = "quarantined"
    after.loc[:10, list(drift.MEASURES)] = 0
    assert drift.compare(before, after)["sentence"] == "the same images, labels and splits"


def test_the_page_shows_names_as_text(tmp_path: Path) -> None:
    after = manifest()
    after.loc[0, ["path", "sha256"]] = ["cat/<img src=x onerror=alert(1)>.png", "c" * 64]
    drift.write(drift.compare(manifest(), after), ("before", "this run"), tmp_path)
    html = (tmp_path / "index.html").read_text()
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html
