"""``flight runs`` with a thousand recorded runs, start-up included."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from pathlib import Path

import pytest

from stages.flight.record import journal
from stages.flight.runs.run import keep_summary
from tests import tiny

NUM_RUNS = 1000
REPEATS = 7
LIMIT_S = 1.5

pytestmark = pytest.mark.slow


def test_a_thousand_runs(trained: Path, tmp_path: Path) -> None:
    source = next(trained.glob(".flight/runs/[!.]*/"))
    for number in range(NUM_RUNS):
        folder = tmp_path / f".flight/runs/20260101-{number:06d}-abcdef"
        folder.mkdir(parents=True)
        for name in ("dvc.lock", "params.yaml", "mlflow.json", journal.OPENING_NAME):
            shutil.copy(source / name, folder / name)
        shutil.copytree(source / "diagnosis", folder / "diagnosis")
        lines = (source / journal.FILE_NAME).read_text().splitlines()
        opening = {**json.loads(lines[0]), "id": folder.name, "time": 1.8e9 + number}
        (folder / journal.FILE_NAME).write_text("\n".join([json.dumps(opening), *lines[1:]]) + "\n")
        keep_summary(folder)  # as the recorder does
    seconds = []
    for _ in range(REPEATS):
        begun = time.monotonic()
        done = tiny.run(tmp_path, "flight", "runs", "--json", "--limit", str(NUM_RUNS))
        seconds.append(time.monotonic() - begun)
        assert len(json.loads(done.stdout)) == NUM_RUNS
    one = []
    for _ in range(REPEATS):
        begun = time.monotonic()
        tiny.run(trained, "flight", "runs")
        one.append(time.monotonic() - begun)
    print(f"\n{NUM_RUNS} runs {statistics.median(seconds):.2f} s (median), one run {statistics.median(one):.2f} s")  # noqa: T201
    assert statistics.median(seconds) <= LIMIT_S
