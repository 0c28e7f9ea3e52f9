"""Checkpoints as files: whole or not there, two of a training, few trainings, one writer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.shared.training.checkpoints import NUM_TRAININGS, Checkpoints

INPUTS = {"params": {"seed": 0}, "data": "abc"}


def saved(folder: Path, *numbers: int) -> Checkpoints:
    store = Checkpoints(folder, INPUTS)
    for number in numbers:
        store.save(number, {"model/0000": np.full(1000, number, np.float32)}, {"number": number})
    return store


def newest(store: Checkpoints) -> int | None:
    found = store.load()
    if found is None:
        return None
    arrays, state = found
    assert arrays.keys() == {"model/0000"}
    assert (arrays["model/0000"] == state["number"]).all()
    return int(state["number"])


def test_the_newest_of_two_is_loaded(tmp_path: Path) -> None:
    store = saved(tmp_path, 3, 20, 100)
    assert newest(store) == 100
    assert [path.name[:12] for path in sorted(store.folder.glob("*.npz"))] == ["000000000020", "000000000100"]


@pytest.mark.parametrize("position", [0, 40, 2000, 4200, -1])
def test_one_damaged_byte_anywhere_and_the_one_before_is_loaded(tmp_path: Path, position: int) -> None:
    store = saved(tmp_path, 3, 20)
    path = max(store.folder.glob("*.npz"))
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)
    assert newest(store) == 3


@pytest.mark.parametrize("length", [0, 1, 1000])
def test_so_it_is_with_a_cut_off_file(tmp_path: Path, length: int) -> None:
    store = saved(tmp_path, 3, 20)
    path = max(store.folder.glob("*.npz"))
    path.write_bytes(path.read_bytes()[:length])
    assert newest(store) == 3
    for path in store.folder.glob("*.npz"):
        path.write_bytes(b"")
    assert newest(store) is None


def test_what_a_kill_has_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3).folder
    (folder / ".20").write_bytes(b"half")
    store = Checkpoints(tmp_path, INPUTS)
    assert not (folder / ".20").exists()
    assert newest(store) == 3


def test_other_inputs_are_another_training(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    assert Checkpoints(tmp_path, {**INPUTS, "data": "abd"}).load() is None


def test_only_some_trainings_are_kept_and_none_that_runs(tmp_path: Path) -> None:
    running = Checkpoints(tmp_path, {"number": 0})
    folders = [running.folder]
    os.utime(running.folder, (0, 0))
    for number in range(1, NUM_TRAININGS + 3):
        folders.append(Checkpoints(tmp_path, {"number": number}).folder)
        os.utime(folders[-1], (number, number))
    Checkpoints(tmp_path, {"number": "last"})
    assert len(list(tmp_path.iterdir())) == NUM_TRAININGS + 1
    assert running.folder.is_dir()
    assert not folders[1].is_dir()


def test_a_second_process_with_the_same_training_keeps_off(tmp_path: Path) -> None:
    store = saved(tmp_path, 3)
    program = f"""
from pathlib import Path
from stages.shared.training.checkpoints import Checkpoints
store = Checkpoints(Path({str(tmp_path)!r}), {INPUTS!r})
assert not store.is_ours
assert store.load() is None
store.remove()
"""
    (store.folder / ".20").write_bytes(b"in the making")
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (store.folder / ".20").exists()
    assert newest(store) == 3
    assert store.is_ours
    del store
    assert Checkpoints(tmp_path, INPUTS).is_ours


def test_nothing_in_a_checkpoint_is_code(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, INPUTS)
    with pytest.raises(ValueError, match="Object arrays"):
        store.save(1, {"model/0000": np.array([{"an": "object"}], dtype=object)}, {})
    assert newest(store) is None
    assert not list(store.folder.glob(".*"))
