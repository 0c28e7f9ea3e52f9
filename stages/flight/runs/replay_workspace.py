"""Where a replay works: a clone of the captured code in a temporary folder, the frozen images of the run, and a DVC cache of its own.

A clone that borrows the objects of the user's repository in place of a ``git worktree``: of a worktree git keeps a list in the user's
repository, which a replay that is killed would leave behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.flight.record.capture import REF_PREFIX
from stages.flight.record.secrets import mask
from stages.flight.runs.differences import COMMIT
from stages.flight.runs.git import CommandError, content, git
from stages.flight.runs.run import Run
from stages.flight.runs.share import FROZEN

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
SHOWN_MISSING = 3
CLONE, CACHE = "clone", "cache"


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
        ReplayError: if code, record, images or packages are missing, before anything is run.
    """
    commit = find_code(run, root)
    if not run.made.get("ingest", {}).keys() >= set(FROZEN):
        raise ReplayError(f"run {run.id} ended before its images were frozen, so there is nothing to run it on. Type: flight why {run.id}")
    folder = checkout(clone_of(root, base), commit, root, base)
    for name in ("params.yaml", "dvc.lock"):
        shutil.copyfile(run.folder / name, folder / name)
    damaged = take_frozen(run, root, folder, base, tell)
    python = _environment(base, packages, tell) if packages is not None else Path(sys.executable)
    return Workspace(base, folder, python, damaged)


def clone_of(root: Path, base: Path) -> Path:
    """A clone without files, which borrows the objects of the repository of ``root``."""
    git(root, "clone", "--quiet", "--shared", "--no-checkout", git(root, "rev-parse", "--show-toplevel"), str(base / CLONE))
    return base / CLONE


def checkout(clone: Path, commit: str, root: Path, base: Path) -> Path:
    """The files of a commit, whatever lay there; the folder in it that ``root`` is, with a DVC cache of its own."""
    git(clone, "-c", "advice.detachedHead=false", "checkout", "--quiet", "--force", "--detach", commit)
    folder = clone / git(root, "rev-parse", "--show-prefix")
    (folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {base / CACHE}\n", encoding="utf-8")
    return folder


def find_code(run: Run, root: Path) -> str:
    """The commit of the run's code, which git must still have."""
    if run.commit is None or not COMMIT.fullmatch(run.commit):
        raise ReplayError(f"the code of run {run.id} was not captured, so it cannot be run again. Type: flight why {run.id}")
    if not git(root, "rev-parse", "--verify", "--quiet", f"{run.commit}^{{commit}}", or_else=""):
        ref = REF_PREFIX + run.id
        raise ReplayError(
            f"git no longer has the code of run {run.id}: commit {run.commit}, which {ref} kept. Who has it types: flight share {run.id}; "
            f"then here: git fetch origin {ref}:{ref}"
        )
    return run.commit


def take_frozen(run: Run, root: Path, folder: Path, base: Path, tell: Callable[[str], None]) -> dict[str, tuple[str, str]]:
    """Copy the frozen images and weights from the user's cache, or fetch them; returns those that are not as recorded."""
    from dvc.repo import Repo

    own = base / CACHE / "files/md5"
    with Repo(str(root)) as repo:
        caches = [Path(repo.cache.local.path), own]
    wanted = run.made["ingest"]
    if _missing(wanted, caches):
        tell("fetching images that the cache lacks from the DVC remote")
        said = _fetch(folder, own, _remotes(run, root, base))
        if lacking := _missing(wanted, caches):
            names = ", ".join(lacking[:SHOWN_MISSING]) + (
                f" and {len(lacking) - SHOWN_MISSING} more" if len(lacking) > SHOWN_MISSING else ""
            )
            raise ReplayError(
                f"images of run {run.id} are neither in DVC's cache ({caches[0]}) nor in its remote ({said}): {names}. "
                f"Who has them types: flight share {run.id}; or here, with the remote that has them: dvc remote add --default …"
            )
    damaged: dict[str, tuple[str, str]] = {}
    for path in FROZEN:
        (folder / path).mkdir(parents=True, exist_ok=True)
        for item in _listing(wanted[path], caches) or ():
            target = folder / path / item["relpath"]
            if not target.resolve().is_relative_to((folder / path).resolve()):
                raise ReplayError(
                    f"the listing of {path} names a file outside of it: {item['relpath']!r}. It is not of this pipeline's making."
                )
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
                return [item for item in json.loads(kept) if MD5.fullmatch(item["md5"])]
    return None


def _missing(wanted: Mapping[str, str], caches: Sequence[Path]) -> list[str]:
    lacking = []
    for path in FROZEN:
        if not MD5.fullmatch(wanted[path]):
            raise ReplayError(f"dvc.lock names {wanted[path]!r} for {path}. Expected an MD5 of DVC's. Type: dvc status")
        items = _listing(wanted[path], caches)
        lacking += [path] if items is None else [f"{path}/{one['relpath']}" for one in items if not _object(one["md5"], caches).is_file()]
    return lacking


def _remotes(run: Run, root: Path, base: Path) -> dict[str, Any]:
    """DVC's remotes here; those of who has shared the run, if there is no default one."""
    from dvc.config import Config
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        config = repo.config
    shared = content(root, REF_PREFIX + run.id, ".dvc/config")
    if not config["core"].get("remote") and shared is not None:
        (base / "shared").mkdir()
        (base / "shared/config").write_bytes(shared)
        config = Config(dvc_dir=str(base / "shared"))
    return {
        "remote": {name: dict(remote) for name, remote in config["remote"].items()},
        "core": {"remote": config["core"].get("remote")},
    }


def _fetch(folder: Path, own: Path, remotes: dict[str, Any]) -> str:
    """Fetch into the replay's own cache; returns what DVC said if it could not."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not remotes["core"]["remote"]:
        return "there is no default remote"
    try:
        with Repo(str(folder), config={**remotes, "cache": {"dir": str(own.parents[1])}}) as repo:
            repo.fetch(targets=[str(folder / path) for path in FROZEN])  # else it looks for them in the present folder
    except (DvcException, ImportError, OSError) as error:
        return mask(str(error))
    return f"'{remotes['core']['remote']}'"


def _environment(base: Path, packages: Mapping[str, str], tell: Callable[[str], None]) -> Path:
    """An environment with the recorded versions; its Python."""
    python = packages.get("python", "")
    present = ".".join(map(str, sys.version_info[:3]))
    if python.split(".")[:2] != present.split(".")[:2]:
        raise ReplayError(
            f"the run had Python {python}, and this is {present}. Type it with that Python: python{python.rpartition('.')[0]} -m venv …"
        )
    wanted = [f"{name}=={version}" for name, version in packages.items() if name not in ("python", "flight-recorder")]
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
