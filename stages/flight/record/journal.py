"""The journal: an append-only file of JSON lines that holds all that is known of a run, written before anything is sent.

Standard library only (and the masking of secrets, which needs no more), since every process of a run writes to it.

Format, version 2: ``journal.jsonl`` in the run's folder, one JSON object a line, each with

``type``  what it tells (see RECORD_TYPES), ``time`` seconds since 1970 (float), ``pid`` of the writer,

and further fields of its type. The first record has the type ``run`` and the field ``schema``; the run's folder appears
together with it, and ``run.json`` holds it once more, so that a run is known however little of its journal a power loss
has left. A later version may add types and fields, never change the meaning of one. A line that is cut or damaged is
skipped.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stages.flight.record.secrets import mask

SCHEMA = 2
RECORDS_FOLDER = ".flight"
FILE_NAME = "journal.jsonl"
OPENING_NAME = "run.json"
# Set by the launcher for its stage: the run's folder; and that earlier work on the stage is not to be continued.
RUN_FOLDER_VARIABLE, ANEW_VARIABLE = "FLIGHT_RUN_FOLDER", "FLIGHT_ANEW"
# Set by a replay: the step of the training, counted from 0, before which it stops and shows its batch.
UNTIL_VARIABLE = "FLIGHT_UNTIL"
MOMENT, MOMENT_TABLE = "moment", "batch.csv"

# How libraries say that an allocation failed: C++, the C library, the dynamic linker, TensorFlow, XLA, CUDA.
OUT_OF_MEMORY = re.compile(
    r"bad_alloc|MemoryError|[Cc]annot allocate memory|failed to map segment|cannot map zero-fill pages|cannot change memory protections|"
    r"RESOURCE_EXHAUSTED|OOM when allocating|[Oo]ut of memory"
)

# What is freed on the way out of a failed allocation counts as taken, so not quite all of the address space needs to be.
NO_ROOM_BYTES = 64 << 20

RECORD_TYPES = {
    "run": "schema, id, stage, root, workspace, host, anchor {pid, create_time}, command, experiment, mlflow_run_id, tracking_uri, "
    "mlflow_experiment",
    "capture": "part: workspace (code) or environment (packages, python, platform, hardware, settings): the state before any work",
    "replay": "of: the run that this one repeats, and level, what it proves; or by: the run that has repeated this one, and level",
    "hybrid": "of: the two runs between which this one lies, switched: what it has from the second",
    "comparison": "page: the page of a comparison with this run, in its folder",
    "name": "name: what a person calls the run, made from what has changed since the run before",
    "address": "tracking_uri: where the run is shipped from now on, because its first address could not be used",
    "stage-start": "stage, launcher {pid, create_time}, process {pid, create_time}",
    "stage-done": "stage: written by the stage itself when its work is whole",
    "stage-end": "stage, exit_code, signal, seconds, oom_kills, last_lines (of standard error, if it failed); cause and kind, where the "
    "exit code does not tell them",
    "orphan": "stage, cause, kind: the recorder is about to end a stage that lost its dvc or its launcher",
    "resumed": "stage, run, phase, epoch, step: the stage goes on from here with what another run had begun",
    "kept": "stage: the recorder has copied the stage's reports into the run's folder",
    "failure": "stage, kind, error, message, traceback: written by the stage itself",
    "signal": "signal, name, stage: a signal that asked the launcher of the stage to end it",
    "metrics": "stage, values {name: number}, step (or null)",
    "setting": "stage, values: devices, threads, versions as the stage found them",
    "evidence": "part, values: a piece of the evidence for the diagnosis, as it came",
    "digest": "epoch, values: SHA-256 digests of an epoch: data order, first batch, loss, weights",
    "end": "status, failure, stages {name: state}, data_version: the run is closed",
}


def open_run(folder: Path, **fields: Any) -> None:
    """Make a run's folder together with its first record, all or nothing.

    Raises:
        FileExistsError: if the folder is there already.
    """
    record = {"type": "run", "time": time.time(), "pid": os.getpid(), "schema": SCHEMA, **fields}
    beside = folder.with_name(f".{folder.name}")
    beside.mkdir(parents=True)
    for name in (FILE_NAME, OPENING_NAME):
        with (beside / name).open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())
    if folder.exists():
        shutil.rmtree(beside)
        raise FileExistsError(folder)
    beside.rename(folder)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class Journal:
    """Appends records to a run's journal; without a folder (a stage run bare) it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.run = folder.name if folder is not None else ""
        # For what outlives a run; a temporary workspace has it where its repository has.
        self.shared_folder = folder.parent.parent if folder is not None else Path(RECORDS_FOLDER)
        self.begins_anew = ANEW_VARIABLE in os.environ
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
        try:
            os.write(self._descriptor, line.encode("utf-8", "backslashreplace"))
            if record_type in ("stage-end", "failure", "end"):
                self.sync()
        except OSError as error:  # a full disk; what is being recorded must not fail for it
            sys.stderr.write(f"The journal cannot be written ({error}), so this is not recorded: {record_type}\n")

    def sync(self) -> None:
        """Have the system write to the disk what any process has appended so far."""
        if self._descriptor is not None:
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


