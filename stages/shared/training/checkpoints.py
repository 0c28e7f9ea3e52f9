"""Checkpoints as files: whole or not there, checked when read, the last two of each training, and only of some trainings.

A training is known by its inputs: all that decides its bits. Its folder holds files ``<number>-<SHA-256>.npz``: arrays, and under the
name ``state`` the JSON of all the rest. Nothing of it is code (no pickle), so a file from elsewhere can do no harm.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stages.shared.errors import CheckpointError

NUM_KEPT = 2
NUM_TRAININGS = 4
STATE = "state"


class Checkpoints:
    """The checkpoints of the training with some inputs, which this process alone may write while it lives.

    Raises:
        CheckpointError: if ``folder`` cannot be written to.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        self.folder = folder / hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        try:
            self._open(folder)
        except OSError as error:
            raise CheckpointError(
                f"checkpoints cannot be kept in {folder}: {error}. "
                "Expected a folder that you may write to: move away what is there, or mend its rights, then type: dvc repro"
            ) from error

    def _open(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("ab") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # none may be forgotten while another begins
            self.folder.mkdir(exist_ok=True)
            self._lock = (self.folder / "lock").open("ab")
            self.is_ours = _take(self._lock)  # not where the same training runs elsewhere at this moment
            os.utime(self.folder)
            _forget_others(self.folder)
        if self.is_ours:
            for cut_off in self.folder.glob(".*[0-9]"):
                cut_off.unlink()

    def save(self, number: int, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
        """Write the checkpoint after ``number`` steps of the training, and remove all but the last two."""
        buffer = io.BytesIO()
        text = json.dumps(state).encode()
        np.savez(buffer, allow_pickle=False, **{STATE: np.frombuffer(text, np.uint8)}, **arrays)
        content = buffer.getbuffer()
        beside = self.folder / f".{number}"
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            for given_up in (beside, *self._files()[1:]):  # makes room on a full disk, for the next one too
                given_up.unlink(missing_ok=True)
            raise
        beside.rename(self.folder / f"{number:012d}-{hashlib.sha256(content).hexdigest()}.npz")
        for old in self._files()[NUM_KEPT:]:
            old.unlink()

    def load(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """Arrays and state of the newest whole checkpoint; damaged ones are passed over."""
        for path in self._files():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == path.stem.partition("-")[2]:
                with np.load(io.BytesIO(content), allow_pickle=False) as file:
                    arrays = {name: file[name] for name in file.files}
                return arrays, json.loads(arrays.pop(STATE).tobytes())
            sys.stderr.write(f"This checkpoint is damaged, and passed over: {path}\n")
        return None

    def remove(self) -> None:
        """Forget the training, as when it is done or is to begin anew."""
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        """The newest first; none where another process has the training in hand."""
        return sorted(filter(Path.is_file, self.folder.glob("*.npz")), reverse=True) if self.is_ours else []


def _take(lock: IO[bytes]) -> bool:
    """Whether this process holds the lock from now on."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _forget_others(ours: Path) -> None:
    """Remove the oldest trainings that nobody runs: the parameters of a failed attempt seldom come back."""
    others = sorted((path for path in ours.parent.glob("*/") if path != ours), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for other in others[NUM_TRAININGS - 1 :]:
        with (other / "lock").open("ab") as lock:
            if _take(lock):
                shutil.rmtree(other, ignore_errors=True)
