"""What of a stage's work is kept in the run's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.flight.record.keeping import keep_reports


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What a training leaves."""
    folder = tmp_path / "workspace"
    for part in ("data/model", "reports/train", "data/prepared/test"):
        (folder / part).mkdir(parents=True)
    (folder / "data/model/weights.weights.h5").touch()
    (folder / "reports/train/history.csv").touch()
    np.save(folder / "data/prepared/test/images-00000.npy", np.zeros((2, 8, 8, 3), np.uint8))
    return folder


@pytest.mark.parametrize("has_failed", [False, True])
def test_half_a_model_is_not_kept(workspace: Path, tmp_path: Path, has_failed: bool) -> None:
    folder = tmp_path / "run"
    keep_reports(workspace, folder, "train", has_failed=has_failed)
    assert (folder / "reports/train/history.csv").is_file()
    assert (folder / "model").exists() is not has_failed


@pytest.mark.parametrize("part", ["data/model", "reports/train"])
def test_what_was_kept_stays_if_it_cannot_be_copied_again(workspace: Path, tmp_path: Path, part: str) -> None:
    """DVC removes the folder of an experiment while it is copied."""
    folder = tmp_path / "run"
    keep_reports(workspace, folder, "train")
    (workspace / part / "gone").symlink_to("nowhere")
    keep_reports(workspace, folder, "train")
    assert (folder / "model/weights.weights.h5").is_file()
    assert [path.name for path in (folder / "reports/train").iterdir()] == ["history.csv"]
    assert sorted(path.name for path in folder.rglob(".*")) == []
