"""The end of a run: keep its reports, make the diagnosis, find out what became of each stage, write the last record."""

from __future__ import annotations

import contextlib
import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stages.flight.record import journal, lock, names, previews
from stages.flight.record.capture import LOCK_BEFORE
from stages.flight.record.journal import Journal
from stages.flight.record.secrets import mask
from stages.flight.runs import drift
from stages.flight.runs import run as runs
from stages.shared import diagnosis, evidence, files, paths
from stages.shared.errors import ParamsError
from stages.shared.params import Params, load, read_yaml
from stages.shared.rules import judge

REPORTS, DIAGNOSIS, MODEL, PREVIEWS = "reports", "diagnosis", "model", "previews"
MODEL_OUT = str(paths.MODEL)
TRAIN_STAGE = "train"
CURVES = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")


def keep_reports(workspace: Path, folder: Path, stage: str) -> None:
    """Copy what a stage left for people (and the model) into the run's folder, which the next run does not touch."""
    copies = {f"{REPORTS}/{stage}": folder / REPORTS / stage}
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
    # What is wrong with the files of a stage that failed costs its pictures alone.
    with contextlib.suppress(OSError, ValueError, LookupError):
        if stage == TRAIN_STAGE and (folder / MODEL).is_dir():
            first_shard = workspace / "data/prepared/test/images-00000.npy"
            np.save(folder / MODEL / "input_example.npy", np.load(first_shard, mmap_mode="r")[:1])
        if stage == "validate":
            _keep_manifest(workspace, folder)
        previews.write(stage, workspace, folder / PREVIEWS)


def _keep_manifest(workspace: Path, folder: Path) -> None:
    """Copy the manifest to where runs with the same one share it; named by DVC's hash."""
    kept = manifest_path(folder, lock.md5(workspace / paths.MANIFEST))
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        beside = kept.with_name(f".{kept.name}.{folder.name}")
        shutil.copyfile(workspace / paths.MANIFEST, beside)
        beside.rename(kept)


def manifest_path(folder: Path, md5: str) -> Path:
    """Where the manifest with this hash is kept, for all runs."""
    return folder.parent.parent / "manifests" / f"{md5}.parquet"


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
    # The page goes to MLflow, and a message may quote what should stay on the machine.
    failure = evidence.Failure(stage=failed["stage"], kind=failed["kind"], cause=mask(failed["cause"])) if failed else None
    found = evidence.gather(folder / REPORTS, evidence.from_parts(parts), failure)
    diagnosis.write(judge(found, _params(folder)), found, folder / DIAGNOSIS)


def _params(folder: Path) -> Params | None:
    with contextlib.suppress(ParamsError):
        return load(folder / "params.yaml")
    return None


def close(records: list[dict[str, Any]], workspace: Path, folder: Path, log: Journal, *, saw_dvc_end: bool) -> None:
    """Fill in the stages that DVC skipped, make the final diagnosis, and write the record ``end``."""
    is_ours = (workspace / "dvc.lock").is_file() and not _has_newer_run(workspace, folder)
    if is_ours:
        shutil.copyfile(workspace / "dvc.lock", folder / "dvc.lock")
    locked = lock.read_stages(folder / "dvc.lock")
    if stage := _unreached(records, locked, folder, workspace if is_ours else None):
        cause = "dvc ended before it had noted this stage, without a failure of the stages before it"
        kind = "terminated" if saw_dvc_end else "lost"
        lost = {"stage": stage, "exit_code": None, "signal": None, "seconds": None, "cause": cause, "kind": kind}
        log.write("stage-end", **lost)
        records.append({"type": "stage-end", **lost})
    states = _stage_states(records, locked, folder, workspace if is_ours else None)
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
    _compare_data(folder, locked, log)
    _write_end(records, states, lock.outs(locked).get("ingest", {}).get(str(paths.RAW)), log)


