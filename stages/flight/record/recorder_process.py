"""Start a run's recorder, find out whether it lives, and wait for what it finds; standard library only."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

LOCK_NAME = "recorder.lock"
LOG_NAME = "recorder.log"
STATE_NAME = "mlflow.json"
VERDICT_NAME = "diagnosis/verdict.json"
# Loading the rules takes two seconds; a person waits no longer than this for the cause of a failure.
VERDICT_TIMEOUT_S = 20.0
POLL_S = 0.1


def ensure(folder: Path, root: Path) -> None:
    """Start the detached recorder of the run in ``folder``, unless one is at work; it works in ``root``.

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
                [sys.executable, "-m", "stages.flight.record.recorder", str(folder)],
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock.fileno(),),
                start_new_session=True,
            )


def is_alive(folder: Path) -> bool:
    """Whether a recorder holds the run's lock."""
    descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def unfinished(runs: Path, newest: int) -> list[Path]:
    """Of the ``newest`` runs those that have not been shipped to their end, and that no recorder is at."""
    folders = sorted(runs.glob("*/"), reverse=True)[:newest]
    return [folder for folder in folders if (folder / "journal.jsonl").is_file() and not _is_complete(folder) and not is_alive(folder)]


def _is_complete(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))["complete"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def tell_verdict(folder: Path, stage: str) -> None:
    """Wait for the diagnosis of a failed stage and show its sentence and where the whole of it lies."""
    verdict = folder / VERDICT_NAME
    deadline = time.monotonic() + VERDICT_TIMEOUT_S
    while not verdict.is_file() and is_alive(folder) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if verdict.is_file():
        found = json.loads(verdict.read_text(encoding="utf-8"))
        sentence = f"\n{found['sentence']}" if found["findings"] else ""  # without a finding it repeats what the stage has said
        sys.stderr.write(f"{sentence}\nThe whole diagnosis: flight why, or {verdict.parent}/index.html\n")
    else:
        sys.stderr.write(f"\n{stage} failed. Its record is in {folder}; type: flight why\n")
