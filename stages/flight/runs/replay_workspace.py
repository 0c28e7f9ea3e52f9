"""Where a replay works: a clone of the captured code in a temporary folder, the frozen images of the run, and a DVC cache of its own.

A clone that borrows the objects of the user's repository in place of a ``git worktree``: of a worktree git keeps a list in the user's
repository, which a replay that is killed would leave behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.flight.record import journal, lock
from stages.flight.record.capture import REF_PREFIX
from stages.flight.record.secrets import mask
from stages.flight.runs.differences import COMMIT, FROZEN
from stages.flight.runs.git import CommandError, content, git
from stages.flight.runs.run import Run

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
SHOWN_MISSING = 3
CLONE, CACHE = "clone", "cache"
RECORDED = ("params.yaml", "dvc.lock")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9._-]*==[a-z0-9][a-z0-9.+!_-]*", re.IGNORECASE)


class ReplayError(CommandError):
    """The run cannot be run again."""


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
    damaged = take_frozen(run, root, folder, base, tell)
    python = _environment(base, packages, tell) if packages is not None else Path(sys.executable)
    return Workspace(base, folder, python, damaged)


def check(run: Run, root: Path) -> None:
    """What can be seen to be missing, or wrong, without any work."""
    if not (root / ".dvc").is_dir():
        raise ReplayError(f"{root} is no repository of DVC's. Type it in the clone: cd …; dvc status")
    if not frozen(run).keys() >= set(FROZEN):
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


def frozen(run: Run) -> dict[str, str]:
    """DVC's hashes of what ``ingest`` froze for a run, as its dvc.lock has them now; none if that is missing or damaged."""
    return lock.outs(lock.read_stages(run.folder / "dvc.lock")).get("ingest", {})


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
    if not (folder / "dvc.yaml").is_file() or (folder / ".dvc").is_symlink() or (folder / "data").is_symlink():
        raise ReplayError(f"commit {commit} has no pipeline that can be run elsewhere: expected dvc.yaml, and .dvc and data as folders")
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


def take_frozen(run: Run, root: Path, folder: Path, base: Path, tell: Callable[[str], None]) -> dict[str, tuple[str, str]]:
    """Copy the frozen images and weights from the user's cache, or fetch them; returns those that are not as recorded."""
    from dvc.repo import Repo

    own = base / CACHE / "files/md5"
    with Repo(str(root)) as repo:
        caches = [Path(repo.cache.local.path), own]
    wanted = frozen(run)
    if _missing(wanted, caches):
        tell("fetching images that the cache lacks from the DVC remote")
        said = _fetch(run, root, folder, base)
        if lacking := _missing(wanted, caches):
            more = f" and {len(lacking) - SHOWN_MISSING} more" if len(lacking) > SHOWN_MISSING else ""
            raise ReplayError(
                f"images of run {run.id} are neither in DVC's cache ({caches[0]}) nor in its remote ({said}): "
                f"{', '.join(lacking[:SHOWN_MISSING])}{more}. "
                f"Who has them types: flight share {run.id}; or here, with the remote that has them: dvc remote add --default …"
            )
    damaged: dict[str, tuple[str, str]] = {}
    for path in FROZEN:
        damaged |= _copy_out(path, wanted[path], folder, caches)
    return damaged


def _copy_out(path: str, md5: str, folder: Path, caches: Sequence[Path]) -> dict[str, tuple[str, str]]:
    """Make a frozen folder anew; returns the files that are not what their hash says, by path: MD5 as recorded, and as found."""
    damaged = {}
    place = folder / path
    place.unlink() if place.is_symlink() else shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for item in _listing(md5, caches) or ():
        target = place / item["relpath"]
        if not target.resolve().is_relative_to(place.resolve()):
            raise ReplayError(f"the listing of {path} names a file outside of it: {item['relpath']!r}. Type: dvc status")
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = _object(item["md5"], caches).read_bytes()
        target.write_bytes(kept)
        found = hashlib.md5(kept, usedforsecurity=False).hexdigest()
        if found != item["md5"]:
            damaged[f"{path}/{item['relpath']}"] = (item["md5"], found)
    return damaged


def _object(md5: str, caches: Sequence[Path]) -> Path:
    """Where DVC keeps a content; in the last cache, if none has it."""
    places = [cache / md5[:2] / md5[2:] for cache in caches]
    return next((place for place in places if place.is_file()), places[-1])


def _listing(md5: str, caches: Sequence[Path]) -> list[dict[str, str]] | None:
    """The files of a folder, ``md5`` and ``relpath`` of each; None if no cache has the listing, or has it whole."""
    for cache in caches:
        with contextlib.suppress(OSError, ValueError):
            kept = _object(md5, [cache]).read_bytes()
            if f"{hashlib.md5(kept, usedforsecurity=False).hexdigest()}.dir" == md5:
                return [item for item in json.loads(kept) if MD5.fullmatch(str(item["md5"]))]
    return None


def _missing(wanted: Mapping[str, str], caches: Sequence[Path]) -> list[str]:
    lacking = []
    for path in FROZEN:
        if not MD5.fullmatch(str(wanted[path])):
            raise ReplayError(f"dvc.lock names {wanted[path]!r} for {path}. Expected an MD5 of DVC's. Type: dvc status")
        items = _listing(wanted[path], caches)
        lacking += [path] if items is None else [f"{path}/{one['relpath']}" for one in items if not _object(one["md5"], caches).is_file()]
    return lacking


def _fetch(run: Run, root: Path, folder: Path, base: Path) -> str:
    """Fetch into the replay's own cache; returns from where, or what DVC said if it could not."""
    from dvc.config import ConfigError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        remotes = _remotes(run, root)
        name = remotes["core"]["remote"]
        if not name:
            return "there is no default remote"
        own = {"cache": {"dir": str(base / CACHE)}, "core": {**remotes["core"], "site_cache_dir": str(base / "site")}}
        with Repo(str(folder), config={**remotes, **own}) as repo:
            repo.fetch(targets=[str(folder / path) for path in FROZEN])  # else it looks for them in the present folder
    except (DvcException, ConfigError, ImportError, OSError) as error:
        return mask(str(error))
    return f"'{name}'"


def _remotes(run: Run, root: Path) -> dict[str, Any]:
    """DVC's remotes here; those of who has shared the run, if there is no default one."""
    from dvc.config import Config
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        config = repo.config
    shared = content(root, REF_PREFIX + run.id, ".dvc/config")
    if not config["core"].get("remote") and shared is not None:
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "config").write_bytes(shared)
            config = Config(dvc_dir=place)
    remotes = {name: dict(remote) for name, remote in config["remote"].items()}
    return {"remote": remotes, "core": {"remote": config["core"].get("remote")}}


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
