"""A replay while it runs: what it has in common with its original, and the end from outside that the original came to."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from stages.flight.record import journal
from stages.flight.record.session import Identity
from stages.flight.runs.proof import progress
from stages.flight.runs.run import KILLED_KINDS, Run


class Ending:
    """Follows the journal of a replay in ``workspace``.

    A run that was ended from outside is ended again in the same way, once its stage has told as much as the original's had.
    """

    def __init__(self, original: Run, workspace: Path, tell: Callable[[str], None], *, strikes: bool) -> None:
        self._workspace, self._tell = workspace, tell
        was_killed = original.failure is not None and original.failure["kind"] in KILLED_KINDS
        self._failure = original.failure if was_killed and strikes else None
        records = journal.read_run(original.folder)
        self._num_told = len(progress(records, self._failure))
        self._digests = {record.get("epoch"): record.get("values") for record in records if record["type"] == "digest"}
        self._records: list[dict[str, Any]] = []
        self._offset = 0

    def follow(self, dvc: int) -> None:
        """Tell what has come since the last time, and end the stage if it is time."""
        path = next((self._workspace / journal.RECORDS_FOLDER / "runs").glob(f"[!.]*/{journal.FILE_NAME}"), None)
        if path is None:
            return
        fresh, self._offset = journal.read(path, self._offset)
        self._records += fresh
        for record in fresh:
            self._say(record)
        if self._failure is not None:
            self._strike(dvc)

    def _say(self, record: dict[str, Any]) -> None:
        if record["type"] == "stage-start":
            self._tell(f"{record['stage']} …")
        elif record["type"] == "digest" and record.get("epoch") in self._digests:
            is_same = record.get("values") == self._digests[record.get("epoch")]
            self._tell(f"  epoch {record.get('epoch')}: {'the same, bit for bit' if is_same else 'differs'}")

    def _strike(self, dvc: int) -> None:
        failure = self._failure or {}
        started = next((r for r in self._records if r["type"] == "stage-start" and r["stage"] == failure["stage"]), None)
        if started is None or len(progress(self._records, failure)) < self._num_told:
            return
        stage, launcher = (Identity(**started[name]).process() for name in ("process", "launcher"))
        recorder = next((r["pid"] for r in self._records if r.get("part") == "environment"), None)
        if stage is None or launcher is None:
            return
        self._tell(f"  {failure['stage']} is ended here, as it was then ({failure['kind']})")
        ends: dict[str, tuple[int, list[int | None]]] = {
            "killed": (signal.SIGKILL, [stage.pid]),
            "terminated": (signal.SIGTERM, [launcher.pid]),
            "interrupted": (signal.SIGINT, [launcher.pid]),
            "lost": (signal.SIGKILL, [recorder, dvc, launcher.pid, stage.pid]),
        }
        number, receivers = ends[failure["kind"]]
        self._failure = None
        for receiver in receivers:
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                os.kill(receiver or dvc, number)
