"""The recorder: a detached process that follows one run's journal, ends orphans, and closes the run when dvc is gone.

It can be killed at any time: started again on the same folder, it goes on from what the journal holds.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from stages.flight.record import address, capture, journal, lock, recorder_process
from stages.flight.record.closing import close, close_barely, diagnose
from stages.flight.record.keeping import is_of_run, keep_cached, keep_reports
from stages.flight.record.session import DVC_ENDED, Identity
from stages.flight.record.system import SystemSampler
from stages.flight.runs import naming
from stages.flight.runs import run as runs
from stages.flight.runs.changes import plain_params

POLL_S = 0.2
SYSTEM_SAMPLE_S = 10.0
# How long a stage may take to end after SIGTERM, before SIGKILL.
GRACE_S = 10.0
SHIP_S = 1.0
LONGEST_PAUSE_S = 60.0
# Models are large and lines are slow, but who waits for `flight sync` wants an answer.
SHIPPING_TIMEOUT_S = 600.0
# What a stage has lost when it is an orphan, and the kind of failure.
LAUNCHER_KILLED = ("the launcher of the stage was killed", "killed")
# A server that does not answer after the run's end is tried this often; a later command ships the rest.
TRIES_AFTER_END = 3


class Recorder:
    """Follows the journal in ``folder`` from its beginning."""

    def __init__(self, folder: Path, *, by_launcher: bool) -> None:
        self.folder = folder
        self.log = journal.Journal(folder)
        records, self._offset = journal.read(folder / journal.FILE_NAME)
        self.records = journal.with_opening(folder, records)
        opening = self.records[0]
        self.anchor = Identity(**opening["anchor"])
        self.is_ours = opening["host"] == socket.gethostname()  # else its processes cannot be seen, and are long gone
        self.workspace = Path(opening["workspace"])
        self.is_temporary = opening["workspace"] != opening["root"]  # DVC deletes the folder before it ends
        # What an earlier recorder has kept must not be replaced by what lies in the workspace now.
        self._kept = {record["stage"] for record in self.records if record["type"] == "kept"}
        self._lock_time = 0.0
        # A recorder that comes later does not know what has been done in the workspace since.
        self.saw_dvc_end = self.is_ours and (by_launcher or self.anchor.process() is not None)
        self._is_named = any(record["type"] == "name" for record in self.records)
        self._sampler = SystemSampler()
        self._num_samples = sum(1 for record in self.records if record.get("stage") == "system")
        self._next_sample = self._next_sign = 0.0

    def follow(self) -> None:
        """Return when the anchor is gone and no stage is left."""
        while True:
            self._read()
            self._name()
            running = runs.running_stage(self.records)
            anchor_is_gone = not self.is_ours or self.anchor.process() is None
            if running is not None and (anchor_is_gone or not _launcher(running).process()):
                self._end_orphan(running, *(DVC_ENDED if _launcher(running).process() else LAUNCHER_KILLED))
            elif anchor_is_gone:
                self._end_strays()
                return
            _despite_errors(self._keep_lock)
            self._sample_system(running)
            if time.monotonic() >= self._next_sign:
                self._next_sign = time.monotonic() + recorder_process.HEARTBEAT_S
                recorder_process.show_life(self.folder)
            time.sleep(POLL_S)

    def close(self) -> None:
        """Write the end of the run."""
        close(self.records, self.workspace, self.folder, self.log, saw_dvc_end=self.saw_dvc_end)

    def _read(self) -> None:
        fresh, self._offset = journal.read(self.folder / journal.FILE_NAME, self._offset)
        self.records.extend(fresh)
        if fresh:
            self.log.sync()  # here, where it costs the training nothing
        for ending in [record for record in self.records if record["type"] == "stage-end"]:
            stage = ending["stage"]
            if stage in self._kept:
                continue
            _despite_errors(functools.partial(self._keep, stage, has_failed=runs.has_failed(ending)))
            if runs.failure(self.records) is not None:
                if self.saw_dvc_end:  # what an earlier run diagnosed must not be read as this run's
                    shutil.rmtree(self.workspace / "reports/diagnose", ignore_errors=True)
                _despite_errors(lambda: diagnose(self.records, self.folder))
            self._kept.add(stage)
            self.log.write("kept", stage=stage)

    def _keep(self, stage: str, *, has_failed: bool) -> None:
        """Keep what a stage has left; of a run that died unseen, only if dvc.lock says that it is that run's still."""
        if self.saw_dvc_end or is_of_run(stage, self.workspace, plain_params(self.folder)):
            keep_reports(self.workspace, self.folder, stage, has_failed=has_failed)

    def _keep_lock(self) -> None:
        """Copy dvc.lock whenever it changes: a temporary folder is gone before dvc is."""
        with contextlib.suppress(OSError):
            changed = (self.workspace / "dvc.lock").stat().st_mtime
            if changed != self._lock_time and lock.read_stages(self.workspace / "dvc.lock"):  # else DVC is writing it
                shutil.copyfile(self.workspace / "dvc.lock", self.folder / "dvc.lock")
                self._lock_time = changed
                if self.is_temporary:
                    keep_cached(self.workspace, self.folder, plain_params(self.folder), self._kept)

    def _end_orphan(self, running: dict[str, Any], cause: str, kind: str) -> None:
        """SIGTERM to the launcher, which passes it on and records the end; then to the stage's group; then SIGKILL."""
        launcher = _launcher(running).process() if self.is_ours else None
        stage = Identity(**running["process"]).process() if self.is_ours else None
        has_living = launcher is not None or stage is not None
        if has_living:
            self.log.write("orphan", stage=running["stage"], cause=cause, kind=kind)
        if launcher is not None:
            with contextlib.suppress(psutil.Error):
                launcher.terminate()
            psutil.wait_procs([stage] if stage is not None else [], timeout=GRACE_S)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if stage is not None and stage.is_running():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(stage.pid, number)
                psutil.wait_procs([stage], timeout=GRACE_S)
        deadline = time.monotonic() + GRACE_S
        while launcher is not None and launcher.is_running() and self._is_running(running) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._is_running(running):
            # A launcher that ends in any other way writes how the stage ended.
            ending = {"cause": cause, "kind": kind} if has_living or self.saw_dvc_end else self._lost(running["stage"])
            self.log.write("stage-end", stage=running["stage"], exit_code=None, signal=None, seconds=None, **ending)

    def _lost(self, stage: str) -> dict[str, str]:
        """Nothing of the stage is left: what ended it is known only if an earlier recorder had seen it."""
        seen = next((record for record in self.records if record["type"] == "orphan" and record["stage"] == stage), None)
        if seen is not None:
            return {"cause": seen["cause"], "kind": seen["kind"]}
        last = self.records[-1]["time"]
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last))
        return {"cause": f"everything ended at once (the machine, or every process); last sign of life {when}", "kind": "lost"}

    def _end_strays(self) -> None:
        """Processes that a stage has left, known by the run in their environment: a launcher that is killed cannot end them."""
        strays = []
        for process in psutil.process_iter() if self.is_ours else ():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(journal.RUN_FOLDER_VARIABLE) == str(self.folder):
                    process.terminate()
                    strays.append(process)
        for process in psutil.wait_procs(strays, timeout=GRACE_S)[1]:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _is_running(self, start: dict[str, Any]) -> bool:
        self._read()
        return runs.running_stage(self.records) is start

    def _name(self) -> None:
        """Name the run by what is new in it, as soon as the launcher has captured its parameters and code."""
        if not self._is_named and any(record.get("part") == "workspace" for record in self.records):
            self._is_named = True
            _despite_errors(lambda: self.log.write("name", name=naming.name(self.folder, self.records)))

    def _sample_system(self, running: dict[str, Any] | None) -> None:
        if running is None or time.monotonic() < self._next_sample:
            return
        self._next_sample = time.monotonic() + SYSTEM_SAMPLE_S
        self.log.metrics("system", self._sampler.sample(Identity(**running["process"]).process()), step=self._num_samples)
        self._num_samples += 1


