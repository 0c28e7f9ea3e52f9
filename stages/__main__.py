"""The launcher, ``python -m stages NAME``: starts the bare stage and records how it ended.

Only a parent can tell a kill, a memory limit and ``os._exit`` apart. The command is part of DVC's cache key.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import psutil

from stages.flight.record import capture, recorder_process, session
from stages.flight.record.journal import RUN_FOLDER_VARIABLE, SCHEMA, Journal
from stages.flight.record.names import DEFAULT_EXPERIMENT, STAGES
from stages.flight.record.stage_stderr import StageStderr

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The shell and DVC read an ending by signal N as exit code 128 + N.
SIGNAL_EXIT_OFFSET = 128
# A grandchild that outlives the stage may hold standard error open.
STDERR_TIMEOUT_S = 2.0
# Of so many of the newest runs, those that have not arrived in MLflow are taken up again.
TAKEN_UP = 8


def main() -> int:
    """Run one stage under the recorder; returns the stage's exit code."""
    if len(sys.argv) != 2 or sys.argv[1] not in STAGES:
        sys.stderr.write(f"usage: python -m stages {{{','.join(STAGES)}}}\n")
        return 2
    stage = sys.argv[1]
    received: list[int] = []
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: received.append(number))  # until there is a stage to pass it on to
    run, root = session.join(), session.records_root()
    journal = Journal(run.folder)
    if run.is_new:
        _open_run(run, root, journal)
        recorder_process.ensure(run.folder, root)
        journal.write("capture", **capture.workspace(Path.cwd(), run.folder))
        for folder in recorder_process.unfinished(run.folder.parent, TAKEN_UP):
            recorder_process.ensure(folder, root)
    else:
        recorder_process.ensure(run.folder, root)
    exit_code = _run(stage, run.folder, journal, received)
    if exit_code != 0:
        recorder_process.tell_verdict(run.folder, stage)
    return exit_code


def _open_run(run: session.Session, root: Path, journal: Journal) -> None:
    journal.write(
        "run",
        schema=SCHEMA,
        id=run.folder.name,
        name=os.environ.get("DVC_EXP_NAME") or run.folder.name,
        root=str(root),
        workspace=str(Path.cwd()),
        anchor=run.anchor.as_record(),
        command=run.command,
        experiment=os.environ.get("DVC_EXP_NAME"),
        mlflow_run_id=os.environ.get("FLIGHT_RUN_ID"),
        tracking_uri=session.tracking_uri(root),
        mlflow_experiment=os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT,
    )


def _run(stage: str, folder: Path, journal: Journal, received: list[int]) -> int:
    started = time.monotonic()
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, _frame: FrameType | None) -> None:
        journal.write("signal", signal=number, name=signal.Signals(number).name, stage=stage)
        if child is not None:
            child.send_signal(number)
        else:
            received.append(number)

    for forwarded in FORWARDED:
        signal.signal(forwarded, forward)
    stderr = StageStderr()
    # In a process group of its own, so that Ctrl-C reaches the stage once, through the launcher.
    child = subprocess.Popen(
        [sys.executable, "-m", f"stages.{stage}"],
        env={**os.environ, RUN_FOLDER_VARIABLE: str(folder)},
        process_group=0,
        stderr=stderr.writing_end,
    )
    for early in received:  # came before there was a child
        child.send_signal(early)
    me, process = session.identity(psutil.Process()), session.identity(psutil.Process(child.pid))
    journal.write("stage-start", stage=stage, launcher=me.as_record(), process=process.as_record())
    code = child.wait()
    last_lines = stderr.finish(timeout_s=STDERR_TIMEOUT_S)
    journal.write(
        "stage-end",
        stage=stage,
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        seconds=round(time.monotonic() - started, 3),
        last_lines=last_lines if code else "",
    )
    return code if code >= 0 else SIGNAL_EXIT_OFFSET - code


if __name__ == "__main__":
    sys.exit(main())
