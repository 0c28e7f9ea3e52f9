"""Start a run's recorder, find out whether it lives, and wait for what it finds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.flight.record import journal
from stages.flight.record.session import Identity
from stages.shared import files

LOCK_NAME = "recorder.lock"
LOG_NAME = "recorder.log"
STATE_NAME = "mlflow.json"
BY_LAUNCHER = "by-launcher"
VERDICT_NAME = "diagnosis/verdict.json"
# Loading the rules takes two seconds; a person waits no longer than this for the cause of a failure.
VERDICT_TIMEOUT_S = 20.0
CLOSING_TIMEOUT_S = 30.0
# Of so many of the newest unshipped runs, those that were never closed are closed before a new one begins.
TAKEN_UP = 8
# A recorder shows every HEARTBEAT_S that it lives; without a sign for so long, a run of another machine is lost.
HEARTBEAT_S = 30.0
LOST_AFTER_S = 24 * 3600.0
POLL_S = 0.1


def ensure(folder: Path, root: Path, *origin: str) -> None:
    """Start the detached recorder of the run in ``folder``, unless one is at work; it works in ``root``.

    ``origin`` is BY_LAUNCHER where the run's own launcher starts it.

    The lock is taken here and handed down: it belongs to the open file, so there is no moment in which a recorder
    that has been started seems dead. The system frees it however the recorder ends.
    """
    with (folder / LOCK_NAME).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        with (folder / LOG_NAME).open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "stages.flight.record.recorder", str(folder), *origin],
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
            )


def is_alive(folder: Path) -> bool:
    """Whether a recorder holds the run's lock."""
    if not folder.is_dir():
        return False
    descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def show_life(folder: Path) -> None:
    """The recorder's heartbeat for machines that share the folder but cannot see its processes."""
    with contextlib.suppress(OSError):
        os.utime(folder / LOCK_NAME)


def is_live(opening: dict[str, Any], folder: Path) -> bool:
    """Whether the ``dvc`` of a run is still at work; of another machine's run, whether its recorder has lately shown life."""
    if opening["host"] == socket.gethostname():
        return Identity(**opening["anchor"]).process() is not None
    with contextlib.suppress(OSError):
        return time.time() - (folder / LOCK_NAME).stat().st_mtime < LOST_AFTER_S
    return False


def state(folder: Path) -> dict[str, Any]:
    """The run's way to MLflow: ``run_id``, ``offset``, ``complete``, ``dropped`` (nobody wants it), ``unreachable``, ``uri``,
    and in words ``problem`` and ``notice``."""
    found = None
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
    empty = {
        "run_id": None,
        "offset": 0,
        "complete": False,
        "dropped": False,
        "unreachable": False,
        "uri": None,
        "problem": None,
        "notice": None,
    }
    return {**empty, **found} if isinstance(found, dict) else empty


def is_shipped(folder: Path) -> bool:
    """Whether all that the journal holds has arrived (something may be added to a run that has ended), or nobody wants it there."""
    found = state(folder)
    return bool(found["dropped"]) or bool(found["complete"] and found["offset"] >= (folder / journal.FILE_NAME).stat().st_size)


def remember(folder: Path, **changes: Any) -> None:
    """Change the state of the run's way to MLflow; only its recorder does."""
    files.write_json(folder / STATE_NAME, {**state(folder), **changes})


def unshipped(runs: Path) -> list[Path]:
    """The runs that have not arrived in MLflow whole and that no recorder is at, the newest first; not another machine's live ones."""
    found = []
    for folder in sorted(runs.glob("[!.]*/"), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if not is_shipped(folder) and not is_alive(folder):
                opening = journal.read_run(folder)[0]
                if opening["host"] == socket.gethostname() or not is_live(opening, folder):
                    found.append(folder)
    return found


def take_up(runs: Path, root: Path) -> None:
    """Close the newest runs whose recorder died, while what they left still lies in the workspace."""
    dead = [folder for folder in unshipped(runs)[:TAKEN_UP] if _is_dead(folder)]
    for folder in dead:
        ensure(folder, root)
    wait_until(lambda: not any(_is_dead(folder) and is_alive(folder) for folder in dead), CLOSING_TIMEOUT_S)


def _is_dead(folder: Path) -> bool:
    """Whether the run has ended without being closed."""
    records = journal.read_run(folder)
    return not is_live(records[0], folder) and all(record["type"] != "end" for record in records)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def tell_verdict(folder: Path, stage: str) -> None:
    """Wait for the diagnosis of a failed stage and show its sentence and where the whole of it lies."""
    verdict = folder / VERDICT_NAME
    wait_until(lambda: verdict.is_file() or not is_alive(folder), VERDICT_TIMEOUT_S)
    if verdict.is_file():
        found = json.loads(verdict.read_text(encoding="utf-8"))
        sentence = f"\n{found['sentence']}" if found["findings"] else ""  # without a finding it repeats what the stage has said
        sys.stderr.write(f"{sentence}\nThe whole diagnosis: flight why, or {verdict.parent}/index.html\n")
    else:
        sys.stderr.write(f"\n{stage} failed. Its record is in {folder}; type: flight why\n")


def tell_problem(folder: Path, told: str) -> None:
    """Say once in a run why it does not arrive in MLflow as asked; files with the name ``told`` remember what has been said."""
    found = state(folder)
    safe = f"Nothing is lost: the record is in {folder}, and flight sync ships it later."
    for kind, text in {"problem": f"{found['problem']}.\n{safe}", "notice": f"{found['notice']}."}.items():
        if found[kind] and not (folder / f"{told}-{kind}").exists():
            with contextlib.suppress(OSError):
                (folder / f"{told}-{kind}").touch()
            sys.stderr.write(f"\nMLflow: {text}\n")
