"""The sample with the shipped parameters: accuracy over three seeds, and the time of a whole ``dvc repro``."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import pytest

from tests import tiny

MIN_ACCURACY = 0.82


@pytest.mark.slow
def test_accuracy_over_three_seeds(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    tiny.run(tmp_path, "git", "clone", "-q", str(tiny.ROOT), str(clone))
    accuracies = []
    for seed in (0, 1, 2):
        tiny.set_params(clone, {"train.seed": seed, "augment.seed": seed})
        begin = time.perf_counter()
        tiny.run(clone, "dvc", "repro")
        took = time.perf_counter() - begin
        tiny.wait_for_recorders(clone)
        metrics = json.loads((clone / "reports/evaluate/metrics.json").read_text())
        verdict = json.loads((clone / "reports/diagnose/verdict.json").read_text())
        accuracies.append(metrics["accuracy"])
        print(f"seed {seed}: accuracy {metrics['accuracy']:.3f}, {verdict['verdict']}, {took:.0f} s")  # noqa: T201
        assert verdict["verdict"] == "healthy"
    assert statistics.mean(accuracies) >= MIN_ACCURACY
