"""The recorder: a detached process that follows one run's journal, ends orphans, and closes the run when dvc is gone.

It can be killed at any time: started again on the same folder, it goes on from what the journal holds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from stages.flight.record import capture, journal
from stages.flight.record.closing import close, diagnose, keep_cached, keep_reports
from stages.flight.record.session import Identity
from stages.flight.runs import run as runs

POLL_S = 0.2
SYSTEM_SAMPLE_S = 10.0
# How long a stage may take to end after SIGTERM, before SIGKILL.
GRACE_S = 10.0
SHIP_S = 1.0
LONGEST_PAUSE_S = 60.0
# A server that does not answer after the run's end is tried this often; a later command ships the rest.
TRIES_AFTER_END = 3


class Recorder:
    """Follows the journal in ``folder`` from its beginning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = journal.Journal(folder)
        self.records, self._offset = journal.read(folder / journal.FILE_NAME)
        opening = self.records[0]
        self.anchor = Identity(**opening["anchor"])
        self.workspace = Path(opening["workspace"])
        self.is_temporary = opening["workspace"] != opening["root"]  # DVC deletes the folder before it ends
        # What an earlier recorder has kept must not be replaced by what lies in the workspace now.
        self._kept = {record["stage"] for record in self.records if record["type"] == "kept"}
        self._lock_time = 0.0
        self._next_sample = 0.0

    def follow(self) -> None:
        """Return when the anchor is gone and no stage is left."""
        while True:
            self._read()
            running = runs.running_stage(self.records)
            anchor_is_gone = self.anchor.process() is None
            if running is not None and (anchor_is_gone or not _launcher(running).process()):
                cause = "dvc ended while the stage was running" if anchor_is_gone else "the launcher of the stage was killed"
                self._end_orphan(running, cause)
            elif anchor_is_gone:
                return
            self._keep_lock()
            self._sample_system(running)
            time.sleep(POLL_S)

    def _read(self) -> None:
        fresh, self._offset = journal.read(self.folder / journal.FILE_NAME, self._offset)
        self.records.extend(fresh)
        for stage in [record["stage"] for record in self.records if record["type"] == "stage-end"]:
            if stage in self._kept:
                continue
            keep_reports(self.workspace, self.folder, stage)
            if runs.failure(self.records) is not None:
                # What an earlier run diagnosed must not be read as this run's.
                shutil.rmtree(self.workspace / "reports/diagnose", ignore_errors=True)
                diagnose(self.records, self.folder)
            self._kept.add(stage)
            self.log.write("kept", stage=stage)

    def _keep_lock(self) -> None:
        """Copy dvc.lock whenever it changes: a temporary folder is gone before dvc is."""
        with contextlib.suppress(OSError):
            changed = (self.workspace / "dvc.lock").stat().st_mtime
            if changed != self._lock_time:
                shutil.copyfile(self.workspace / "dvc.lock", self.folder / "dvc.lock")
                self._lock_time = changed
                if self.is_temporary:
                    keep_cached(self.workspace, self.folder, self._kept)

    def _end_orphan(self, running: dict[str, Any], cause: str) -> None:
        """SIGTERM to the launcher, which passes it on and records the end; then to the stage's group; then SIGKILL."""
        launcher, stage = _launcher(running).process(), Identity(**running["process"]).process()
        last_signal: int | None = None
        if launcher is not None or stage is not None:
            self.log.write("orphan", stage=running["stage"], cause=cause)
        if launcher is not None:
            with contextlib.suppress(psutil.Error):
                launcher.terminate()
            psutil.wait_procs([stage] if stage is not None else [], timeout=GRACE_S)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if stage is not None and stage.is_running():
                last_signal = int(number)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(stage.pid, number)
                psutil.wait_procs([stage], timeout=GRACE_S)
        deadline = time.monotonic() + GRACE_S
        while launcher is not None and launcher.is_running() and self._is_running(running) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._is_running(running):
            kind = "lost" if last_signal is None else "terminated"
            self.log.write("stage-end", stage=running["stage"], exit_code=None, signal=last_signal, seconds=None, cause=cause, kind=kind)

    def _is_running(self, start: dict[str, Any]) -> bool:
        self._read()
        return runs.running_stage(self.records) is start

    def _sample_system(self, running: dict[str, Any] | None) -> None:
        if running is None or time.monotonic() < self._next_sample:
            return
        self._next_sample = time.monotonic() + SYSTEM_SAMPLE_S
        values = {"cpu_percent": psutil.cpu_percent(), "memory_percent": psutil.virtual_memory().percent}
        stage = Identity(**running["process"]).process()
        with contextlib.suppress(psutil.Error):
            if stage is not None:
                values["stage_memory_bytes"] = float(stage.memory_info().rss)
        self.log.metrics("system", values, step=sum(1 for record in self.records if record.get("stage") == "system"))


def _launcher(running: dict[str, Any]) -> Identity:
    return Identity(**running["launcher"])


def _ship(folder: Path, ended: threading.Event) -> None:
    """Ship what the journal has, again and again until its end is shipped; a server's failure is only waited out."""
    from stages.flight.record.mlflow_store import Store, StoreError

    pause, tries_left = SHIP_S, TRIES_AFTER_END
    store: Store | None = None
    while tries_left:
        is_last = ended.is_set()
        try:
            store = store or Store(folder)
            if store.ship():
                return
            pause = SHIP_S
        except StoreError as error:
            sys.stderr.write(f"MLflow: {error}\n")
            pause = min(2 * pause, LONGEST_PAUSE_S)
        tries_left -= is_last
        if is_last:
            time.sleep(SHIP_S)
        else:
            ended.wait(pause)


def main() -> int:
    """Record the run in the folder given; who started this process has taken the run's lock for it."""
    folder = Path(sys.argv[1])
    recorder = Recorder(folder)
    ended = threading.Event()
    shipping = threading.Thread(target=_ship, args=(folder, ended), daemon=True)
    shipping.start()
    if not any(record.get("part") == "environment" for record in recorder.records):
        recorder.log.write("capture", **capture.environment())
    if runs.end(recorder.records) is None:
        recorder.follow()
        close(recorder.records, recorder.workspace, folder, recorder.log)
    ended.set()
    shipping.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
