"""What ``dvc.lock`` says of each stage, and whether a file on disk is really the one that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

CHUNK_BYTES = 1 << 20


def read_stages(path: Path) -> dict[str, dict[str, Any]]:
    """The stages of a dvc.lock in its order; none if the file is absent or half-written."""
    try:
        stages = dict((YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}).get("stages") or {})
        whole = all(
            isinstance(item[name], str)
            for name in ("path", "md5")
            for entry in stages.values()
            for item in (*entry.get("deps", []), *entry.get("outs", []))
        )
    except (OSError, YAMLError, LookupError, TypeError, AttributeError, ValueError):
        return {}
    return stages if whole else {}


def outs(stages: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """DVC's hashes of the outs, by stage and path."""
    return {name: {out["path"]: out["md5"] for out in entry.get("outs", [])} for name, entry in stages.items()}


def inputs(stages: dict[str, dict[str, Any]]) -> dict[str, str]:
    """DVC's hashes of what decides a model and no stage makes, by path: the code, but for pages, and what ``ingest`` froze."""
    made = tuple(out["path"] for entry in stages.values() for out in entry.get("outs", []))
    given = {dep["path"]: dep["md5"] for name, entry in stages.items() if name != "diagnose" for dep in entry.get("deps", [])}
    is_made = {path: any(path == out or path.startswith(f"{out}/") for out in made) for path in given}
    return {path: md5 for path, md5 in given.items() if not is_made[path] and not path.endswith(".html")} | outs(stages).get("ingest", {})


def up_to_date(
    stages: dict[str, dict[str, Any]], params: dict[str, Any], workspace: Path | None, among: Collection[str] | None = None
) -> list[str]:
    """The stages whose entry fits the parameters, the code in ``workspace`` (None: is not looked at), and the outs of the
    stages before them, in their order; ``among`` those that were asked for, where what others have left is taken as it is."""
    made = {out["path"]: out["md5"] for entry in stages.values() for out in entry.get("outs", [])}
    names = []
    broken: set[str] = set()
    for name, entry in stages.items():
        if among is not None and name not in among:
            continue
        deps = entry.get("deps", [])
        fits = not broken.intersection(dep["path"] for dep in deps) and all(
            made[dep["path"]] == dep["md5"] if dep["path"] in made else workspace is None or _is_unchanged(workspace / dep["path"], dep)
            for dep in deps
        )
        if fits and _params_fit(entry.get("params", {}), params):
            names.append(name)
        else:
            broken.update(out["path"] for out in entry.get("outs", []))
    return names


def _params_fit(locked: dict[str, dict[str, Any]], params: dict[str, Any]) -> bool:
    return all(_lookup(params, key) == value for values in locked.values() for key, value in values.items())


def _lookup(params: Any, key: str) -> Any:
    for part in key.split("."):
        params = params.get(part) if isinstance(params, dict) else None
    return params


def _is_unchanged(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a file or folder that no stage makes is as locked."""
    return path.exists() and md5(path) == entry["md5"]


def md5(path: Path) -> str:
    """DVC's hash: of a file its MD5, of a folder the MD5 of the JSON list of its files' hashes, with the suffix ``.dir``."""
    if not path.is_dir():
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()
    found = sorted((item.relative_to(path).as_posix(), item) for item in path.rglob("*") if item.is_file())
    listing = [{"md5": md5(item), "relpath": name} for name, item in found]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
