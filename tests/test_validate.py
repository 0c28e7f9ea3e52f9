"""The data checks: the sample's planted defects, policies, critical checks, and the report."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stages import data_docs
from stages import validate as stage
from stages.shared import paths
from stages.shared.manifest import MANIFEST_COLUMNS, read_manifest, usable_rows
from stages.shared.quality import findings, issues
from stages.shared.quality.issues import UNREADABLE
from stages.shared.quality.scan import scan
from tests import bad_images
from tests.facts import PARAMS, check, copy_bytes, failed_critical, make_table, set_value, with_values
from tests.tiny import ROOT, environment


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
