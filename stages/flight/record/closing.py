"""The end of a run: keep its reports, make the diagnosis, find out what became of each stage, write the last record."""

from __future__ import annotations

import contextlib
import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from stages.flight.record import journal, lock, names
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
        beside = target.with_name(f".{target.name}")
        for stale in (beside, target):
            shutil.rmtree(stale, ignore_errors=True)
        if (workspace / source).is_dir():
            # All or nothing: DVC may take the folder away at this moment.
            with contextlib.suppress(OSError, shutil.Error):
                shutil.copytree(workspace / source, beside)
                beside.rename(target)
            shutil.rmtree(beside, ignore_errors=True)
    if stage == TRAIN_STAGE and (folder / MODEL).is_dir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            first_shard = workspace / "data/prepared/test/images-00000.npy"
            np.save(folder / MODEL / "input_example.npy", np.load(first_shard, mmap_mode="r")[:1])


def keep_cached(workspace: Path, folder: Path, kept: set[str]) -> None:
    """Keep the reports of stages that DVC has skipped so far, as far as they are those of the present code and parameters."""
    locked = lock.read_stages(folder / "dvc.lock")
    for stage in lock.up_to_date(locked, _plain_params(folder), workspace):
        if stage not in kept and _outs_are_as_locked(locked[stage], workspace):
            keep_reports(workspace, folder, stage)


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
    is_ours = (workspace / "dvc.lock").is_file() and not _has_newer_run(workspace, folder)
    if is_ours:
        shutil.copyfile(workspace / "dvc.lock", folder / "dvc.lock")
    locked = lock.read_stages(folder / "dvc.lock")
    states = _stage_states(records, locked, folder, workspace if is_ours else None)
    if is_ours and (stage := _lost_before(records, locked, folder)):
        cause = "dvc ended before this stage, without a failure of the stages before it"
        lost = {"stage": stage, "exit_code": None, "signal": None, "seconds": None, "cause": cause, "kind": "lost"}
        log.write("stage-end", **lost)
        records.append({"type": "stage-end", **lost})
    for stage, state in states.items():
        if state == "cached":
            if is_ours and _outs_are_as_locked(locked[stage], workspace):
                keep_reports(workspace, folder, stage)
            _fill_in_metrics(stage, folder / REPORTS / stage, log)
        elif state == "not-reached":  # kept in passing, before it was known that the stage would have to run
            shutil.rmtree(folder / REPORTS / stage, ignore_errors=True)
    verdict = folder / REPORTS / "diagnose/verdict.json"
    if runs.failure(records) is None and verdict.is_file():
        shutil.copytree(verdict.parent, folder / DIAGNOSIS, dirs_exist_ok=True)
    else:
        diagnose(records, folder)
    failed = runs.failure(records)
    data = next((out["md5"] for out in locked.get("ingest", {}).get("outs", []) if out["path"] == "data/raw"), None)
    log.write("end", status=runs.status(failed), failure=failed, stages=states, data_version=data)


def _lost_before(records: list[dict[str, Any]], locked: dict[str, Any], folder: Path) -> str | None:
    """The first stage that a whole ``dvc repro`` has not reached although none failed: dvc itself was ended between two stages.

    Judged by dvc.lock and the parameters alone: a file that someone edits while the pipeline runs proves nothing.
    """
    opening = records[0]
    has_targets = any(word.split(":")[-1] in names.STAGES for word in opening["command"])
    if has_targets or opening["workspace"] != opening["root"] or runs.failure(records) is not None:
        return None
    ran = {record["stage"] for record in records if record["type"] == "stage-end"}
    reached = ran.union(lock.up_to_date(locked, _plain_params(folder), None))
    return next((stage for stage in names.STAGES if stage not in reached), None)


def _has_newer_run(workspace: Path, folder: Path) -> bool:
    """Whether what lies in the workspace may be another run's: this one died long ago, and is closed only now."""
    newer = (other for other in folder.parent.glob("*/") if other.name > folder.name)
    found = (journal.read(other / journal.FILE_NAME)[0] for other in newer if (other / journal.FILE_NAME).is_file())
    return any(records and records[0].get("workspace") == str(workspace) for records in found)


def _plain_params(folder: Path) -> dict[str, Any]:
    try:
        values = read_yaml(folder / "params.yaml")
    except ParamsError:
        return {}
    return values if isinstance(values, dict) else {}


def _stage_states(records: list[dict[str, Any]], locked: dict[str, Any], folder: Path, workspace: Path | None) -> dict[str, str]:
    """ran, failed, cached (what is locked is what this code and these parameters give), or not-reached."""
    ended = {record["stage"]: record for record in records if record["type"] == "stage-end"}
    current = set(lock.up_to_date(locked, _plain_params(folder), workspace))
    states = {}
    for stage in names.STAGES:
        if stage in ended:
            states[stage] = "ran" if ended[stage]["exit_code"] == 0 else "failed"
        else:
            states[stage] = "cached" if stage in current else "not-reached"
    return states


def _fill_in_metrics(stage: str, report: Path, log: Journal) -> None:
    """Record from the reports of a stage that DVC skipped what it would have recorded itself."""
    if not report.is_dir():
        return
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


def _outs_are_as_locked(entry: dict[str, Any], workspace: Path) -> bool:
    reports = [out for out in entry.get("outs", []) if out["path"].startswith((f"{REPORTS}/", MODEL_OUT))]
    return all((workspace / out["path"]).exists() and lock.md5(workspace / out["path"]) == out["md5"] for out in reports)
