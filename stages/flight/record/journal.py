"""The journal: an append-only file of JSON lines that holds all that is known of a run, written before anything is sent.

Standard library only, since every process of a run writes to it. Format, version 1: ``journal.jsonl`` in the run's
folder, one JSON object a line, each with

``type``  what it tells (see RECORD_TYPES), ``time`` seconds since 1970 (float), ``pid`` of the writer,

and further fields of its type. The first record has the type ``run`` and the field ``schema``. A later version may add
types and fields, never change the meaning of one. A line that is cut or damaged is skipped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCHEMA = 1
FILE_NAME = "journal.jsonl"
RUN_FOLDER_VARIABLE = "FLIGHT_RUN_FOLDER"  # set by the launcher for its stage

RECORD_TYPES = {
    "run": "schema, id, name, root, workspace, anchor {pid, create_time}, command, experiment, mlflow_run_id, tracking_uri, "
    "mlflow_experiment",
    "capture": "part: workspace (code) or environment (packages, python, platform, hardware, settings): the state before any work",
    "stage-start": "stage, launcher {pid, create_time}, process {pid, create_time}",
    "stage-end": "stage, exit_code, signal, seconds, last_lines (of standard error, if it failed); or, from the recorder, cause and kind",
    "orphan": "stage, cause: the recorder is about to end a stage that lost its dvc or its launcher",
    "kept": "stage: the recorder has copied the stage's reports into the run's folder",
    "failure": "stage, kind, error, message, traceback: written by the stage itself",
    "signal": "signal, name, stage: a signal that asked the launcher of the stage to end it",
    "metrics": "stage, values {name: number}, step (or null)",
    "setting": "stage, values: devices, threads, versions as the stage found them",
    "evidence": "part, values: a piece of the evidence for the diagnosis, as it came",
    "digest": "values: SHA-256 digests of an epoch: data order, first batch, loss, weights",
    "end": "status, failure, stages {name: state}, data_version: the run is closed",
}


class Journal:
    """Appends records to a run's journal; without a folder (a stage run bare) it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._descriptor: int | None = None
        if folder is not None:
            path = folder / FILE_NAME
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            if _ends_inside_a_line(path):
                os.write(self._descriptor, b"\n")

    def write(self, record_type: str, **fields: Any) -> None:
        """Append one record by a single write, so that processes do not mix their lines."""
        if self._descriptor is None:
            return
        record = {"type": record_type, "time": time.time(), "pid": os.getpid(), **fields}
        line = json.dumps(record, ensure_ascii=False, default=str) + "\n"
        os.write(self._descriptor, line.encode("utf-8", "backslashreplace"))
        if record_type in ("run", "stage-end", "failure", "end"):
            os.fsync(self._descriptor)

    def metrics(self, stage: str, values: dict[str, float], step: int | None = None) -> None:
        """Record numbers of a stage; with a step they form a curve."""
        self.write("metrics", stage=stage, values=values, step=step)

    def say(self, message: str) -> None:
        """Tell the person at the terminal."""
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()


def _ends_inside_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return False
        file.seek(size - 1)
        return file.read(1) != b"\n"


def read(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The whole records from byte ``offset`` on, and the offset after the last whole line.

    A journal that is shorter than ``offset`` was cut by a power loss: it is read from its beginning.
    """
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < offset:
            offset = 0
        file.seek(offset)
        content = file.read()
    end = content.rfind(b"\n") + 1
    return list(_parse(content[:end])), offset + end


def _parse(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("type"), str) and isinstance(record.get("time"), float):
            yield record


def run_stage(name: str, main: Callable[[Journal], None]) -> None:
    """Run a stage's ``main`` with the journal of its run; a failure is recorded, told, and becomes exit code 1.

    Errors that carry a ``failure_kind`` are complete messages and are shown without their traceback.
    """
    folder = os.environ.get(RUN_FOLDER_VARIABLE)
    log = Journal(Path(folder) if folder else None)
    try:
        main(log)
    except KeyboardInterrupt:
        sys.stderr.write(f"{name} interrupted\n")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)  # so that the launcher sees what ended the stage
    except Exception as error:
        log.write(
            "failure",
            stage=name,
            kind="out-of-memory" if _is_out_of_memory(error) else getattr(error, "failure_kind", "exception"),
            error=type(error).__name__,
            message=str(error),
            traceback=traceback.format_exc(),
        )
        shown = f"{name} failed: {error}\n" if hasattr(error, "failure_kind") else traceback.format_exc()
        sys.stderr.write(shown)
        sys.exit(1)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
