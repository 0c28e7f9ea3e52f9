"""What of a stage's work is kept in the run's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.flight.record.keeping import keep_reports


@pytest.mark.parametrize("has_failed", [False, True])
def test_half_a_model_is_not_kept(tmp_path: Path, has_failed: bool) -> None:
    workspace, folder = tmp_path / "workspace", tmp_path / "run"
    for part in ("data/model", "reports/train", "data/prepared/test"):
        (workspace / part).mkdir(parents=True)
    (workspace / "data/model/weights.weights.h5").touch()
    (workspace / "reports/train/history.csv").touch()
    np.save(workspace / "data/prepared/test/images-00000.npy", np.zeros((2, 8, 8, 3), np.uint8))
    keep_reports(workspace, folder, "train", has_failed=has_failed)
    assert (folder / "reports/train/history.csv").is_file()
    assert (folder / "model").exists() is not has_failed
