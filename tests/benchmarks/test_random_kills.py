"""A training killed at random steps of both phases, and gone on with: the same bits as the one that nobody disturbed.

``pytest -m slow tests/benchmarks/test_random_kills.py --capture no`` prints the table.
"""

from __future__ import annotations

import csv
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from stages.flight.record import journal
from stages.shared import model
from tests import tiny
from tests.benchmarks.injection import inject
from tests.test_resume import OUTS, forget_training

pytestmark = pytest.mark.slow
SEED = 0
KILLS_A_PHASE = 6
STEPS_AN_EPOCH = 8
# Everything that remembers something from step to step or epoch to epoch.
PARAMS = {
    "ingest.backbone_weights": "data/sample/backbone.weights.h5",
    "augment.mixup": 0.2,
    "train.optimizer": "adamw",
    "train.weight_decay": 1e-3,
    "train.gradient_accumulation_steps": 3,
    "train.schedule": "plateau",
    "train.plateau_patience": 2,
    "train.early_stopping_patience": 3,
    "train.epochs": 6,
    "train.fine_tune_epochs": 6,
    "train.fine_tune_learning_rate": 1e-3,
    "train.batchnorm_training": True,
    "train.batchnorm_recalibration_images": 64,
}
UNEQUAL_BY_NATURE = ("images_per_second", "data_wait_share")


def curves(clone: Path) -> dict[str, list[tuple[int, float]]]:
    """What MLflow shows of the newest run's training: each metric's points."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    run = tiny.mlflow_runs(clone)[0]
    names = [name for name in run.data.metrics if name.startswith("train/") and not name.endswith(UNEQUAL_BY_NATURE)]
    return {name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)] for name in names}


def outcome(clone: Path) -> dict[str, Any]:
    """Model, reports and curves."""
    return {out: hashlib.sha256((clone / out).read_bytes()).hexdigest() for out in OUTS} | {"curves": curves(clone)}


def train(clone: Path, **variables: str) -> str:
    """Train under DVC; what it wrote."""
    settings = [f"{name}={value}" for name, value in variables.items()]
    done = tiny.run(clone, "env", *settings, "dvc", "repro", "--single-item", "train", check=not settings)
    tiny.wait_for_recorders(clone)
    assert not settings or done.returncode != 0, "it should have been killed"
    return done.stdout


def resumed_from(clone: Path) -> dict[str, Any]:
    """The newest run's record of where it went on."""
    records = journal.read_run(max(clone.glob(".flight/runs/[!.]*/")))
    return next((record for record in records if record["type"] == "resumed"), {"phase": "the beginning", "epoch": "-", "step": "-"})


def test_random_kills(tmp_path: Path) -> None:
    clone = tiny.make(tmp_path / "clone")
    backbone = model.build_classifier(5, 32, alpha=0.35, dropout=0.0, batchnorm_momentum=0.9, seed=1).get_layer("backbone")
    backbone.save_weights(clone / PARAMS["ingest.backbone_weights"])  # type: ignore[operator]
    tiny.set_params(clone, PARAMS)
    inject(clone, "train", "kill_in_step")
    tiny.run(clone, "dvc", "repro", "train")
    tiny.wait_for_recorders(clone)
    undisturbed = outcome(clone)
    with (clone / "reports/train/history.csv").open() as file:
        phases = [row["phase"] for row in csv.DictReader(file)]
    steps = {phase: [step for step in range(STEPS_AN_EPOCH * len(phases)) if phases[step // STEPS_AN_EPOCH] == phase] for phase in phases}
    assert len(steps) == 2
    chance = random.Random(SEED)  # noqa: S311
    equal = []
    print(f"\n{'killed in':10} {'step':>4}   goes on from           equal")  # noqa: T201
    for step in [step for of_phase in steps.values() for step in sorted(chance.sample(of_phase, KILLS_A_PHASE))]:
        forget_training(clone)
        train(clone, KILL_IN_STEP=str(step))
        train(clone)
        position = resumed_from(clone)
        equal.append(outcome(clone) == undisturbed)
        place = f"{position['phase']} {position['epoch']}:{position['step']}"
        print(f"{phases[step // STEPS_AN_EPOCH]:10} {step:4}   {place:22} {'yes' if equal[-1] else 'NO'}", flush=True)  # noqa: T201
    assert all(equal)
    assert len(equal) == 2 * KILLS_A_PHASE
