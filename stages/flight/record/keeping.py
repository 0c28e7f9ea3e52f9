"""Copies of what stages leave, in the run's folder, which the next run does not touch."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.flight.record import kept_manifests, lock, previews
from stages.flight.record.names import STAGES
from stages.shared import paths

REPORTS, MODEL, PREVIEWS = "reports", "model", "previews"
MODEL_OUT = str(paths.MODEL)
TRAIN_STAGE = "train"


def keep_reports(workspace: Path, folder: Path, stage: str, *, has_failed: bool = False) -> None:
    """Copy what a stage left for people (and the model) into the run's folder, which the next run does not touch.

    A stage that has failed may have left half a model, which is no use to anyone. A name that is no stage's would be a path of any kind.
    """
    if stage not in STAGES:
        return
    copies = [(f"{REPORTS}/{stage}", folder / REPORTS / stage)]
    if stage == TRAIN_STAGE and not has_failed:
        copies.append((MODEL_OUT, folder / MODEL))
    _copy([(workspace / source, target) for source, target in copies if (workspace / source).is_dir()])
    # What is wrong with the files of a stage that failed costs its pictures alone.
    with contextlib.suppress(OSError, ValueError, LookupError):
        if stage == TRAIN_STAGE and (folder / MODEL).is_dir():
            first_shard = workspace / "data/prepared/test/images-00000.npy"
            np.save(folder / MODEL / "input_example.npy", np.load(first_shard, mmap_mode="r")[:1])
        if stage == "validate":
            _keep_manifest(workspace, folder)
        previews.write(stage, workspace, folder / PREVIEWS)


def _copy(copies: Sequence[tuple[Path, Path]]) -> None:
    """Folders in place of what was kept before; all or nothing, since DVC may take them away at this moment."""
    made = {target.with_name(f".{target.name}"): target for _, target in copies}
    for beside in made:
        shutil.rmtree(beside, ignore_errors=True)
    with contextlib.suppress(OSError, shutil.Error):
        for beside, (source, _) in zip(made, copies, strict=True):
            shutil.copytree(source, beside)
        for beside, target in made.items():
            shutil.rmtree(target, ignore_errors=True)
            beside.rename(target)
    for beside in made:
        shutil.rmtree(beside, ignore_errors=True)


def _keep_manifest(workspace: Path, folder: Path) -> None:
    """Copy the manifest to where runs with the same one share it; named by DVC's hash."""
    kept = kept_manifests.path_of(folder, lock.md5(workspace / paths.MANIFEST))
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        beside = kept.with_name(f".{kept.name}.{folder.name}")
        shutil.copyfile(workspace / paths.MANIFEST, beside)
        beside.rename(kept)


def keep_cached(workspace: Path, folder: Path, params: dict[str, Any], kept: set[str]) -> None:
    """Keep the reports of stages that DVC has skipped so far, as far as they are those of the present code and parameters."""
    locked = lock.read_stages(folder / "dvc.lock")
    for stage in lock.up_to_date(locked, params, workspace):
        if stage not in kept and not (folder / REPORTS / stage).is_dir() and outs_are_as_locked(locked[stage], workspace):
            keep_reports(workspace, folder, stage)


def is_of_run(stage: str, workspace: Path, params: dict[str, Any]) -> bool:
    """Whether what lies in the workspace is what a stage makes with these parameters."""
    locked = lock.read_stages(workspace / "dvc.lock")
    return stage in lock.up_to_date(locked, params, None) and outs_are_as_locked(locked[stage], workspace)


def outs_are_as_locked(entry: dict[str, Any], workspace: Path) -> bool:
    """Whether the reports and the model of a stage are those that dvc.lock names: a skipped stage leaves stale ones."""
    reports = [out for out in entry.get("outs", []) if out["path"].startswith((f"{REPORTS}/", MODEL_OUT))]
    return all((workspace / out["path"]).exists() and lock.md5(workspace / out["path"]) == out["md5"] for out in reports)