def read_run(folder: Path) -> list[dict[str, Any]]:
    """All whole records of a run, its opening first.

    Raises:
        OSError: if the folder holds no journal.
        ValueError: if neither the journal nor the opening's own file has the opening.
    """
    records, _ = read(folder / FILE_NAME)
    return with_opening(folder, records)


def with_opening(folder: Path, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records from a journal's beginning, with the opening in front also where it was lost."""
    if not records or records[0]["type"] != "run":
        records = [json.loads((folder / OPENING_NAME).read_text(encoding="utf-8")), *records]
    added_in_2 = {"host": socket.gethostname(), "stage": "ingest"}  # in version 1, each machine had its own records
    return [{**added_in_2, **records[0]}, *records[1:]]


def address(records: list[dict[str, Any]]) -> str:
    """Where a run is shipped to: its first address, or the last that it was sent to instead."""
    return str([record["tracking_uri"] for record in records if record["type"] in ("run", "address")][-1])


def serves_another(records: list[dict[str, Any]]) -> bool:
    """Whether the run repeats another, or lies between two: no step of a person's work."""
    return any(record["type"] == "hybrid" or (record["type"] == "replay" and "of" in record) for record in records)


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
        log.write("stage-done", stage=name)
    except KeyboardInterrupt:
        sys.stderr.write(f"{name} interrupted\n")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)  # so that the launcher sees what ended the stage
    except SystemExit as error:
        _write_failure(log, name, error, "exception")
        raise
    except Exception as error:
        _write_failure(log, name, error, "out-of-memory" if _is_out_of_memory(error) else getattr(error, "failure_kind", "exception"))
        shown = f"{name} failed: {error}\n" if hasattr(error, "failure_kind") else traceback.format_exc()
        sys.stderr.write(shown)
        sys.exit(1)


def _write_failure(log: Journal, stage: str, error: BaseException, kind: str) -> None:
    # Masked here, where the secrets of the environment are known: who ships the record may not have them.
    message = mask(f"code {error.code}" if isinstance(error, SystemExit) else str(error))
    log.write("failure", stage=stage, kind=kind, error=type(error).__name__, message=message, traceback=mask(traceback.format_exc()))


def _is_out_of_memory(error: BaseException) -> bool:
    is_named = isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
    before = error.__cause__ or error.__context__  # libraries wrap what failed
    is_nested = before is not None and _is_out_of_memory(before)
    is_untold = isinstance(error, SystemError) and _is_at_address_limit()
    return is_named or is_nested or is_untold or OUT_OF_MEMORY.search(str(error)) is not None


def _is_at_address_limit() -> bool:
    """Whether hardly any address space is left below the limit of this process.

    An extension whose allocation fails and that does not say so ends in Python's ``SystemError: error return without exception set``.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or not (statm := Path("/proc/self/statm")).exists():
        return False
    return soft - int(statm.read_text().split()[0]) * resource.getpagesize() < NO_ROOM_BYTES
