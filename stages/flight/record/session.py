"""Which run a stage belongs to: one run for one ``dvc`` process, found by walking up from the launcher."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RECORDS_FOLDER = ".flight"
# Clock corrections move the creation time that the system reports for the same process.
SAME_PROCESS_TOLERANCE_S = 5.0


@dataclass(frozen=True)
class Identity:
    """A process: its number alone is used again by others."""

    pid: int
    create_time: float

    def process(self) -> psutil.Process | None:
        """The live process, or None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < SAME_PROCESS_TOLERANCE_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def as_record(self) -> dict[str, Any]:
        """Plain values for the journal."""
        return {"pid": self.pid, "create_time": self.create_time}


class DvcEndedError(Exception):
    """Nobody waits for the stage any more."""


@dataclass(frozen=True)
class Session:
    """The run's folder, and whether it is still to be made."""

    folder: Path
    anchor: Identity
    command: list[str]
    is_new: bool


def identity(process: psutil.Process) -> Identity:
    """The identity of a live process."""
    return Identity(process.pid, process.create_time())


def records_root() -> Path:
    """The repository whose ``.flight`` holds the records; of a temporary experiment folder it is the parent repository."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def join() -> Session:
    """The run of the nearest ``dvc`` above this process, or a new one; without ``dvc``, a run of this process alone.

    Raises:
        DvcEndedError: if ``dvc`` has started this process and is gone.
    """
    anchor = next((parent for parent in psutil.Process().parents() if _is_dvc(parent)), None)
    if anchor is None and "DVC_STAGE" in os.environ:
        raise DvcEndedError("dvc has ended, so the stage is not started.")
    anchor = anchor or psutil.Process()
    runs = records_root() / RECORDS_FOLDER / "runs"
    known = _read_pointer(_pointer(anchor.pid))
    if known is not None and abs(known["create_time"] - anchor.create_time()) < SAME_PROCESS_TOLERANCE_S:
        folder = runs / known["run"]
        if folder.is_dir():
            return Session(folder, identity(anchor), anchor.cmdline(), is_new=False)
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    return Session(runs / run_id, identity(anchor), anchor.cmdline(), is_new=True)


def remember(run: Session) -> None:
    """Let the launchers of the same ``dvc`` that come later find the run."""
    pointer = _pointer(run.anchor.pid)
    pointer.parent.mkdir(exist_ok=True)
    beside = pointer.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps({"create_time": run.anchor.create_time, "run": run.folder.name}))
    beside.replace(pointer)


def _pointer(pid: int) -> Path:
    key = f"{pid}\0{os.environ.get('DVC_EXP_NAME', '')}\0{os.environ.get('FLIGHT_RUN_ID', '')}"
    return records_root() / RECORDS_FOLDER / "sessions" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _read_pointer(pointer: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = json.loads(pointer.read_text())
        return {"create_time": float(known["create_time"]), "run": str(known["run"])}
    return None


def _is_dvc(process: psutil.Process) -> bool:
    """``dvc …``, ``python …/bin/dvc …`` or ``python -m dvc …``."""
    try:
        words = [Path(word).name for word in process.cmdline()[:3]]
    except psutil.Error:
        return False
    by_python = bool(words) and words[0].lower().startswith("python")
    return words[:1] == ["dvc"] or (by_python and (words[1:2] == ["dvc"] or words[1:] == ["-m", "dvc"]))
