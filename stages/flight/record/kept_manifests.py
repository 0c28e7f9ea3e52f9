"""Copies of manifests, which runs with the same images share; named by DVC's hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stages.shared import paths


def find(folder: Path, made: Mapping[str, Mapping[str, str]]) -> Path | None:
    """The copy of the manifest among the outs that the run in ``folder`` made, if there is one."""
    md5 = made.get("validate", {}).get(str(paths.MANIFEST))
    path = path_of(folder, md5) if md5 else None
    return path if path is not None and path.is_file() else None


def path_of(folder: Path, md5: str) -> Path:
    return folder.parent.parent / "manifests" / f"{Path(md5).name}.parquet"
