"""The end of a run: keep its reports, make the diagnosis, find out what became of each stage, write the last record."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from stages.flight.record import filled_in, journal, kept_manifests, lock, names
from stages.flight.record.capture import LOCK_BEFORE
from stages.flight.record.journal import Journal
from stages.flight.record.keeping import REPORTS, keep_reports, outs_are_as_locked
from stages.flight.record.secrets import mask
from stages.flight.runs import drift
from stages.flight.runs import run as runs
from stages.flight.runs.changes import plain_params
from stages.shared import diagnosis, evidence, paths
from stages.shared.errors import ParamsError
from stages.shared.params import Params, load, read_yaml
from stages.shared.rules import judge

DIAGNOSIS = "diagnosis"
# Of `dvc repro` and `dvc exp run`: the word that follows is no target.
OPTIONS_WITH_VALUES = {"-n", "--name", "-m", "--message", "-S", "--set-param", "-j", "--jobs", "-C", "--copy-paths", "--infofile"}
OTHER_OPTIONS = {"-f", "--force", "-s", "--single-item", "-v", "--verbose", "-q", "--quiet", "--temp", "--run-all", "--queue"}


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
    is_ours = bool(lock.read_stages(workspace / "dvc.lock")) and not _has_newer_run(workspace, folder)
    is_ours = is_ours and (saw_dvc_end or _fits(records, workspace, folder))
    if is_ours:
        shutil.copyfile(workspace / "dvc.lock", folder / "dvc.lock")
    locked = lock.read_stages(folder / "dvc.lock")
    if stage := _unreached(records, locked, folder, workspace if is_ours else None):
        cause = "dvc ended before it had noted this stage, without a failure of the stages before it"
        kind = "terminated" if saw_dvc_end else "lost"
        lost = {"stage": stage, "exit_code": None, "signal": None, "seconds": None, "cause": cause, "kind": kind}
        log.write("stage-end", **lost)
        records.append({"type": "stage-end", **lost})
    current = lock.up_to_date(locked, plain_params(folder), workspace if is_ours else None)
    states = _stage_states(records, locked, set(current))
    for stage, state in states.items():
        if state == "cached" and is_ours and outs_are_as_locked(locked[stage], workspace):
            keep_reports(workspace, folder, stage)
        elif state == "not-reached":  # kept in passing, before it was known that the stage would have to run
            shutil.rmtree(folder / REPORTS / stage, ignore_errors=True)
    measured = {record["stage"] for record in records if record["type"] == "metrics"}  # by a closing that was cut off, too
    _fill_in([stage for stage, state in states.items() if state == "cached" and stage not in measured], locked, folder, log)
    verdict = folder / REPORTS / "diagnose/verdict.json"
    if runs.failure(records) is None and verdict.is_file():
        shutil.copytree(verdict.parent, folder / DIAGNOSIS, dirs_exist_ok=True)
    else:
        diagnose(records, folder)
    if "drift" not in measured:
        _compare_data(folder, locked, log)
    _write_end(records, states, lock.outs(locked).get("ingest", {}).get(str(paths.RAW)), log)


def _fill_in(cached: list[str], locked: dict[str, Any], folder: Path, log: Journal) -> None:
    manifest = kept_manifests.find(folder, lock.outs(locked))
    for stage in cached:
        if manifest is not None:
            filled_in.from_manifest(stage, manifest, log)
        if (folder / REPORTS / stage).is_dir():
            filled_in.from_report(stage, folder / REPORTS / stage, log)


def _compare_data(folder: Path, locked: dict[str, Any], log: Journal) -> None:
    """Write how the images differ from those of the newest run before that had any, if they do."""
    new = kept_manifests.find(folder, lock.outs(locked))
    for other in sorted(folder.parent.glob("[!.]*/"), reverse=True):
        with contextlib.suppress(runs.UnreadableRecordError):
            before = runs.from_folder(other)
            old = kept_manifests.find(folder, before.made)
            is_before = other.name < folder.name and not journal.serves_another(journal.read_run(other))
            if is_before and old is not None and new is not None:
                if old != new:
                    found = drift.compare(pd.read_parquet(old), pd.read_parquet(new))
                    drift.write(found, (before.name, "this run"), folder / REPORTS / "drift")
                    log.metrics("drift", drift.metrics(found))
                return


def close_barely(records: list[dict[str, Any]], log: Journal) -> None:
    """Write the record ``end`` from the journal alone, when its files do not let themselves be read."""
    _write_end(records, _stage_states(records, {}, set()), None, log)


def _fits(records: list[dict[str, Any]], workspace: Path, folder: Path) -> bool:
    """Whether all that a run which died unseen had done is what dvc.lock names now."""
    done = {record["stage"] for record in records if record["type"] == "stage-end" and not runs.has_failed(record)}
    return done <= set(lock.up_to_date(lock.read_stages(workspace / "dvc.lock"), plain_params(folder), None))


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
    params = plain_params(folder)
    before = lock.read_stages(folder / LOCK_BEFORE)
    wanted = _wanted(opening["command"], Path(opening["workspace"]))
    was_up_to_date = lock.up_to_date(before, params, workspace, wanted)
    noted = {stage for stage in ran if locked.get(stage) != before.get(stage) or stage in was_up_to_date or stage not in wanted}
    reached = noted.union(lock.up_to_date(locked, params, None, wanted)) - (ran - noted)
    return next((stage for stage in wanted if stage not in reached), None)


def _wanted(command: list[str], workspace: Path) -> list[str]:
    """The stages that a ``dvc`` command asks for: all, or those up to its last target, since each needs the one before.

    None, so that nothing is judged by it, where a frozen stage or an option that is not known here may change that.
    """
    start = next((number for number, word in enumerate(command[:4]) if Path(word).name == "dvc"), None)
    if start is None or _has_frozen_stages(workspace):
        return []
    words, options = [], set()
    for before, word in itertools.pairwise(command[start:]):
        if word.startswith("-"):
            options.update([word.split("=")[0]] if word.startswith("--") else [f"-{letter}" for letter in word[1:]])
        elif before not in OPTIONS_WITH_VALUES:
            words.append(word.split(":")[-1])
    targets = [number for number, stage in enumerate(names.STAGES) if stage in words]
    if options - OPTIONS_WITH_VALUES - OTHER_OPTIONS:
        return []
    if {"-s", "--single-item"} & options:
        return [names.STAGES[number] for number in targets]
    return list(names.STAGES[: targets[-1] + 1] if targets else names.STAGES)


def _has_frozen_stages(workspace: Path) -> bool:
    if not (workspace / "dvc.yaml").is_file():  # a temporary folder that DVC has deleted
        return False
    try:
        stages = (read_yaml(workspace / "dvc.yaml") or {}).get("stages") or {}
    except (ParamsError, AttributeError):
        return (workspace / "dvc.yaml").is_file()  # or deleted while it was read
    return any(isinstance(stage, dict) and stage.get("frozen") for stage in stages.values())


def _has_newer_run(workspace: Path, folder: Path) -> bool:
    """Whether what lies in the workspace may be another run's: this one died long ago, and is closed only now."""
    for other in folder.parent.glob("[!.]*/"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if other.name > folder.name and journal.read_run(other)[0]["workspace"] == str(workspace):
                return True
    return False


def _stage_states(records: list[dict[str, Any]], locked: dict[str, Any], current: set[str]) -> dict[str, str]:
    """ran, failed, cached or not-reached; of stages that DVC was not asked for, ``current`` are those whose results fit.

    Each stage needs the one before. So when one has failed, no later one was reached; and one that DVC came to and did
    not run, it had.
    """
    ended = {record["stage"] for record in records if record["type"] == "stage-end"}
    failed = (runs.failure(records) or {"stage": None})["stage"]
    wanted = _wanted(records[0]["command"], Path(records[0]["workspace"]))
    states: dict[str, str] = {}
    for stage in names.STAGES:
        if stage in ended:
            states[stage] = "failed" if stage == failed else "ran"
        elif "failed" in states.values() or stage not in locked:
            states[stage] = "not-reached"
        else:
            states[stage] = "cached" if stage in wanted or stage in current else "not-reached"
    return states
