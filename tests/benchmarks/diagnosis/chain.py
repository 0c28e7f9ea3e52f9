"""The pipeline's own stages, one after the other in one process and in a folder of their own; runs in a child of ``make_runs``."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stages import augment, evaluate, ingest, prepare, train, validate
from stages.flight.record import journal
from stages.flight.record.journal import Journal
from stages.shared import devices, files, model, paths, prepared
from stages.shared.params import load
from tests.benchmarks.diagnosis.data_faults import RECIPE_MANIFEST
from tests.benchmarks.diagnosis.injections import INJECTIONS
from tests.benchmarks.diagnosis.recipes import Recipe
from tests.benchmarks.diagnosis.unit import Unit

# In a unit's folder.
RECORD = Path("records/runs/run")
OUTPUT = Path("output.txt")
TEST_LOSS = Path("test_loss.txt")
SMALLEST_PROBABILITY = 1e-7  # as Keras clips (keras.config.epsilon)


def _evaluate(log: Journal) -> None:
    """The stage ``evaluate`` without models for phones, and the test's cross-entropy beside its report."""
    params = load(paths.PARAMS)
    log.write("setting", stage="evaluate", values=devices.set_up(params.train))
    images = prepared.read(paths.PREPARED, "test")
    probabilities = evaluate.predict(model.load(paths.MODEL), images, params.train.batch_size)
    of_truth = probabilities[np.arange(len(images.labels)), images.labels]
    loss = float(-np.log(np.clip(of_truth, SMALLEST_PROBABILITY, 1)).mean())
    result = evaluate.evaluate(images.classes, images.labels, probabilities, params.evaluate.gates)
    evaluate.tell(result, log)
    evaluate.write(result, [], images.image_paths, paths.RAW, paths.EVALUATE_REPORT)
    TEST_LOSS.write_text(str(loss), encoding="utf-8")


STAGES: dict[str, Callable[[Journal], None]] = {
    "ingest": ingest.main,
    "validate": validate.main,
    "prepare": prepare.main,
    "augment": augment.main,
    "train": train.main,
    "evaluate": _evaluate,
}
ORDER = tuple(STAGES)
# What a recipe has ready for its units.
READY: dict[str, tuple[Path, ...]] = {
    "ingest": (paths.RAW, paths.BACKBONE),
    "validate": (paths.MANIFEST, paths.VALIDATE_REPORT),
    "prepare": (paths.PREPARED,),
}


def make_ready(recipe: Recipe, folder: Path) -> None:
    """The recipe's images, as all of its units that leave them alone share them."""
    recipe.unpack(folder)
    _enter(folder, recipe.params({}))
    for stage in READY:
        _run(stage)


def run(unit: Unit, recipe: Recipe, ready: Path, folder: Path) -> None:
    """All stages of a unit; what comes before its fault is taken from ``ready``."""
    _enter(folder, recipe.params(unit.all_changes))
    RECIPE_MANIFEST.symlink_to(ready / paths.MANIFEST)
    injection = INJECTIONS.get(unit.injection)
    changed = [key.partition(".")[0] for key in unit.changes] + ([injection.before] if injection else [])
    first = min((ORDER.index(name) for name in changed if name in ORDER), default=len(READY))
    for stage in ORDER[: min(first, len(READY))]:
        for path in READY[stage]:
            _take(ready / path, path, copied=injection is not None)
    for stage in ORDER[min(first, len(READY)) :]:
        if injection and injection.before == stage:
            injection.apply(unit.amount)
        _run(stage)


def _enter(folder: Path, params: dict[str, Any]) -> None:
    """Work in ``folder``, with its own parameters and record, and with all that is said in a file."""
    record = folder / RECORD
    record.mkdir(parents=True)
    os.chdir(folder)
    os.environ[journal.RUN_FOLDER_VARIABLE] = str(record)
    files.write_json(paths.PARAMS, params)  # JSON is YAML
    output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())


def _run(stage: str) -> None:
    Journal(RECORD.resolve()).write("stage-start", stage=stage)
    journal.run_stage(stage, STAGES[stage])


def _take(source: Path, target: Path, *, copied: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copied:
        target.symlink_to(source)
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
