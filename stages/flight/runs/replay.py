"""``flight replay``: a recorded run again, from its record alone, with proof that it is the same.

The user's workspace, index, branches and DVC cache are only read: the replay works in a temporary folder (see ``replay_workspace``) and
brings back its record, as a run of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stages.flight.record import address, capture, journal, recorder_process
from stages.flight.record.capture import REF_PREFIX
from stages.flight.runs import proof, replay_workspace
from stages.flight.runs.differences import Recorded, recorded
from stages.flight.runs.git import git
from stages.flight.runs.replay_ending import Ending
from stages.flight.runs.replay_workspace import ReplayError, Workspace
from stages.flight.runs.run import Run, from_folder
from stages.shared import files

# Where nothing is shipped to: the record is shipped from the user's repository, once it is there.
HELD_BACK = "held:back"
LOG = "dvc.log"
CLOSING_TIMEOUT_S = 120.0
POLL_S = 0.1
LAST_LINES = 15

Tell = Callable[[str], None]


def replay(run: Run, everyone: Sequence[Run], root: Path, tell: Tell, *, own_environment: bool, until: int | None) -> dict[str, Any]:
    """Run it again and compare; ``until`` stops the training before that step, which is counted from 0 over the whole training.

    Raises:
        ReplayError: if something is missing, before anything is run; or if the replay left no record.
    """
    stages = _stages(run)
    original = recorded(run, root)
    packages = {name: str(version) for name, version in (original.packages or {}).items()} if own_environment else None
    with tempfile.TemporaryDirectory(prefix="flight-replay-", ignore_cleanup_errors=True) as base:
        workspace = replay_workspace.make(run, root, Path(base), tell, packages=packages)
        for path in workspace.damaged:
            tell(f"{path} is not as recorded: its content in DVC's cache has changed")
        tell(f"replaying {run.id}: {', '.join(stages)}")
        variables = dict(original.variables or {}) if own_environment else None
        folder = _bring_home(_run(run, workspace, stages, variables, until, tell), workspace, root)
    again = from_folder(folder)
    log = journal.Journal(folder)
    log.write("name", name=f"replay of {run.id}" + (f" until step {until}" if until is not None else ""))
    if until is not None:
        log.write("replay", of=run.id)
        recorder_process.ensure(folder, root)
        return {"original": run.id, "replay": again.id, "until": until, "moment": _moment(again)}
    answer = _compared(original, recorded(again, root), everyone, workspace)
    files.write_json(folder / "replay.json", answer)
    log.write("replay", of=run.id, level=answer["level"])
    journal.Journal(run.folder).write("replay", by=again.id, level=answer["level"])
    for shipped in (run.folder, folder):
        recorder_process.ensure(shipped, root)
    return answer


def is_proved(answer: dict[str, Any]) -> bool:
    """Whether the level reached is at least the one to be expected on this machine; a replay up to a step proves nothing else."""
    if "until" in answer:
        return answer["moment"] is not None
    order = ("none", "inputs", "metrics", "predictions", "weights")
    reached, expected = answer["level"], answer["expected_level"]
    return bool(reached == expected or (expected in order and reached in order and order.index(reached) >= order.index(expected)))


def _stages(run: Run) -> list[str]:
    if run.ended is None:
        raise ReplayError(f"run {run.id} has not ended. Type: flight runs")
    stages = proof.stages_of(run)
    if run.stages.get("ingest") == "failed" or not stages:
        raise ReplayError(
            f"run {run.id} did nothing after ingest, which is never replayed, since its source may have changed. Type: flight why {run.id}"
        )
    return stages


def _compared(original: Recorded, again: Recorded, everyone: Sequence[Run], workspace: Workspace) -> dict[str, Any]:
    checks = proof.compare(original, again, workspace.damaged)
    reached = proof.level(checks, original.run, again.run, everyone)
    expected = proof.expected_level(original.run, proof.environment_differences(original, again))
    return proof.answer(checks, reached, expected, original.run, again.run)


def _moment(run: Run) -> str | None:
    page = run.folder / "moment/index.html"
    return str(page) if page.is_file() else None


def _run(run: Run, workspace: Workspace, stages: Sequence[str], variables: dict[str, str] | None, until: int | None, tell: Tell) -> Path:
    """Run DVC until it has ended and its recorder has closed the run; the record's folder."""
    opening = journal.read_run(run.folder)[0]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "FLIGHT_", "GIT_", "MLFLOW_"))}
    if variables is not None:  # as recorded, and no others of those that count
        kept = {name: value for name, value in kept.items() if name not in capture.RECORDED_VARIABLES} | variables
    environment = {
        **kept,
        "PATH": f"{workspace.python.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "MLFLOW_TRACKING_URI": HELD_BACK,
        "MLFLOW_EXPERIMENT_NAME": opening["mlflow_experiment"],
        **({journal.UNTIL_VARIABLE: str(until)} if until is not None else {}),
    }
    ending = Ending(run, workspace.folder, tell) if until is None else None
    with (workspace.base / LOG).open("wb") as log:
        dvc = subprocess.Popen(
            [workspace.python, "-m", "dvc", "repro", "--single-item", *stages],
            cwd=workspace.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while dvc.poll() is None:
            if ending is not None:
                ending.follow(dvc.pid)
            time.sleep(POLL_S)
    finally:
        _end(dvc)
        folder = _recorded_in(workspace.folder)
        if folder is not None:
            _wait_until_closed(folder, workspace.folder)
    if folder is None:
        said = (workspace.base / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        raise ReplayError(f"dvc has run no stage of {run.id}. It said:\n" + "\n".join(said))
    if ending is not None:
        ending.follow(dvc.pid)
    return folder


def _end(dvc: subprocess.Popen[bytes]) -> None:
    """After Ctrl-C: DVC ends, and its recorder ends the stage."""
    if dvc.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(dvc.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            dvc.wait(CLOSING_TIMEOUT_S)


def _recorded_in(folder: Path) -> Path | None:
    return next((folder / journal.RECORDS_FOLDER / "runs").glob("[!.]*/"), None)


def _wait_until_closed(folder: Path, root: Path) -> None:
    if not recorder_process.is_alive(folder) and from_folder(folder).ended is None:
        recorder_process.ensure(folder, root)
    recorder_process.wait_until(lambda: not recorder_process.is_alive(folder), CLOSING_TIMEOUT_S)


def _bring_home(folder: Path, workspace: Workspace, root: Path) -> Path:
    """The record into the user's repository, whole or not at all, with the manifests that it refers to and its ref."""
    home = root / journal.RECORDS_FOLDER
    for manifest in (folder.parents[1] / "manifests").glob("[!.]*"):
        if not (home / "manifests" / manifest.name).exists():
            (home / "manifests").mkdir(parents=True, exist_ok=True)
            beside = home / "manifests" / f".{manifest.name}.{folder.name}"
            shutil.copyfile(manifest, beside)
            beside.rename(home / "manifests" / manifest.name)
    (home / "runs").mkdir(parents=True, exist_ok=True)
    beside = home / "runs" / f".{folder.name}"
    shutil.copytree(folder, beside, ignore=shutil.ignore_patterns(recorder_process.STATE_NAME, recorder_process.LOCK_NAME, "summary.json"))
    beside.rename(home / "runs" / folder.name)
    ref = REF_PREFIX + folder.name
    git(root, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", str(workspace.folder), f"{ref}:{ref}", or_else="")
    journal.Journal(home / "runs" / folder.name).write("address", tracking_uri=address.tracking_uri(root))
    return home / "runs" / folder.name
