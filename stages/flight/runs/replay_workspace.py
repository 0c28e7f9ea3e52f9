"""Where a replay works: a clone of the captured code in a temporary folder, the frozen images of the run, and a DVC cache of its own.

A clone that borrows the objects of the user's repository in place of a ``git worktree``: of a worktree git keeps a list in the user's
repository, which a replay that is killed would leave behind.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.flight.record import journal
from stages.flight.record.capture import REF_PREFIX
from stages.flight.record.git import git
from stages.flight.record.secrets import mask
from stages.flight.runs import frozen_images
from stages.flight.runs.differences import COMMIT, FROZEN
from stages.flight.runs.frozen_images import ReplayError
from stages.flight.runs.run import Run

CLONE, CACHE = "clone", "cache"
RECORDED = ("params.yaml", "dvc.lock")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9._-]*==[a-z0-9][a-z0-9.+!_-]*", re.IGNORECASE)


@dataclass(frozen=True)
class Workspace:
    """``base`` holds all of it and is removed in the end; in ``folder`` DVC runs, with ``python``.

    ``damaged`` are files whose content is no longer what was recorded, by path: its MD5 then, and now.
    """

    base: Path
    folder: Path
    python: Path
    damaged: Mapping[str, tuple[str, str]]


def make(run: Run, root: Path, base: Path, tell: Callable[[str], None], *, packages: Mapping[str, str] | None) -> Workspace:
    """Make it in ``base``, with an environment of its own if ``packages`` (name → version) are given.

    Raises:
        ReplayError: if code, record, images or packages are missing, or the record has no place to go, before anything is run.
    """
    check(run, root)
    folder = checkout(clone_of(root, base), find_code(run, root), root, base)
    for name in RECORDED:
        put(run.folder / name, folder / name)
    damaged = frozen_images.take(run, root, folder, base / CACHE, tell)
    python = _environment(base, packages, tell) if packages is not None else Path(sys.executable)
    return Workspace(base, folder, python, damaged)


def check(run: Run, root: Path) -> None:
    """What can be seen to be missing, or wrong, without any work."""
    if run.folder.parent != root / journal.RECORDS_FOLDER / "runs":
        raise ReplayError(f"run {run.id} is of another machine, and its code is not here. Who has recorded it types: flight share {run.id}")
    if not (root / ".dvc").is_dir():
        raise ReplayError(f"{root} is no repository of DVC's. Type it in the clone: cd …; dvc status")
    if not frozen_images.of_run(run).keys() >= set(FROZEN):
        raise ReplayError(f"run {run.id} ended before its images were frozen, so there is nothing to run it on. Type: flight why {run.id}")
    if missing := [name for name in RECORDED if not (run.folder / name).is_file()]:
        raise ReplayError(f"the record of run {run.id} has no {' and no '.join(missing)}. Type: flight why {run.id}")
    try:
        with tempfile.TemporaryDirectory(dir=root / journal.RECORDS_FOLDER, prefix="."):
            pass
    except OSError as error:
        raise ReplayError(
            f"the record of a replay cannot be written: {error}. Expected a folder with room that you may write to"
        ) from error


def put(source: Path, target: Path) -> None:
    """Copy a file, and never through a link that the code has in its place."""
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)


def clone_of(root: Path, base: Path) -> Path:
    """A repository without files, which borrows the objects of that of ``root``; ``git clone`` would not, if that one is shallow."""
    clone = base / CLONE
    clone.mkdir(parents=True)
    git(clone, "init", "--quiet")
    (clone / ".git/objects/info/alternates").write_text(f"{_of_git(root, 'objects')}\n", encoding="utf-8")
    if _of_git(root, "shallow").is_file():
        shutil.copyfile(_of_git(root, "shallow"), clone / ".git/shallow")
    return clone


def _of_git(root: Path, name: str) -> Path:
    return (root / git(root, "rev-parse", "--git-path", name)).resolve()


def checkout(clone: Path, commit: str, root: Path, base: Path) -> Path:
    """The files of a commit, whatever lay there; the folder in it that ``root`` is, with a DVC cache of its own."""
    git(clone, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--force", "--detach", commit)
    folder = clone / git(root, "rev-parse", "--show-prefix")
    if (folder / journal.RECORDS_FOLDER).is_symlink():  # the records there are the user's
        (folder / journal.RECORDS_FOLDER).unlink()
    if not (folder / "dvc.yaml").is_file() or any((folder / name).is_symlink() for name in (".dvc", "data", "reports")):
        raise ReplayError(
            f"commit {commit} has no pipeline that can be run elsewhere: expected dvc.yaml, and .dvc, data and reports as folders"
        )
    config = folder / ".dvc/config.local"
    config.parent.mkdir(exist_ok=True)
    config.unlink(missing_ok=True)
    # Relative, since the file's format has signs of its own, which a path may hold.
    config.write_text(f"[cache]\n    dir = {os.path.relpath(base / CACHE, config.parent)}\n", encoding="utf-8")
    return folder


def find_code(run: Run, root: Path) -> str:
    """The commit of the run's code, which git must still have."""
    if run.commit is None or not COMMIT.fullmatch(run.commit):
        raise ReplayError(f"the code of run {run.id} was not captured, so it cannot be run again. Type: flight why {run.id}")
    if not git(root, "rev-parse", "--verify", "--quiet", f"{run.commit}^{{commit}}", or_else=""):
        ref = REF_PREFIX + run.id
        raise ReplayError(
            f"git no longer has the code of run {run.id}: commit {run.commit}, which {ref} kept. Who has it types: flight share {run.id}; "
            f"then here: git fetch origin +{ref}:{ref}"
        )
    return run.commit


def _environment(base: Path, packages: Mapping[str, str], tell: Callable[[str], None]) -> Path:
    """An environment with the recorded versions; its Python."""
    python = packages.get("python", "")
    present = ".".join(map(str, sys.version_info[:3]))
    if python.split(".")[:2] != present.split(".")[:2]:
        raise ReplayError(
            f"the run had Python {python}, and this is {present}. Type it with that Python: python{python.rpartition('.')[0]} -m venv …"
        )
    named = {name: version for name, version in packages.items() if name != "python"}
    if wrong := [name for name, version in named.items() if not PACKAGE.fullmatch(f"{name}=={version}")]:
        raise ReplayError(f"the record names a package {wrong[0]!r} of version {named[wrong[0]]!r}. Expected such as numpy and 2.4.1")
    wanted = [f"{name}=={version}" for name, version in named.items()]
    tell(f"installing {len(wanted)} packages as recorded (some minutes)")
    (base / "requirements.txt").write_text("\n".join(wanted), encoding="utf-8")
    venv.create(base / "environment", with_pip=True)
    made = base / "environment/bin/python"
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--requirement")
    command = [str(made), "-m", "pip", "install", *options, str(base / "requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = mask(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}")
        raise ReplayError(f"the recorded packages cannot be installed: {said}. Without --environment the present ones are used")
    return made