def _launcher(running: dict[str, Any]) -> Identity:
    return Identity(**running["launcher"])


def _despite_errors(work: Callable[[], None]) -> bool:
    """Whether it went well: the boundary at which an error of ours, or of a file that someone has changed, costs a part, not the record."""
    try:
        work()
    except Exception:
        traceback.print_exc()
        return False
    return True


def _ship(folder: Path, ended: threading.Event) -> None:
    """Ship what the journal has, again and again until its end is shipped; a server's failure is only waited out.

    Then, unless nobody answers, the recorder of the next older run that has not arrived is started, which does the same.
    """
    from stages.flight.record.mlflow_store import Store, StoreError

    if recorder_process.state(folder)["dropped"]:
        return
    if told := address.fault(str(journal.address(journal.read_run(folder)))):
        recorder_process.remember(folder, problem=told)
        return
    pause, tries_left = SHIP_S, TRIES_AFTER_END
    store: Store | None = None
    while tries_left:
        is_last = ended.is_set()
        try:
            store = store or Store(folder)
            if store.ship():
                _start_next(folder)
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
    if not recorder_process.state(folder)["unreachable"]:
        _start_next(folder)


def _start_next(folder: Path) -> None:
    """Start the recorder of the next older run that has not arrived in MLflow."""
    older = [left for left in recorder_process.unshipped(folder.parent) if left.name < folder.name]
    for left in older[:1]:
        recorder_process.ensure(left, Path.cwd())


def main() -> int:
    """Record the run in the folder given; who started this process has taken the run's lock for it."""
    folder = Path(sys.argv[1])
    recorder = Recorder(folder, by_launcher=sys.argv[2:] == [recorder_process.BY_LAUNCHER])
    ended = threading.Event()
    shipping = threading.Thread(target=_ship, args=(folder, ended), daemon=True)
    shipping.start()
    if recorder.saw_dvc_end and not any(record.get("part") == "environment" for record in recorder.records):
        recorder.log.write("capture", **capture.environment())
    if runs.end(recorder.records) is None:
        recorder.follow()
        if not _despite_errors(recorder.close):
            close_barely(recorder.records, recorder.log)
        _despite_errors(lambda: runs.keep_summary(folder))
    ended.set()
    shipping.join(SHIPPING_TIMEOUT_S)
    if shipping.is_alive():  # a server that always sends one byte more
        recorder_process.remember(folder, problem=f"MLflow did not take all of the run in {SHIPPING_TIMEOUT_S:.0f} s", unreachable=True)
        sys.stderr.flush()
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
