"""The end of a run: keep its reports, make the diagnosis, find out what became of each stage, write the last record."""

from __future__ import annotations

import contextlib
import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from stages.flight.record import lock
from stages.flight.record.journal import Journal
from stages.flight.runs import run as runs
from stages.shared import diagnosis, evidence, files
from stages.shared.errors import ParamsError
from stages.shared.params import Params, load, read_yaml
from stages.shared.rules import judge

REPORTS, DIAGNOSIS, MODEL = "reports", "diagnosis", "model"
MODEL_OUT = "data/model"
TRAIN_STAGE = "train"
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")


def keep_reports(workspace: Path, folder: Path, stage: str) -> None:
    """Copy what a stage left for people (and the model) into the run's folder, which the next run does not touch."""
    copies = {f"reports/{stage}": folder / REPORTS / stage}
    if stage == TRAIN_STAGE:
        copies[MODEL_OUT] = folder / MODEL
    for source, target in copies.items():
        shutil.rmtree(target, ignore_errors=True)
        if (workspace / source).is_dir():
            # DVC may be replacing the folder at this moment; then the copy at the end of the run counts.
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(workspace / source, target)
    if stage == TRAIN_STAGE and (folder / MODEL).is_dir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            first_shard = workspace / "data/prepared/test/images-00000.npy"
            np.save(folder / MODEL / "input_example.npy", np.load(first_shard, mmap_mode="r")[:1])


def diagnose(records: list[dict[str, Any]], folder: Path) -> None:
    """Judge what there is: kept reports, and from the journal what a stage that failed could not report."""
    parts = [(record["part"], record["values"]) for record in records if record["type"] == "evidence"]
    failed = runs.failure(records)
    failure = evidence.Failure(**{name: failed[name] for name in ("stage", "kind", "cause")}) if failed else None
    found = evidence.gather(folder / REPORTS, evidence.from_parts(parts), failure)
    diagnosis.write(judge(found, _params(folder)), found, folder / DIAGNOSIS)


def _params(folder: Path) -> Params | None:
    with contextlib.suppress(ParamsError):
        return load(folder / "params.yaml")
    return None


def close(records: list[dict[str, Any]], workspace: Path, folder: Path, log: Journal) -> None:
    """Fill in the stages that DVC skipped, make the final diagnosis, and write the record ``end``."""
    if (workspace / "dvc.lock").is_file():
        shutil.copyfile(workspace / "dvc.lock", folder / "dvc.lock")
    locked = lock.read_stages(folder / "dvc.lock")
    states = _stage_states(records, locked, folder, workspace)
    for stage, state in states.items():
        if state == "cached" and _outs_are_as_locked(locked[stage], workspace):
            keep_reports(workspace, folder, stage)
            _fill_in_metrics(stage, folder / REPORTS / stage, log)
    verdict = folder / REPORTS / "diagnose/verdict.json"
    if runs.failure(records) is None and verdict.is_file():
        shutil.copytree(verdict.parent, folder / DIAGNOSIS, dirs_exist_ok=True)
    else:
        diagnose(records, folder)
    failed = runs.failure(records)
    data = next((out["md5"] for out in locked.get("ingest", {}).get("outs", []) if out["path"] == "data/raw"), None)
    log.write("end", status=runs.status(failed), failure=failed, stages=states, data_version=data)


def _fill_in_metrics(stage: str, report: Path, log: Journal) -> None:
    """Record from the reports of a stage that DVC skipped what it would have recorded itself."""
    if stage == "validate":
        summary = files.read_json(report / "summary.json")
        log.metrics(stage, {name: summary[name] for name in ("num_images", "num_ok", "num_quarantined")})
    elif stage == "augment":
        log.metrics(stage, files.read_json(report / "summary.json")["strength"])
    elif stage == TRAIN_STAGE:
        with (report / "history.csv").open(encoding="utf-8", newline="") as file:
            for step, row in enumerate(csv.DictReader(file)):
                log.metrics(stage, {name: float(row[name]) for name in CURVES}, step)
        chosen = files.read_json(report / "metrics.json")
        log.metrics(stage, {f"best_{name}": chosen[name] for name in CURVES if name in chosen})
    elif stage == "evaluate":
        log.metrics(stage, files.read_json(report / "metrics.json"))
        with (report / "per_class.csv").open(encoding="utf-8", newline="") as file:
            log.metrics(stage, {f"recall/{row['label']}": float(row["recall"]) for row in csv.DictReader(file)})


def _stage_states(records: list[dict[str, Any]], locked: dict[str, Any], folder: Path, workspace: Path) -> dict[str, str]:
    """ran, failed, cached (what lies on disk is what this code and these parameters give), or not-reached."""
    ended = {record["stage"]: record for record in records if record["type"] == "stage-end"}
    try:
        params = read_yaml(folder / "params.yaml")
    except ParamsError:
        params = {}
    current = set(lock.up_to_date(locked, params, workspace))
    states = {}
    for stage in runs.STAGES:
        if stage in ended:
            states[stage] = "ran" if ended[stage]["exit_code"] == 0 else "failed"
        else:
            states[stage] = "cached" if stage in current else "not-reached"
    return states


def _outs_are_as_locked(entry: dict[str, Any], workspace: Path) -> bool:
    reports = [out for out in entry.get("outs", []) if out["path"].startswith((f"{REPORTS}/", MODEL_OUT))]
    return all((workspace / out["path"]).exists() and lock.md5(workspace / out["path"]) == out["md5"] for out in reports)
