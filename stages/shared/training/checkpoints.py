"""Checkpoints as files: whole or not there, checked when read, the last two of each training, and only of some trainings.

A training is known by its inputs: all that decides its bits. Its folder holds files ``<number>-<SHA-256>.npz``: arrays, and under the
name ``state`` the JSON of all the rest. Nothing of it is code (no pickle), so a file from elsewhere can do no harm.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_KEPT = 2
NUM_TRAININGS = 4
STATE = "state"


class Checkpoints:
    """The checkpoints of the training with some inputs, which this process alone may write while it lives."""

    def __init__(self, folder: Path, inputs: Mapping[str, Any]) -> None:
        self.folder = folder / hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_ours = True
        except OSError:
            self.is_ours = False  # the same training runs elsewhere at this moment
        os.utime(self.folder)
        if self.is_ours:
            for cut_off in self.folder.glob(".*"):
                cut_off.unlink()
        _forget_others(folder, self.folder)

    def save(self, number: int, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> None:
        """Write the checkpoint after ``number`` steps of the training, and remove all but the last two."""
        buffer = io.BytesIO()
        text = json.dumps(state).encode()
        np.savez(buffer, allow_pickle=False, **{STATE: np.frombuffer(text, np.uint8)}, **arrays)
        content = buffer.getbuffer()
        beside = self.folder / f".{number}"
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
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
        return None

    def remove(self) -> None:
        """Forget the training, as when it is done or is to begin anew."""
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        """The newest first; none where another process has the training in hand."""
        return sorted(self.folder.glob("*.npz"), reverse=True) if self.is_ours else []


def _forget_others(folder: Path, ours: Path) -> None:
    """Remove the oldest trainings that nobody runs: the parameters of a failed attempt seldom come back."""
    others = sorted((path for path in folder.glob("*/") if path != ours), key=_modified, reverse=True)
    for other in others[NUM_TRAININGS - 1 :]:
        with contextlib.suppress(OSError), (other / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other, ignore_errors=True)


def _modified(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:  # another training has just forgotten it
        return 0
