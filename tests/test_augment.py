"""The stage: its plan, its report, and what it says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import augment as stage
from stages.flight.record import filled_in, journal
from stages.shared import files
from stages.shared.evidence import gather
from stages.shared.linear_probe import Features
from stages.shared.params import AugmentParams
from stages.shared.prepared import Prepared
from tests.policies import EVERYTHING, IDENTITY, SHIPPED, SIZE_PX, by_rows, policy, upright
from tests.tiny import ROOT, set_params


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def renamed(train_set: Prepared, names: tuple[str, ...]) -> Prepared:
    return Prepared(names, train_set.labels, train_set.image_paths, train_set.size_px, train_set.shards, "")


def test_plan_and_report_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    train_set = renamed(upright(num_classes=3, num_images=62), ("cat", "dog", "<b onclick=alert(1)>"))
    chosen = EVERYTHING.model_copy(update={"balancing": "oversample", "rotation_degrees": 180.0})
    for name in ("first", "second"):
        result = stage.augment(train_set, chosen, by_rows)
        stage.write(result, train_set, tmp_path / name / "augmented", tmp_path / name / "augment")
    first = tree(tmp_path / "first")
    assert set(first) == {"augmented/policy.json", "augmented/sampling.json", "augment/index.html", "augment/summary.json"}
    assert tree(tmp_path / "second") == first
    assert json.loads(first["augmented/policy.json"])["rotation_degrees"] == 180.0
    assert json.loads(first["augmented/sampling.json"])["draws_per_class"] == [21, 21, 21]
    summary = json.loads(first["augment/summary.json"])
    assert [row["num_images"] for row in summary["classes"]] == [21, 21, 20]
    assert set(summary["probe"]) == {"accuracy_original", "accuracy_changed", "num_images"}
    assert summary["warnings"][0].keys() == {"param", "value", "suggestion", "sentence"}
    html = first["augment/index.html"].decode()
    assert "<b onclick" not in html
    assert html.count("data:image/webp;base64,") == 3 * (1 + 7) + 16  # rows, and mixed images
    assert summary["warnings"][0]["sentence"] in html
    assert "dvc exp run -S augment.rotation_degrees=30" in html
    evidence = gather(tmp_path / "first").augment
    assert evidence is not None
    assert evidence.balancing == "oversample"
    assert evidence.mean_displacement == summary["strength"]["mean_displacement"]


def test_the_page_of_hundreds_of_classes_is_bounded(tmp_path: Path) -> None:
    train_set = renamed(upright(num_classes=300, num_images=600), tuple(f"class-{number:03d}" for number in range(300)))
    stage.write(stage.augment(train_set, EVERYTHING), train_set, tmp_path / "augmented", tmp_path / "report")
    html = (tmp_path / "report/index.html").read_text()
    assert html.count("data:image/webp;base64,") == 20 * (1 + 7) + 16
    assert "of 20 of 300 classes" in html
    assert "class-000, original" in html
    assert "class-299, original" in html
    assert len(json.loads((tmp_path / "report/summary.json").read_text())["classes"]) == 300


@pytest.mark.parametrize(
    ("chosen", "features", "words"),
    [
        (SHIPPED, None, ["The policy is fit: all figures are within their limits"]),
        (SHIPPED, by_rows, ["The policy is fit: images change, and their classes stay recognisable", "What a linear probe still knows"]),
        (IDENTITY, by_rows, ["The policy is weak", "no fault", "dvc exp run -S augment.rotation_degrees=15"]),
        (
            policy(zoom=0.9),
            None,
            [
                "The policy is too strong: look at zoom.",
                "dvc exp run -S augment.zoom=0.3",
                '26.5 %</td><td class="name number soft">25 %</td>',
            ],
        ),
    ],
)
def test_the_page_says_the_outcome(chosen: AugmentParams, features: Features | None, words: list[str], tmp_path: Path) -> None:
    train_set = upright()
    stage.write(stage.augment(train_set, chosen, features), train_set, tmp_path / "augmented", tmp_path / "report")
    html = re.sub(r"\s+", " ", (tmp_path / "report/index.html").read_text())
    for word in words:
        assert word in html
    assert ("linear probe" in html) == (features is not None)


def records(folder: Path, act: Callable[[journal.Journal], None]) -> list[dict[str, Any]]:
    """The metrics that ``act`` writes to a journal."""
    folder.mkdir()
    act(journal.Journal(folder))
    return [entry["values"] for entry in journal.read(folder / journal.FILE_NAME)[0] if entry["type"] == "metrics"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the stage finds what it reads, without a pretrained backbone."""
    train_set = upright()
    folder = tmp_path / "data/prepared/train"
    folder.mkdir(parents=True)
    np.save(folder / "images-00000.npy", train_set.shards[0])
    np.save(folder / "labels.npy", train_set.labels)
    files.write_json(folder / "digest.json", {"sha256": ""})
    (folder / "paths.json").write_text(json.dumps(train_set.image_paths))
    files.write_json(folder.parent / "prepared.json", {"classes": train_set.classes, "image_size_px": SIZE_PX})
    files.write_json(tmp_path / "data/backbone/backbone.json", {"weights": ""})
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_stage_says_what_is_too_strong(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(workspace, {"augment.zoom": 0.9, "augment.random_erasing": 1.0})
    [metrics] = records(workspace / "run", stage.main)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said] == [
        "augment.zoom 0.9 is too strong",
        "augment.random_erasing 1 is too strong",
        "Try",
        "More",
    ]
    assert said[2] == "Try: dvc exp run -S augment.zoom=0.3 -S augment.random_erasing=0.5"
    assert metrics["mean_share_erased"] == pytest.approx(0.17, abs=0.02)
    assert not [name for name in metrics if name.startswith("probe")]


def test_a_fit_policy_is_passed_in_silence(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records(workspace / "run", stage.main)
    assert capsys.readouterr().out == ""


def test_a_skipped_stage_is_recorded_as_one_that_ran(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, features in (("without", None), ("with", by_rows)):
        monkeypatch.setattr(stage, "pretrained_features", lambda *_, found=features: found)
        ran = records(workspace / name, stage.main)
        skipped = records(workspace / f"{name}-skipped", lambda log: filled_in.from_report("augment", Path("reports/augment"), log))
        assert skipped == ran
        assert ("probe_accuracy_changed" in ran[0]) == (features is not None)
