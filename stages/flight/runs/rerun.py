"""Stages run by DVC in a folder that is not the user's, and their record brought home."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from stages.flight.errors import CommandError
from stages.flight.record import address, journal, recorder_process
from stages.flight.record.capture import REF_PREFIX
from stages.flight.record.git import git
from stages.flight.runs.run import SUMMARY_NAME, from_folder

# Where nothing is shipped to: the record is shipped from the user's repository, once it is there.
HELD_BACK = "held:back"
LOG, SITE = "dvc.log", "site"  # of the folder in which one works: what DVC said, and what it keeps of a repository
CLOSING_TIMEOUT_S, ENDING_TIMEOUT_S = 120.0, 20.0
POLL_S = 0.1
LAST_LINES = 15


def environment(python: Path, experiment: str, given: Mapping[str, str], base: Path) -> dict[str, str]:
    """The variables for DVC: ``given`` without what belongs to another run, nothing shipped, the stages' Python found first, and what DVC
    keeps of a repository below ``base``."""
    kept = {name: value for name, value in given.items() if not name.startswith(("DVC_", "FLIGHT_", "GIT_", "MLFLOW_"))}
    return {
        **kept,
        "PATH": f"{python.parent}{os.pathsep}{given.get('PATH', '')}",
        "DVC_SITE_CACHE_DIR": str(base / SITE),
        "MLFLOW_TRACKING_URI": HELD_BACK,
        "MLFLOW_EXPERIMENT_NAME": experiment,
    }


def run_stages(
    folder: Path, stages: Sequence[str], python: Path, variables: Mapping[str, str], log: Path, follow: Callable[[int], None]
) -> Path | None:
    """Run them by ``dvc repro`` in ``folder`` until DVC has ended and the recorder has closed the run.

    ``follow`` is called with DVC's process number again and again. Returns the record's folder; None if no stage was executed. Ctrl-C
    ends everything, and passes.

    Raises:
        CommandError: if DVC failed before any stage.
    """
    before = set(_records(folder))
    with log.open("wb") as file:
        dvc = subprocess.Popen(
            [python, "-m", "dvc", "repro", "--single-item", *stages],
            cwd=folder,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        while dvc.poll() is None:
            follow(dvc.pid)
            time.sleep(POLL_S)
    finally:
        with _undisturbed():
            _end(dvc)
            made = next((record for record in _records(folder) if record not in before), None)
            if made is not None:
                _wait_until_closed(made, folder)
    follow(dvc.pid)
    if made is None and dvc.returncode != 0:
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        raise CommandError("dvc has run no stage. It said:\n" + "\n".join(said))
    return made


def _records(folder: Path) -> list[Path]:
    return list((folder / journal.RECORDS_FOLDER / "runs").glob("[!.]*/"))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Whoever has pressed Ctrl-C presses it again; what is being ended is to have ended before its folder goes."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(dvc: subprocess.Popen[bytes]) -> None:
    """Before its time: DVC ends, and its recorder ends the stage."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if dvc.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(dvc.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                dvc.wait(ENDING_TIMEOUT_S)


def _wait_until_closed(record: Path, folder: Path) -> None:
    if not recorder_process.is_alive(record) and from_folder(record).ended is None:
        recorder_process.ensure(record, folder)
    recorder_process.wait_until(lambda: not recorder_process.is_alive(record), CLOSING_TIMEOUT_S)


def bring_home(record: Path, folder: Path, root: Path) -> Path:
    """The record of ``folder`` into the user's repository, whole or not at all, with its ref and the manifests that it refers to."""
    home = root / journal.RECORDS_FOLDER
    for manifest in (record.parents[1] / "manifests").glob("[!.]*"):
        _copy(manifest, home / "manifests" / manifest.name, shutil.copyfile)
    left_out = shutil.ignore_patterns(recorder_process.STATE_NAME, recorder_process.LOCK_NAME, SUMMARY_NAME)
    _copy(record, home / "runs" / record.name, lambda source, target: shutil.copytree(source, target, ignore=left_out))
    ref = REF_PREFIX + record.name
    if git(folder, "rev-parse", "--verify", "--quiet", ref, or_else=""):
        git(root, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", git(folder, "rev-parse", "--show-toplevel"), f"{ref}:{ref}")
    journal.Journal(home / "runs" / record.name).write("address", tracking_uri=address.tracking_uri(root))
    return home / "runs" / record.name


def _copy(source: Path, target: Path, copy: Callable[[Path, Path], object]) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as beside:
            copy(source, Path(beside) / target.name)
            (Path(beside) / target.name).rename(target)
