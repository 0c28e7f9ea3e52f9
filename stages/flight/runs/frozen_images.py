"""What ``ingest`` froze for a run, and no later stage makes anew: taken from DVC's cache or its remote, and checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.flight.errors import CommandError
from stages.flight.record import lock
from stages.flight.record.capture import REF_PREFIX
from stages.flight.record.git import content
from stages.flight.record.secrets import mask
from stages.flight.runs.differences import FROZEN
from stages.flight.runs.rerun import SITE
from stages.flight.runs.run import Run

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
SHOWN_MISSING = 3


class ReplayError(CommandError):
    """The run cannot be run again."""


def of_run(run: Run) -> dict[str, str]:
    """DVC's hashes of what ``ingest`` froze for a run, as its dvc.lock has them now; none if that is missing or damaged."""
    return lock.outs(lock.read_stages(run.folder / "dvc.lock")).get("ingest", {})


def take(run: Run, root: Path, folder: Path, cache: Path, tell: Callable[[str], None]) -> dict[str, tuple[str, str]]:
    """Copy the frozen images and weights from the user's cache, or fetch them; returns those that are not as recorded."""
    caches = [cache_of(root), cache / "files/md5"]
    wanted = of_run(run)
    if missing(wanted, caches):
        tell("fetching images that the cache lacks from the DVC remote")
        said = _fetch(run, root, folder, cache)
        if lacking := missing(wanted, caches):
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


def cache_of(root: Path) -> Path:
    """Where DVC keeps contents here.

    Raises:
        CommandError: if DVC cannot be asked.
    """
    from dvc.config import ConfigError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return Path(repo.cache.local.path)
    except (DvcException, ConfigError) as error:
        raise CommandError(f"DVC cannot be used in {root}: {mask(str(error))}. Type: dvc config --list") from error


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


def missing(wanted: Mapping[str, str], caches: Sequence[Path]) -> list[str]:
    """The paths whose content, or whose listing, no cache has."""
    lacking = []
    for path in FROZEN:
        if not MD5.fullmatch(str(wanted[path])):
            raise ReplayError(f"dvc.lock names {wanted[path]!r} for {path}. Expected an MD5 of DVC's. Type: dvc status")
        items = _listing(wanted[path], caches)
        lacking += [path] if items is None else [f"{path}/{one['relpath']}" for one in items if not _object(one["md5"], caches).is_file()]
    return lacking


def _fetch(run: Run, root: Path, folder: Path, cache: Path) -> str:
    """Fetch into the replay's own cache; returns from where, or what DVC said if it could not."""
    from dvc.config import ConfigError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        remotes = _remotes(run, root)
        name = remotes["core"]["remote"]
        if not name:
            return "there is no default remote"
        own = {"cache": {"dir": str(cache)}, "core": {**remotes["core"], "site_cache_dir": str(cache.parent / SITE)}}
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
