"""data/manifest.parquet, data/raw → data/prepared: each good image decoded and resized once, into arrays that training streams."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stages.flight.record import journal
from stages.shared import files, paths, prepared
from stages.shared.manifest import read_manifest, usable_rows
from stages.shared.params import load
from stages.shared.paths import SPLITS


@dataclass(frozen=True)
class Plan:
    """Which images go into which split, in the manifest's order; class numbers follow ``classes``."""

    classes: tuple[str, ...]
    image_size_px: int
    splits: dict[str, pd.DataFrame]


def prepare(manifest: pd.DataFrame, image_size_px: int) -> Plan:
    """Choose the usable images of each split; classes are numbered by name."""
    classes = tuple(sorted(manifest.loc[manifest["status"] == "ok", "label"].unique()))
    return Plan(classes, image_size_px, {split: usable_rows(manifest, split) for split in SPLITS})


def write(plan: Plan, raw: Path, folder: Path) -> None:
    """Arrays, labels and paths a split, and one description of them all."""
    shutil.rmtree(folder, ignore_errors=True)
    for split, rows in plan.splits.items():
        prepared.write(rows, plan.classes, raw, plan.image_size_px, folder / split)
    files.write_json(folder / "prepared.json", {"classes": list(plan.classes), "image_size_px": plan.image_size_px})


def main(log: journal.Journal) -> None:
    plan = prepare(read_manifest(paths.MANIFEST), load(paths.PARAMS).prepare.image_size_px)
    write(plan, paths.RAW, paths.PREPARED)
    log.metrics("prepare", {f"num_{split}": len(rows) for split, rows in plan.splits.items()})


if __name__ == "__main__":
    journal.run_stage("prepare", main)
