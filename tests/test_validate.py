"""The data checks: the sample's planted defects, duplicates, splits, policies, and the report."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from stages import data_docs
from stages import validate as stage
from stages.shared import paths
from stages.shared.manifest import MANIFEST_COLUMNS, read_manifest, usable_rows
from stages.shared.params import ValidateParams, load
from stages.shared.quality import duplicates, findings, issues, splits
from stages.shared.quality import noise as label_noise
from stages.shared.quality.checks import CheckResult
from stages.shared.quality.features import features
from stages.shared.quality.issues import UNREADABLE
from stages.shared.quality.kept import FACT_SCHEMA
from stages.shared.quality.scan import scan
from tests import bad_images
from tests.tiny import ROOT, environment

PARAMS = load(ROOT / "params.yaml").validate_


@dataclass(frozen=True)
class Sample:
    """The shipped sample: unpacked, its planted defects, the scanned table, and the verdict with the shipped parameters."""

    raw: Path
    planted: list[dict[str, str]]
    scanned: pd.DataFrame
    verdict: stage.Verdict


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    raw = tmp_path_factory.mktemp("sample") / "raw"
    with zipfile.ZipFile(ROOT / "data/sample/fashion_mnist.zip") as archive:
        archive.extractall(raw)
    with (ROOT / "data/sample/planted.csv").open(encoding="utf-8", newline="") as file:
        planted = list(csv.DictReader(file))
    scanned = scan(raw, tmp_path_factory.mktemp("kept"))
    return Sample(raw, planted, scanned, stage.validate(scanned, PARAMS))


def with_values(**values: Any) -> ValidateParams:
    """The shipped parameters with some changed; ``policy`` changes only the policies that it names."""
    policy = values.pop("policy", {})
    return PARAMS.model_copy(update={**values, "policy": PARAMS.policy.model_copy(update=policy)})


def make_table(counts: dict[str, int], **columns: list[Any]) -> pd.DataFrame:
    """Distinct good images as a scan finds them: ``counts`` images a class, some columns replaced."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**63, (4, len(labels)), dtype=np.uint64)
    values: dict[str, Any] = {
        "path": [f"{label}/{number:04d}.png" for number, label in enumerate(labels)],
        "found": np.zeros(len(labels), np.uint64),
        "width": [8] * len(labels),
        "height": [8] * len(labels),
        "mode": ["RGB"] * len(labels),
        "format": ["PNG"] * len(labels),
        "num_bytes": [100] * len(labels),
        "sha256": [f"{number:064x}" for number in generator.permutation(len(labels))],
        **dict(zip(("dhash", "phash", "dhash_mirrored", "phash_mirrored"), hashes, strict=True)),
        "brightness": [0.5] * len(labels),
        "dark_end": [0.1] * len(labels),
        "bright_end": [0.9] * len(labels),
        "contrast": [0.2] * len(labels),
        "colour": [0.1] * len(labels),
        "sharpness": [500.0] * len(labels),
        "entropy": [7.0] * len(labels),
    }
    if given_split := columns.pop("given_split", None):
        values["path"] = [f"{split}/{path}" for split, path in zip(given_split, values["path"], strict=True)]
    if found := columns.pop("issues", None):
        values["found"] = [issues.mask(names) for names in found]
    table = pd.DataFrame({**values, **columns}, columns=["path", *FACT_SCHEMA.names])
    return table.astype({"path": "str", "sha256": "str", "mode": "str", "format": "str", "found": "uint64"})


def set_value(table: pd.DataFrame, column: str, row: int, value: Any) -> None:
    """Change one value."""
    values = list(table[column])
    values[row] = value
    table[column] = pd.Series(values, dtype=table[column].dtype)


def copy_bytes(table: pd.DataFrame, original: int, copy: int) -> None:
    """Make one row a byte-equal copy of another."""
    for column in ("sha256", "dhash", "phash", "dhash_mirrored", "phash_mirrored"):
        set_value(table, column, copy, table[column][original])


def check(verdict: stage.Verdict, name: str) -> CheckResult:
    return next(found for found in verdict.checks if found.name == name)


