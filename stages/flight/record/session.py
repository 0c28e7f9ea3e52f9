"""Which run a stage belongs to: one run for one ``dvc`` process, found by walking up from the launcher."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from stages.flight.record.journal import RECORDS_FOLDER

# Where the system tells when a process began by the clock, which may be corrected meanwhile.
SAME_PROCESS_TOLERANCE_S = 5.0
# What a stage has lost when nobody waits for it any more, and the kind of failure.
DVC_ENDED = ("dvc ended while the stage was running", "terminated")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Identity:
    """A process: its number alone is used again by others.

    ``create_time`` is in seconds since the machine was booted, and ``boot`` says which time that was; where the system does
    not tell them, since 1970, and empty.
    """

    pid: int
    create_time: float
    boot: str = ""

    def process(self) -> psutil.Process | None:
        """The live process, or None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            return process if identity(process).is_same(self) and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def is_same(self, other: Identity) -> bool:
        """Whether both are one process."""
        tolerance_s = 0.0 if self.boot else SAME_PROCESS_TOLERANCE_S
        return (self.pid, self.boot) == (other.pid, other.boot) and abs(self.create_time - other.create_time) <= tolerance_s

    def as_record(self) -> dict[str, Any]:
        """Plain values for the journal."""
        return asdict(self)


def is_forced(command: list[str]) -> bool:
    """Whether a ``dvc`` command asks for all to be done again (``-f``, ``--force``, or the letter among others)."""
    return any(word == "--force" or re.fullmatch(r"-[a-zA-Z]*f[a-zA-Z]*", word) for word in command)


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
    """The identity of a process that has not been waited for."""
    try:
        # proc(5): the 22nd field of stat, in clock ticks since boot; the second, in brackets, may hold blanks.
        fields = Path(f"/proc/{process.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return Identity(process.pid, int(fields[19]) / os.sysconf("SC_CLK_TCK"), BOOT_ID.read_text().strip())
    except (OSError, IndexError):
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
    if known is not None and known[0].is_same(identity(anchor)) and (runs / known[1]).is_dir():
        return Session(runs / known[1], identity(anchor), anchor.cmdline(), is_new=False)
    # In universal time, so that a later run has a later name wherever the clock is set to.
    run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    return Session(runs / run_id, identity(anchor), anchor.cmdline(), is_new=True)


def remember(run: Session) -> None:
    """Let the launchers of the same ``dvc`` that come later find the run."""
    pointer = _pointer(run.anchor.pid)
    pointer.parent.mkdir(exist_ok=True)
    beside = pointer.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps({"anchor": run.anchor.as_record(), "run": run.folder.name}))
    beside.replace(pointer)


def _pointer(pid: int) -> Path:
    key = f"{pid}\0{os.environ.get('DVC_EXP_NAME', '')}\0{os.environ.get('FLIGHT_RUN_ID', '')}"
    return records_root() / RECORDS_FOLDER / "sessions" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _read_pointer(pointer: Path) -> tuple[Identity, str] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(pointer.read_text())
        return Identity(**known["anchor"]), str(known["run"])
    return None


def _is_dvc(process: psutil.Process) -> bool:
    """``dvc …``, ``python …/bin/dvc …`` or ``python -m dvc …``, whatever options Python has."""
    try:
        words = [Path(word).name for word in process.cmdline()]
    except psutil.Error:
        return False
    if not words or not words[0].lower().startswith("python"):
        return words[:1] == ["dvc"]
    number = next((number for number, word in enumerate(words[1:], 1) if word == "-m" or not word.startswith("-")), 0)
    return words[number] == "dvc" or words[number : number + 2] == ["-m", "dvc"]
