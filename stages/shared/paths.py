"""One constant per arrow of the pipeline, in the order in which the data flows."""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")
SPLITS = ("train", "val", "test")  # folders of a source that is split already, and of data/prepared

RAW = Path("data/raw")
BACKBONE = Path("data/backbone")

MANIFEST = Path("data/manifest.parquet")
VALIDATE_REPORT = Path("reports/validate")

PREPARED = Path("data/prepared")

AUGMENTED = Path("data/augmented")
AUGMENT_REPORT = Path("reports/augment")

MODEL = Path("data/model")
TRAIN_REPORT = Path("reports/train")

EXPORTED = Path("data/exported")
EVALUATE_REPORT = Path("reports/evaluate")

DIAGNOSE_REPORT = Path("reports/diagnose")
