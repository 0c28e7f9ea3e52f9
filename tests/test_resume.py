"""A training that is killed goes on where it was, bit by bit; `dvc repro -f` begins anew."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.flight.record import journal, session
from tests import tiny

OUTS = ("data/model/weights.weights.h5", "data/model/architecture.json", "reports/train/history.csv", "reports/train/evidence.json")


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(".flight/checkpoints/*/*.npz"))


def records(folder: Path, record_type: str) -> list[dict[str, Any]]:
    newest = max(folder.glob(".flight/runs/[!.]*/"))
    return [record for record in journal.read_run(newest) if record["type"] == record_type]


def forget_training(folder: Path) -> None:
    """Have DVC know nothing of a result of the training."""
    shutil.rmtree(folder / ".dvc/cache/runs")
    yaml = YAML()
    lock = yaml.load(folder / "dvc.lock")
    for stage in ("train", "evaluate", "diagnose"):
        lock["stages"].pop(stage, None)
    yaml.dump(lock, folder / "dvc.lock")


def kill_in_training(folder: Path, *command: str) -> None:
    """Run a command until a checkpoint lies there, and kill the stage."""
    dvc = tiny.start(folder, *command)
    while not checkpoints(folder):
        assert dvc.poll() is None, dvc.communicate()[0]
    os.kill(tiny.wait_for_record(folder, type="stage-start", stage="train")["process"]["pid"], signal.SIGKILL)
    dvc.communicate()
    tiny.wait_for_recorders(folder)


def test_killed_and_gone_on_with(clone: Path, trained: Path) -> None:
    forget_training(clone)
    kill_in_training(clone, "dvc", "repro", "--single-item", "train")
    killed = max(clone.glob(".flight/runs/[!.]*/")).name
    assert "going on from epoch" in tiny.run(clone, "dvc", "repro", "--single-item", "train").stdout
    tiny.wait_for_recorders(clone)
    for out in OUTS:
        assert (clone / out).read_bytes() == (trained / out).read_bytes(), out
    (resumed,) = records(clone, "resumed")
    assert resumed["run"] == killed
    digests = [[record["values"] for record in records(folder, "digest")] for folder in (clone, trained)]
    assert digests[0] == digests[1]
    run = tiny.mlflow_runs(clone)[0]
    assert run.data.tags["resumed"] == killed
    curves = [[found["values"] for found in records(folder, "metrics") if "val_loss" in found["values"]] for folder in (clone, trained)]
    assert [values["val_loss"] for values in curves[0]] == [values["val_loss"] for values in curves[1]]
    assert len(curves[0]) == 2
    assert not checkpoints(clone), "a training that is done is not gone on with"


def test_force_begins_anew(clone: Path, trained: Path) -> None:
    kill_in_training(clone, "dvc", "repro", "-fs", "train")
    tiny.run(clone, "dvc", "repro", "-fs", "train")
    assert not records(clone, "resumed")
    assert (clone / OUTS[0]).read_bytes() == (trained / OUTS[0]).read_bytes()


@pytest.mark.parametrize("words", ["repro -f", "repro --force train", "exp run -fv", "repro -vf"])
def test_commands_that_begin_anew(words: str) -> None:
    assert session.is_forced(["dvc", *words.split()])


@pytest.mark.parametrize("words", ["repro", "repro -v train", "exp run -S train.alpha=0.5", "exp run --file-x", "repro --no-force"])
def test_commands_that_do_not(words: str) -> None:
    assert not session.is_forced(["dvc", *words.split()])