def failed_critical(verdict: stage.Verdict) -> set[str]:
    return {found.name for found in verdict.checks if found.severity == "critical" and not found.passed}


def noise(seed: int, size_px: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# The sample


def test_every_planted_defect_is_found_by_its_check(sample: Sample) -> None:
    offenders = {found.name: set(found.offenders) for found in sample.verdict.checks}
    missed = [row for row in sample.planted if row["path"] not in offenders[row["check"]]]
    assert len(sample.planted) == 43
    assert missed == []


def test_clean_images_have_no_issue_beside_the_originals_of_copies(sample: Sample) -> None:
    implied = {"palette": "animated", "unportable-format": "animated"}  # GIF and WebP
    for name in set(issues.NAMES) - {"near-duplicate", *implied}:
        planted = {path for row in sample.planted if row["check"] == name for path in (row["path"], row["original"]) if path}
        assert set(check(sample.verdict, name).offenders) == planted, name
    for name, planted_as in implied.items():
        assert set(check(sample.verdict, name).offenders) <= {row["path"] for row in sample.planted if row["check"] == planted_as}


def test_no_clean_image_is_quarantined(sample: Sample) -> None:
    manifest = sample.verdict.manifest
    quarantined = manifest[manifest["status"] == "quarantined"]
    unusable = {"empty", "not-an-image", "truncated", "constant"}
    assert set(quarantined["path"]) == {row["path"] for row in sample.planted if row["check"] in unusable}
    assert set(quarantined["split"]) == {""}
    assert set(manifest.loc[manifest["status"] == "ok", "split"]) == {"train", "val", "test"}


def test_the_sample_passes_with_warnings(sample: Sample) -> None:
    summary = sample.verdict.summary()
    assert sample.verdict.passed
    assert (summary["num_images"], summary["num_ok"], summary["num_quarantined"]) == (4626, 4613, 13)
    implied = {"palette", "unportable-format"}
    assert {found.name for found in sample.verdict.checks if not found.passed} == {row["check"] for row in sample.planted} | implied


def test_groups_of_the_sample_lie_in_one_split_and_join_copies(sample: Sample) -> None:
    manifest = sample.verdict.manifest
    usable = manifest[manifest["status"] == "ok"]
    assert usable.groupby("group")["split"].nunique().max() == 1
    group = dict(zip(manifest["path"], manifest["group"], strict=True))
    copies = [row for row in sample.planted if row["original"]]
    assert len(copies) == 11
    assert [row for row in copies if group[row["path"]] != group[row["original"]]] == []


def test_the_sample_is_stratified(sample: Sample) -> None:
    usable = sample.verdict.manifest.query("status == 'ok'")
    for label, rows in usable.groupby("label"):
        for split in ("val", "test"):
            assert abs((rows["split"] == split).sum() - 0.15 * len(rows)) <= 2.5, (label, split)


# Duplicates


def flip_bits(value: int, bits: NDArray[np.int64]) -> int:
    for bit in bits:
        value ^= 1 << int(bit)
    return value


@pytest.mark.parametrize("distance", [0, 1, 2, 4, 8])
def test_near_pairs_equal_brute_force(distance: int) -> None:
    generator = np.random.default_rng(distance)
    hashes: list[tuple[int, int]] = [(0, 0), (2**64 - 1, 2**64 - 1), (0, 0)]
    hashes += [(int(a), int(b)) for a, b in generator.integers(0, 2**64 - 1, (40, 2), dtype=np.uint64)]
    for _ in range(200):
        first, second = hashes[generator.integers(len(hashes))]
        num_bits = generator.integers(0, distance + 3, 2)
        first = flip_bits(first, generator.choice(64, num_bits[0], replace=False))
        hashes.append((first, flip_bits(second, generator.choice(64, num_bits[1], replace=False))))
    mirrored = [hashes[number] if number % 7 == 0 else (first ^ 0xF0F0, second) for number, (first, second) in enumerate(hashes)]
    mirrored[5:15] = [(hashes[number][0] ^ 1, hashes[number][1]) for number in range(30, 40)]

    def close(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return all((a ^ b).bit_count() <= distance for a, b in zip(one, other, strict=True))

    near = np.array(
        [
            [i, j]
            for i in range(len(hashes))
            for j in range(i + 1, len(hashes))
            if close(hashes[i], hashes[j]) or close(hashes[i], mirrored[j]) or close(hashes[j], mirrored[i])
        ]
    )
    assert len(near) > 10
    arrays = [tuple(np.array([pair[i] for pair in pairs], np.uint64) for i in (0, 1)) for pairs in (hashes, mirrored)]
    found = duplicates.near_pairs(arrays[0], arrays[1], distance)  # type: ignore[arg-type]
    assert {tuple(pair) for pair in found.tolist()} <= {tuple(pair) for pair in near.tolist()}
    assert set(found.ravel().tolist()) == set(near.ravel().tolist())
    assert duplicates.groups(found, len(hashes)).tolist() == duplicates.groups(near, len(hashes)).tolist()


def test_near_pairs_of_nothing() -> None:
    nothing = np.empty(0, np.uint64)
    assert duplicates.near_pairs((nothing, nothing), (nothing, nothing), 2).shape == (0, 2)


def test_a_thousand_equal_pictures_are_joined_by_a_thousand_pairs() -> None:
    same = np.full(1000, 7, np.uint64)
    assert len(duplicates.near_pairs((same, same), (same, same), 2)) == 999


def test_groups_are_named_by_their_smallest_member() -> None:
    pairs = np.array([[4, 5], [1, 3], [3, 5], [2, 6]], np.int64)
    assert duplicates.groups(pairs, 8).tolist() == [0, 1, 2, 1, 1, 1, 2, 7]
    assert duplicates.groups(np.empty((0, 2), np.int64), 0).tolist() == []


def test_equal_pairs_join_each_copy_to_the_first() -> None:
    assert duplicates.equal_pairs(pd.Series(["b", "a", "b", "c", "b", "a"])).tolist() == [[0, 2], [0, 4], [1, 5]]


# Splits

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


# Policies and critical checks


@pytest.mark.parametrize("policy", ["quarantine", "report", "fail"])
def test_policies_act(policy: str) -> None:
    table = make_table({"a": 60, "b": 60}, issues=[["cmyk"], *([] for _ in range(119))])
    verdict = stage.validate(table, with_values(policy={"cmyk": policy}))
    assert check(verdict, "cmyk").offenders == ("a/0000.png",)
    assert verdict.manifest["status"][0] == ("quarantined" if policy == "quarantine" else "ok")
    assert (verdict.manifest["split"][0] == "") == (policy == "quarantine")
    assert verdict.passed == (policy != "fail")
    assert failed_critical(verdict) == ({"cmyk"} if policy == "fail" else set())


@pytest.mark.parametrize("issue", UNREADABLE)
def test_what_cannot_be_decoded_is_never_used(issue: str) -> None:
    table = make_table({"a": 60, "b": 60}, issues=[[], [], [], [issue], *([] for _ in range(116))])
    verdict = stage.validate(table, with_values(policy={issue.replace("-", "_"): "report"}))
    assert verdict.manifest["status"].tolist().count("quarantined") == 1
    assert verdict.manifest["status"][3] == "quarantined"


def test_copies_are_reported_and_stay_together() -> None:
    table = make_table({"a": 60, "b": 60})
    for copy, original in ((1, 0), (70, 2), (71, 72)):
        copy_bytes(table, original, copy)
    verdict = stage.validate(table, PARAMS)
    assert check(verdict, "exact-duplicate").offenders == ("a/0000.png", "a/0001.png", "b/0071.png", "b/0072.png")
    assert check(verdict, "conflicting-labels").offenders == ("a/0002.png", "b/0070.png")
    assert verdict.manifest["group"][[0, 1, 2, 70, 71, 72]].tolist() == [0, 0, 2, 2, 71, 71]
    assert check(verdict, "split-overlap").passed
    assert verdict.passed


def test_every_copy_under_a_disputed_label_is_named() -> None:
    table = make_table({"a": 60, "b": 60})
    for copy in (3, 70, 71):
        copy_bytes(table, 2, copy)
    verdict = stage.validate(table, with_values(policy={"conflicting_labels": "quarantine"}))
    disputed = ("a/0002.png", "a/0003.png", "b/0070.png", "b/0071.png")
    assert check(verdict, "conflicting-labels").offenders == disputed
    assert check(verdict, "exact-duplicate").offenders == disputed
    assert tuple(verdict.manifest.loc[verdict.manifest["status"] == "quarantined", "path"]) == disputed


def test_of_copies_in_quarantine_the_first_stays() -> None:
    table = make_table({"a": 60, "b": 60})
    copy_bytes(table, 0, 1)
    copy_bytes(table, 0, 2)
    for name in ("dhash", "phash", "dhash_mirrored", "phash_mirrored"):
        set_value(table, name, 71, int(table[name][70]) ^ 1)
    verdict = stage.validate(table, with_values(policy={"exact_duplicate": "quarantine", "near_duplicate": "quarantine"}))
    quarantined = verdict.manifest["status"] == "quarantined"
    assert list(verdict.manifest.loc[quarantined, "path"]) == ["a/0001.png", "a/0002.png", "b/0071.png"]


def test_a_single_class_fails() -> None:
    verdict = stage.validate(make_table({"a": 60}), PARAMS)
    assert failed_critical(verdict) == {"class-set"}
    assert not verdict.passed


@pytest.mark.parametrize(("num_broken", "passed"), [(12, True), (13, False)])
def test_the_share_of_unreadable_files_is_limited(num_broken: int, passed: bool) -> None:
    issues = [["truncated"] if number % 9 == 0 and number < 9 * num_broken else [] for number in range(120)]
    verdict = stage.validate(make_table({"a": 60, "b": 60}, issues=issues), with_values(max_unreadable_fraction=12 / 120))
    assert verdict.passed == passed
    assert failed_critical(verdict) == (set() if passed else {"unreadable-share"})


def test_a_class_without_an_image_in_a_split_fails() -> None:
    verdict = stage.validate(make_table({"a": 60, "b": 60, "rare": 2}), PARAMS)
    assert failed_critical(verdict) == {"split-classes"}
    assert check(verdict, "split-classes").offenders == ("rare",)


def test_a_class_without_a_usable_image_fails() -> None:
    issues = [[] if number < 120 else ["constant"] for number in range(125)]
    verdict = stage.validate(make_table({"a": 60, "b": 60, "blank": 5}, issues=issues), PARAMS)
    assert check(verdict, "split-classes").offenders == ("blank",)
    assert not verdict.passed


def test_overlap_of_given_splits_fails() -> None:
    given = [*["train"] * 40, *["val"] * 10, *["test"] * 10] * 2
    table = make_table({"a": 60, "b": 60}, given_split=given)
    clean = stage.validate(table, PARAMS)
    assert clean.passed
    copy_bytes(table, 5, 55)
    verdict = stage.validate(table, PARAMS)
    assert failed_critical(verdict) == {"split-overlap"}
    assert check(verdict, "split-overlap").offenders == ("test/a/0055.png", "train/a/0005.png")
    assert verdict.manifest["split"].tolist() == given


def test_near_duplicates_across_given_splits_are_a_warning() -> None:
    table = make_table({"a": 60, "b": 60}, given_split=[*["train"] * 40, *["val"] * 10, *["test"] * 10] * 2)
    for name in ("dhash", "phash", "dhash_mirrored", "phash_mirrored"):
        set_value(table, name, 55, int(table[name][5]) ^ 1)
    verdict = stage.validate(table, PARAMS)
    assert verdict.passed
    assert check(verdict, "near-split-overlap").offenders == ("test/a/0055.png", "train/a/0005.png")
    assert check(verdict, "split-overlap").passed


def test_mirror_images_are_near_duplicates_and_two_labels_of_them_conflict() -> None:
    table = make_table({"a": 60, "b": 60})
    for name in ("dhash", "phash"):
        set_value(table, name, 100, table[f"{name}_mirrored"][3])
        set_value(table, f"{name}_mirrored", 100, table[name][3])
    verdict = stage.validate(table, PARAMS)
    for name in ("near-duplicate", "conflicting-near-duplicate"):
        assert check(verdict, name).offenders == ("a/0003.png", "b/0100.png")
    assert verdict.manifest["split"][3] == verdict.manifest["split"][100]


def test_kept_images_are_used_and_accepted() -> None:
    table = make_table({"a": 60, "b": 60}, issues=[["corrupt"], ["corrupt"], ["cmyk"], ["truncated"], *([] for _ in range(116))])
    keep = ["a/0000.png", "a/0002.png", "a/0003.png", "a/none.png"]
    verdict = stage.validate(table, with_values(keep=keep, policy={"cmyk": "fail"}))
    assert verdict.manifest["status"][:4].tolist() == ["ok", "quarantined", "ok", "quarantined"]
    assert check(verdict, "corrupt").offenders == ("a/0001.png",)
    assert verdict.manifest["issues"][0] == ["corrupt"]
    assert verdict.passed
    assert check(verdict, "unknown-keep").offenders == ("a/0003.png", "a/none.png")  # one cannot be decoded, one does not exist
    assert check(verdict, "truncated").offenders == ("a/0003.png",)


@pytest.mark.parametrize(
    ("measure", "usual", "odd", "issue"),
    [
        ("bright_end", 0.9, 0.1, "dark"),
        ("dark_end", 0.1, 0.95, "bright"),
        ("contrast", 0.2, 0.01, "low-contrast"),
        ("sharpness", 900.0, 2.0, "blurry"),
        ("entropy", 7.0, 1.0, "low-information"),
        ("colour", 0.1, 0.0, "grey-among-colour"),
    ],
)
def test_an_outlier_is_found_and_a_data_set_like_it_is_not(measure: str, usual: float, odd: float, issue: str) -> None:
    spread = np.random.default_rng(0).uniform(0.9, 1.1, 120)
    values = usual * spread
    values[7] = odd
    table = make_table({"a": 60, "b": 60}, **{measure: list(values)})
    assert check(stage.validate(table, PARAMS), issue).offenders == ("a/0007.png",)
    alike = make_table({"a": 60, "b": 60}, **{measure: list(np.minimum(odd * spread, 1) if odd < 1 else odd * spread)})
    assert check(stage.validate(alike, PARAMS), issue).passed


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


def test_small_and_lopsided_classes_are_warnings() -> None:
    verdict = stage.validate(make_table({"a": 200, "b": 15}), PARAMS)
    assert check(verdict, "smallest-class").offenders == ("b",)
    assert check(verdict, "class-ratio").offenders == ("a",)
    assert {check(verdict, name).severity for name in ("smallest-class", "class-ratio")} == {"warning"}
    assert verdict.passed


def test_thresholds_come_from_the_parameters() -> None:
    table = make_table({"a": 100, "b": 20})
    at_the_bound = stage.validate(table, with_values(min_images_per_class=20, max_class_ratio=5))
    assert check(at_the_bound, "smallest-class").passed
    assert check(at_the_bound, "class-ratio").passed
    beyond = stage.validate(table, with_values(min_images_per_class=21, max_class_ratio=4.99))
    assert not check(beyond, "smallest-class").passed
    assert not check(beyond, "class-ratio").passed


def test_an_empty_table_fails() -> None:
    verdict = stage.validate(make_table({}), PARAMS)
    assert not verdict.passed
    assert {"usable-images", "class-set", "split-classes"} <= failed_critical(verdict)
    assert verdict.summary()["num_images"] == 0


def test_a_table_without_a_usable_image_fails() -> None:
    verdict = stage.validate(make_table({"a": 2, "b": 2}, issues=[["empty"]] * 4), PARAMS)
    assert {"usable-images", "class-set", "unreadable-share"} <= failed_critical(verdict)


# Files


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names that a careless page would run as HTML, and one broken file a kind."""
    raw = tmp_path_factory.mktemp("hostile") / "raw"
    for number, label in enumerate(("<b onclick=alert(2)>cat", '"dog" & co')):
        (raw / label).mkdir(parents=True)
        for image in range(8):
            noise(10 * number + image).save(raw / label / f"{image}.png")
    cats = raw / "<b onclick=alert(2)>cat"
    noise(100).save(cats / "<img src=x onerror=alert(1)>.png")
    noise(101).convert("CMYK").save(cats / "<img src=x onerror=alert(1)>.jpg")
    (cats / "bomb.png").write_bytes(bad_images.bomb())
    (cats / "empty.png").write_bytes(b"")
    return raw


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_report_of_hostile_names(hostile: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        verdict = stage.validate(scan(hostile, tmp_path / "kept"), PARAMS)
        stage.write(verdict, PARAMS, hostile, tmp_path / name / "manifest.parquet", tmp_path / name / "report")
    first = tree(tmp_path / "first")
    assert set(first) == {"manifest.parquet", "report/index.html", "report/summary.json"}
    assert tree(tmp_path / "second") == first

    html = first["report/index.html"].decode()
    assert "<img src=x" not in html
    assert "<b onclick" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in html
    assert "&lt;b onclick=alert(2)&gt;cat" in html
    assert 'title=""dog"' not in html
    assert "no picture" in html
    assert not re.search(r"(src|href)=\"(?!data:|#)", html)

    summary = json.loads(first["report/summary.json"])
    assert {"num_images", "num_ok", "num_quarantined", "class_counts", "passed", "checks"} <= set(summary)
    assert summary["num_images"] == summary["num_ok"] + summary["num_quarantined"] == 20
    assert sum(summary["class_counts"].values()) == summary["num_ok"]
    for found in summary["checks"]:
        assert {"name", "severity", "passed", "num_offenders", "observed", "expected", "offenders"} <= set(found)
        assert found["num_offenders"] == len(found["offenders"])
        assert found["severity"] in ("critical", "warning", "info")


def test_manifest_survives_the_round_trip(sample: Sample, tmp_path: Path) -> None:
    stage.write(sample.verdict, PARAMS, sample.raw, tmp_path / "manifest.parquet", tmp_path / "report")
    read = read_manifest(tmp_path / "manifest.parquet")
    assert tuple(read.columns) == MANIFEST_COLUMNS
    for column in MANIFEST_COLUMNS:
        written = sample.verdict.manifest[column]
        assert [list(value) if column == "issues" else value for value in read[column]] == list(written), column
    assert sum(len(usable_rows(read, split)) for split in paths.SPLITS) == 4613
    assert usable_rows(read, "val")["path"].is_monotonic_increasing


def test_data_docs_are_made_of_the_manifest(sample: Sample, tmp_path: Path) -> None:
    stage.write(sample.verdict, PARAMS, sample.raw, tmp_path / "manifest.parquet", tmp_path / "report")
    pages = data_docs.build(read_manifest(tmp_path / "manifest.parquet"), PARAMS, tmp_path / "docs")
    assert [page.parent.name for page in pages] == ["classes", "dataset", "images", "keep", "properties", "splits"]
    results = next((tmp_path / "docs/images/validations").rglob("*.html")).read_text()
    assert "conflicting-labels" in results
    assert "Failed" in results


def test_data_docs_before_any_validation_say_what_to_type(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "stages.data_docs"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "data/manifest.parquet does not exist; it is made by validate. Type: dvc repro validate\n"


def test_given_splits_are_read_from_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("train/cat/1.png", "test/cat/2.png", "val/3.png", "dog/4.png")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(tmp_path / name)
    scanned = findings.with_labels(scan(tmp_path, tmp_path / ".kept"))
    found = {row["path"]: (row["given_split"], row["label"]) for row in scanned.to_dict("records")}
    assert found == {
        "dog/4.png": ("", "dog"),
        "test/cat/2.png": ("test", "cat"),
        "train/cat/1.png": ("train", "cat"),
        "val/3.png": ("", "val"),
    }
