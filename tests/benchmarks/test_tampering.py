"""What is tampered with, in the cache, the environment, the code or the record, is the first difference that a replay names."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from stages.flight.record import journal
from stages.flight.runs.run import Run, from_folder
from tests import snapshot, tiny

Variables = dict[str, str]


@pytest.fixture(scope="module")
def recorded(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a run that went up to ``augment``."""
    clone = tiny.copy(trained, tmp_path_factory.mktemp("tampering") / "clone")
    tiny.set_params(clone, {"augment.zoom": 0.1})
    tiny.run(clone, "dvc", "repro", "augment")
    tiny.wait_for_recorders(clone)
    return clone


def a_pixel(clone: Path, run: Run) -> tuple[str, Variables]:
    listing = json.loads(_in_cache(clone, run.made["ingest"]["data/raw"]).read_text())
    place = _in_cache(clone, listing[100]["md5"])
    image = Image.open(io.BytesIO(place.read_bytes()))
    pixels = image.load()
    assert pixels is not None
    value = image.getpixel((3, 4))
    assert isinstance(value, int)
    pixels[3, 4] = value ^ 1
    place.chmod(0o644)
    image.save(place, "PNG")
    return f"data/raw/{listing[100]['relpath']}", {}


def a_package(_: Path, run: Run) -> tuple[str, Variables]:
    _replace(run.folder / journal.FILE_NAME, '"scipy": "', '"scipy": "0.')
    return "package scipy", {}


def a_thread_setting(_: Path, run: Run) -> tuple[str, Variables]:
    return "setting OMP_NUM_THREADS", {"OMP_NUM_THREADS": "1"}


def a_line_of_code(clone: Path, run: Run) -> tuple[str, Variables]:
    """The record names another commit, which differs by one line."""
    path = clone / "stages/shared/sampling.py"
    sound = path.read_text()
    path.write_text(f"{sound}\n# one line more\n")
    index = {"GIT_INDEX_FILE": str(clone / "own-index"), "GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x@localhost"}
    index |= {"GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x@localhost"}
    assert run.commit is not None
    _git(clone, index, "read-tree", run.commit)
    _git(clone, index, "update-index", "stages/shared/sampling.py")
    commit = _git(clone, index, "commit-tree", "-m", "tampered", _git(clone, index, "write-tree"))
    path.write_text(sound)
    (clone / "own-index").unlink()
    _replace(run.folder / journal.FILE_NAME, run.commit, commit)
    return "stages/shared/sampling.py", {}


def a_parameter(_: Path, run: Run) -> tuple[str, Variables]:
    _replace(run.folder / "params.yaml", "rotation_degrees: 3 ", "rotation_degrees: 4 ")
    return "augment.rotation_degrees", {}


@pytest.mark.slow
@pytest.mark.parametrize("tamper", [a_pixel, a_package, a_thread_setting, a_line_of_code, a_parameter])
def test_it_is_the_first_difference(recorded: Path, tmp_path: Path, tamper: Callable[[Path, Run], tuple[str, Variables]]) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(recorded, clone, symlinks=True)
    run = from_folder(next(clone.glob(".flight/runs/[!.]*/")))
    name, variables = tamper(clone, run)
    before = snapshot.take(clone)
    command = ["flight", "replay", run.id, "--json"]
    done = subprocess.run(command, cwd=clone, env=tiny.environment() | variables, capture_output=True, text=True, check=False)
    tiny.wait_for_recorders(clone)
    answer = json.loads(done.stdout)
    print(f"\n{tamper.__name__}: {answer['level']}; {answer['reason']}")  # noqa: T201
    assert answer["first_difference"]["name"] == name
    assert snapshot.take(clone) == before


def _in_cache(clone: Path, md5: str) -> Path:
    return clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _git(clone: Path, own: Variables, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=clone, env=os.environ | own, capture_output=True, text=True, check=True).stdout.strip()
