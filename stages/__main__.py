"""The launcher, ``python -m stages NAME``: starts the bare stage and records how it ended.

Only a parent can tell a kill, a memory limit and ``os._exit`` apart. The command is part of DVC's cache key.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from stages.flight.record import address, capture, journal, recorder_process, session
from stages.flight.record.journal import ANEW_VARIABLE, RUN_FOLDER_VARIABLE, Journal
from stages.flight.record.names import DEFAULT_EXPERIMENT, STAGES
from stages.flight.record.secrets import mask
from stages.flight.record.stage_stderr import StageStderr
from stages.shared import memory

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The shell and DVC read an ending by signal N as exit code 128 + N.
SIGNAL_EXIT_OFFSET = 128
# A grandchild that outlives the stage may hold standard error open.
STDERR_TIMEOUT_S = 2.0
# The recorder copies a stage's reports from a temporary folder, which DVC then deletes.
KEEPING_TIMEOUT_S = 20.0
TOLD = ".told"


def main() -> int:
    """Run one stage under the recorder; returns the stage's exit code."""
    if len(sys.argv) != 2 or sys.argv[1] not in STAGES:
        sys.stderr.write(f"usage: python -m stages {{{','.join(STAGES)}}}\n")
        return 2
    stage = sys.argv[1]
    received: list[int] = []
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: received.append(number))  # until there is a stage to pass it on to
    root = session.records_root()
    try:
        run = session.join()
    except session.DvcEndedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    try:
        if run.is_new:
            recorder_process.take_up(run.folder.parent, root)
            _open_run(run, root, stage)
        recorder_process.ensure(run.folder, root, recorder_process.BY_LAUNCHER)
        log = Journal(run.folder)
    except OSError as error:
        sys.stderr.write(
            f"{stage} is not started, since it cannot be recorded: {error}. "
            f"Expected a folder with room that you may write to: {run.folder.parent}\n"
        )
        return 1
    if run.is_new:
        log.write("capture", **capture.workspace(Path.cwd(), run.folder))
    exit_code = _run(stage, run, log, received)
    if exit_code != 0:
        recorder_process.tell_verdict(run.folder, stage)
    if Path.cwd() != root:
        recorder_process.wait_until(lambda: _is_kept(run.folder, stage), KEEPING_TIMEOUT_S)
    recorder_process.tell_problem(run.folder, TOLD)
    return exit_code


def _open_run(run: session.Session, root: Path, stage: str) -> None:
    uri = address.tracking_uri(root)
    journal.open_run(
        run.folder,
        id=run.folder.name,
        stage=stage,
        root=str(root),
        workspace=str(Path.cwd()),
        host=socket.gethostname(),
        anchor=run.anchor.as_record(),
        command=run.command,
        experiment=os.environ.get("DVC_EXP_NAME"),
        mlflow_run_id=os.environ.get("FLIGHT_RUN_ID"),
        tracking_uri=uri,
        mlflow_experiment=os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT,
    )
    session.remember(run)
    if fault := address.fault(uri):
        sys.stderr.write(
            f"\nMLFLOW_TRACKING_URI is {mask(uri)}, and nothing can be shipped there: {fault}.\n"
            f"The run is recorded in {run.folder} all the same. Correct the variable, then type: flight sync\n\n"
        )
        (run.folder / f"{TOLD}-problem").touch()


def _is_kept(folder: Path, stage: str) -> bool:
    records, _ = journal.read(folder / journal.FILE_NAME) if folder.is_dir() else ([], 0)
    is_kept = any(record["type"] == "kept" and record["stage"] == stage for record in records)
    return is_kept or not recorder_process.is_alive(folder)


def _run(stage: str, run: session.Session, log: Journal, received: list[int]) -> int:
    started = time.monotonic()
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, _frame: FrameType | None) -> None:
        log.write("signal", signal=number, name=signal.Signals(number).name, stage=stage)
        if child is not None:
            child.send_signal(number)
        else:
            received.append(number)

    for forwarded in FORWARDED:
        signal.signal(forwarded, forward)
    stderr, num_oom_kills = StageStderr(), memory.num_oom_kills()
    child = _start(stage, run, stderr)
    me, process = session.identity(psutil.Process()), session.identity(psutil.Process(child.pid))
    log.write("stage-start", stage=stage, launcher=me.as_record(), process=process.as_record())
    if run.anchor.process() is None:  # and its recorder with it, perhaps, before it could see the stage
        cause, kind = session.DVC_ENDED
        log.write("orphan", stage=stage, cause=cause, kind=kind)
        received.append(signal.SIGTERM)
    for early in received:  # came before there was a child
        child.send_signal(early)
    code = child.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # workers that a killed stage has left
    last_lines = stderr.finish(timeout_s=STDERR_TIMEOUT_S)
    ending = _ending(code, is_done=_is_done(run.folder, stage, child.pid))
    log.write(
        "stage-end",
        stage=stage,
        **ending,
        seconds=round(time.monotonic() - started, 3),
        oom_kills=memory.num_oom_kills() - num_oom_kills,
        last_lines=mask(last_lines) if code else "",
    )
    if "kind" in ending:
        return 1  # so that DVC does not take the outs for whole
    return code if code >= 0 else SIGNAL_EXIT_OFFSET - code


def _start(stage: str, run: session.Session, stderr: StageStderr) -> subprocess.Popen[bytes]:
    """The bare stage, in a process group of its own, so that Ctrl-C reaches it once, through the launcher."""
    anew = {ANEW_VARIABLE: "1"} if session.is_forced(run.command) else {}
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"],
        env={**os.environ, RUN_FOLDER_VARIABLE: str(run.folder), **anew},
        process_group=0,
        stdin=subprocess.DEVNULL,  # a group in the background that reads from the terminal is stopped, without a word
        stderr=stderr.writing_end,
    )


def _ending(code: int, *, is_done: bool) -> dict[str, Any]:
    if code < 0:
        return {"exit_code": None, "signal": -code}
    if code == 0 and not is_done:
        return {"exit_code": 0, "signal": None, "kind": "exception", "cause": "it ended with exit code 0 before its work was done"}
    return {"exit_code": code, "signal": None}


def _is_done(folder: Path, stage: str, pid: int) -> bool:
    try:
        records, _ = journal.read(folder / journal.FILE_NAME)
    except OSError:
        return True  # someone has deleted the record; the stage has not failed for that
    return any(record["type"] == "stage-done" and record["stage"] == stage and record["pid"] == pid for record in records)


if __name__ == "__main__":
    sys.exit(main())
