"""What a stage that DVC skipped would have recorded, read from what it left."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from stages.flight.record.journal import Journal
from stages.shared import files, paths

CURVES = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")


def from_manifest(stage: str, manifest: Path, log: Journal) -> None:
    """The counts of ``ingest`` and ``prepare``, which leave no report."""
    table = pd.read_parquet(manifest, columns=["label", "split"])
    if stage == "ingest":
        log.metrics(stage, {"num_files": len(table), "num_classes": int(table["label"].nunique())})
    elif stage == "prepare":
        log.metrics(stage, {f"num_{split}": int((table["split"] == split).sum()) for split in paths.SPLITS})


def from_report(stage: str, report: Path, log: Journal) -> None:
    """The figures and curves of the stages that have a report."""
    if stage == "validate":
        summary = files.read_json(report / "summary.json")
        log.metrics(stage, {name: summary[name] for name in ("num_images", "num_ok", "num_quarantined")})
    elif stage == "augment":
        summary = files.read_json(report / "summary.json")
        log.metrics(stage, {**summary["strength"], **{f"probe_{name}": value for name, value in (summary["probe"] or {}).items()}})
    elif stage == "train":
        with (report / "history.csv").open(encoding="utf-8", newline="") as file:
            for step, row in enumerate(csv.DictReader(file)):
                log.metrics(stage, {name: float(row[name]) for name in CURVES}, step)
        chosen = files.read_json(report / "metrics.json")
        log.metrics(stage, {f"best_{name}": chosen[name] for name in CURVES if name in chosen})
    elif stage == "evaluate":
        log.metrics(stage, files.read_json(report / "metrics.json"))
        with (report / "per_class.csv").open(encoding="utf-8", newline="") as file:
            log.metrics(stage, {f"recall/{row['label']}": float(row["recall"]) for row in csv.DictReader(file)})
        with (report / "exported.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):  # latency is in no report: it differs from run to run
                log.metrics(stage, {f"export/{row['format']}/{name}": float(row[name]) for name in ("accuracy", "bytes")})
