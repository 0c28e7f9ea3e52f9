"""Labels that a property tells, splits of other classes, and labels that a probe doubts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages import validate as stage
from stages.shared.quality import noise as label_noise
from stages.shared.quality.features import features
from stages.shared.quality.scan import scan
from tests import bad_images
from tests.facts import PARAMS, check, make_table


def test_a_label_that_the_format_tells_is_a_warning() -> None:
    table = make_table({"a": 60, "b": 60}, format=[*["JPEG"] * 58, "PNG", "PNG", *["PNG"] * 60])
    assert check(stage.validate(table, PARAMS), "telling-property").offenders == ("format: a", "format: b")
    mixed = make_table({"a": 60, "b": 60}, format=["JPEG", "PNG"] * 60)
    assert check(stage.validate(mixed, PARAMS), "telling-property").passed


def test_a_class_that_its_size_tells_among_many_is_named() -> None:
    table = make_table({f"class-{number:02d}": 40 for number in range(40)})
    generator = np.random.default_rng(0)
    width, height = generator.integers(100, 200, (2, len(table)))
    width[:40], height[:40] = 320, 240
    verdict = stage.validate(table.assign(width=width, height=height), PARAMS)
    assert check(verdict, "telling-property").offenders == ("aspect: class-00", "size: class-00")


def test_a_difference_of_splits_that_chance_explains_is_none() -> None:
    given = [*["train"] * 30, *["val"] * 9, *["test"] * 12, *["train"] * 30, *["val"] * 15, *["test"] * 12]
    verdict = stage.validate(make_table({"a": 51, "b": 57}, given_split=given), PARAMS)
    assert check(verdict, "split-balance").observed == "0"


def test_a_given_split_of_other_classes_is_a_warning() -> None:
    even = [*["train"] * 100, *["val"] * 50, *["test"] * 50] * 2
    assert check(stage.validate(make_table({"a": 200, "b": 200}, given_split=even), PARAMS), "split-balance").passed
    uneven = [*["train"] * 100, *["val"] * 90, *["test"] * 10, *["train"] * 100, *["val"] * 10, *["test"] * 90]
    found = check(stage.validate(make_table({"a": 200, "b": 200}, given_split=uneven), PARAMS), "split-balance")
    assert found.offenders == ("test", "val")
    assert float(found.observed) == pytest.approx(0.4)


def test_changed_labels_are_doubted_and_others_are_not() -> None:
    generator = np.random.default_rng(0)
    labels = np.array(["cat", "dog", "owl"], object)[np.arange(300) % 3]
    features = (generator.normal(0, 1, (300, 40)) + 9 * np.eye(3, 40)[np.arange(300) % 3]).astype(np.float32)
    changed = {10: "owl", 101: "cat"}  # a dog and an owl
    right = {number: labels[number] for number in changed}
    labels[list(changed)] = list(changed.values())
    doubted = label_noise.doubtful(features, pd.Series(labels), 0.85)
    assert {number: label for number, label in enumerate(doubted) if label} == right
    assert label_noise.doubtful(features[generator.permutation(300)], pd.Series(labels), 0.9) == [None] * 300  # the features tell nothing


def tinted_photos(raw: Path, num_images: int, wrong: tuple[int, ...] = ()) -> list[str]:
    """Two classes told by their colour; the images numbered ``wrong`` lie in the other class's folder."""
    for number in range(2 * num_images):
        colour = "red" if number % 2 else "blue"
        picture = Image.blend(bad_images.scene(number, (60, 40)), Image.new("RGB", (60, 40), colour), 0.6)
        folder = raw / ("blue" if number in wrong else colour)
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.png")
    (raw.parent / "backbone.json").write_text('{"weights": ""}')
    return sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.png"))


def test_wrong_labels_are_seen_by_the_pixels(tmp_path: Path) -> None:
    photos = tinted_photos(tmp_path / "raw", 100, wrong=(7, 27, 47))
    seen, by_backbone = features(tmp_path / "raw", photos, tmp_path, 0.35)
    assert not by_backbone
    doubted = label_noise.doubtful(seen, pd.Series([path.split("/")[0] for path in photos]), 0.75)
    found = {path: label for path, label in zip(photos, doubted, strict=True) if label}
    assert found == {f"blue/{number}.png": "red" for number in (7, 27, 47)}


@pytest.mark.parametrize(("num_images", "judged"), [(5, False), (10, True), (30, True), (62, True)])
def test_labels_of_few_images(tmp_path: Path, num_images: int, judged: bool) -> None:
    tinted_photos(tmp_path / "raw", num_images)
    doubts = label_noise.doubts(scan(tmp_path / "raw", tmp_path / "kept"), tmp_path / "raw", tmp_path, 0.35, 1000)
    assert doubts == ({} if judged else None)
