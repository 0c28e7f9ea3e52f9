"""Start a run's recorder, find out whether it lives, and wait for what it finds; standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_NAME = "recorder.lock"
LOG_NAME = "recorder.log"
VERDICT_NAME = "diagnosis/verdict.json"
# Loading the rules takes two seconds; a person waits no longer than this for the cause of a failure.
VERDICT_TIMEOUT_S = 20.0


def ensure(folder: Path) -> None:
    """Start the detached recorder of the run in ``folder``, unless one is at work."""
    if is_alive(folder):
        return
    with (folder / LOG_NAME).open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "stages.flight.record.recorder", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def is_alive(folder: Path) -> bool:
    """Whether a recorder holds the run's lock, which the system frees however its holder ends."""
    with contextlib.ExitStack() as stack:
        return not stack.enter_context(lock(folder))


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[bool]:
    """Hold the run's lock while inside; yields False if another process has it."""
    with (folder / LOCK_NAME).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def tell_verdict(folder: Path, stage: str) -> None:
    """Wait for the diagnosis of a failed stage and show its sentence and where the whole of it lies."""
    verdict = folder / VERDICT_NAME
    deadline = time.monotonic() + VERDICT_TIMEOUT_S
    while time.monotonic() < deadline:
        if verdict.is_file():
            sentence = json.loads(verdict.read_text(encoding="utf-8"))["sentence"]
            sys.stderr.write(f"\n{sentence}\nThe whole diagnosis: flight why, or {verdict.parent}/index.html\n")
            return
        if not is_alive(folder):
            break
        time.sleep(0.1)
    sys.stderr.write(f"\n{stage} failed. Its record is in {folder}; type: flight why\n")