def _compare_data(folder: Path, locked: dict[str, Any], log: Journal) -> None:
    """Write how the images differ from those of the newest run before that had any, if they do."""
    md5 = _manifest_md5(lock.outs(locked))
    for other in sorted(folder.parent.glob("[!.]*/"), reverse=True):
        with contextlib.suppress(runs.UnreadableRecordError):
            if md5 is None or other.name >= folder.name or (before := _manifest_md5(runs.from_folder(other).made)) is None:
                continue
            old, new = manifest_path(folder, before), manifest_path(folder, md5)
            if before != md5 and old.is_file() and new.is_file():
                found = drift.compare(pd.read_parquet(old), pd.read_parquet(new))
                drift.write(found, (runs.from_folder(other).name, "this run"), folder / REPORTS / "drift")
                values = {name.replace(" ", "_"): float(change["count"]) for name, change in found["changes"].items()}
                log.metrics("drift", values | {f"psi/{measure['name']}": measure["psi"] for measure in found["measures"]})
            return


def _manifest_md5(made: dict[str, dict[str, str]]) -> str | None:
    return made.get("validate", {}).get(str(paths.MANIFEST))


def close_barely(records: list[dict[str, Any]], log: Journal) -> None:
    """Write the record ``end`` from the journal alone, when its files do not let themselves be read."""
    _write_end(records, _stage_states(records, {}, Path(), None), None, log)


def _write_end(records: list[dict[str, Any]], states: dict[str, str], data_version: str | None, log: Journal) -> None:
    failed = runs.failure(records)
    log.write("end", status=runs.status(failed), failure=failed, stages=states, data_version=data_version)


def _unreached(records: list[dict[str, Any]], locked: dict[str, Any], folder: Path, workspace: Path | None) -> str | None:
    """The first stage that ``dvc`` should have come to, and noted in dvc.lock, and has not although none failed: it was ended itself.

    Of stages that did not run, judged by dvc.lock and the parameters alone: a file that someone edits while the pipeline
    runs proves nothing. What DVC did in a temporary folder that is gone, it did to the end.
    """
    opening = records[0]
    ran = {record["stage"] for record in records if record["type"] == "stage-end"}
    if runs.failure(records) is not None or (ran and not Path(opening["workspace"]).is_dir()):
        return None
    if not ran:
        return str(opening["stage"])
    params = _plain_params(folder)
    before = lock.read_stages(folder / LOCK_BEFORE)
    was_up_to_date = lock.up_to_date(before, params, workspace)
    wanted = _wanted(opening["command"])
    noted = {stage for stage in ran if locked.get(stage) != before.get(stage) or stage in was_up_to_date or stage not in wanted}
    reached = noted.union(lock.up_to_date(locked, params, None)) - (ran - noted)
    return next((stage for stage in wanted if stage not in reached), None)


def _wanted(command: list[str]) -> list[str]:
    """The stages that a ``dvc`` command asks for: all, or those up to its last target, since each needs the one before."""
    if not any(Path(word).name == "dvc" for word in command[:3]):
        return []
    targets = [number for number, stage in enumerate(names.STAGES) if stage in {word.split(":")[-1] for word in command}]
    if not targets:
        return list(names.STAGES)
    if {"-s", "--single-item"} & set(command):
        return [names.STAGES[number] for number in targets]
    if "--downstream" in command:
        return list(names.STAGES[targets[0] :])
    return list(names.STAGES[: targets[-1] + 1])


def _has_newer_run(workspace: Path, folder: Path) -> bool:
    """Whether what lies in the workspace may be another run's: this one died long ago, and is closed only now."""
    for other in folder.parent.glob("[!.]*/"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if other.name > folder.name and journal.read_run(other)[0]["workspace"] == str(workspace):
                return True
    return False


def _plain_params(folder: Path) -> dict[str, Any]:
    try:
        values = read_yaml(folder / "params.yaml")
    except ParamsError:
        return {}
    return values if isinstance(values, dict) else {}


def _stage_states(records: list[dict[str, Any]], locked: dict[str, Any], folder: Path, workspace: Path | None) -> dict[str, str]:
    """ran, failed, cached (what is locked is what this code and these parameters give), or not-reached."""
    ended = {record["stage"] for record in records if record["type"] == "stage-end"}
    failed = runs.failure(records) or {"stage": None}
    current = set(lock.up_to_date(locked, _plain_params(folder), workspace))
    states = {}
    for stage in names.STAGES:
        if stage in ended:
            states[stage] = "failed" if stage == failed["stage"] else "ran"
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
