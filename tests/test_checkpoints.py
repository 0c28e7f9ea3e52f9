"""Checkpoints as files: whole or not there, two of a training, few trainings, one writer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.shared.errors import CheckpointError
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
    assert len(list(tmp_path.glob("*/"))) == NUM_TRAININGS + 1
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


def test_a_training_begins_while_others_are_forgotten(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from stages.shared.training.checkpoints import Checkpoints
for number in range(100):
    inputs = {{"name": sys.argv[1], "number": number % {NUM_TRAININGS}}}
    assert Checkpoints(Path({str(tmp_path)!r}), inputs).folder.is_dir()
"""
    processes = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_a_checkpoint_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    """And of those before the newest stays, so that the next has more room."""
    store = saved(tmp_path, 3, 4)
    program = f"""
import resource
from pathlib import Path
import numpy as np
from stages.shared.training.checkpoints import Checkpoints
store = Checkpoints(Path({str(tmp_path)!r}), {INPUTS!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.save(5, {{"model/0000": np.zeros(100_000)}}, {{}})
except OSError:
    pass
"""
    folder = store.folder
    del store
    subprocess.run([sys.executable, "-c", program], check=True)
    assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == ["000000000004", "lock"]


@pytest.mark.parametrize("put_there", ["a file", "a folder in place of a lock"])
def test_a_folder_that_cannot_be_used(tmp_path: Path, put_there: str) -> None:
    place = tmp_path / "checkpoints"
    if put_there == "a file":
        place.touch()
    else:
        (place / "lock").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=rf"checkpoints cannot be kept in {place}: .*type: dvc repro"):
        Checkpoints(place, INPUTS)


def test_folders_among_checkpoints_are_passed_over(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3).folder
    for name in (".ipynb_checkpoints", "000000000099-x.npz"):
        (folder / name).mkdir()
    assert newest(Checkpoints(tmp_path, INPUTS)) == 3


def test_nothing_in_a_checkpoint_is_code(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, INPUTS)
    with pytest.raises(ValueError, match="Object arrays"):
        store.save(1, {"model/0000": np.array([{"an": "object"}], dtype=object)}, {})
    assert newest(store) is None
    assert not list(store.folder.glob(".*"))
