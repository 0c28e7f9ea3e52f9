"""data/manifest.parquet → .flight/data_docs: Great Expectations' own pages, for who works with them; no out of the pipeline.

``make data-docs``, after `dvc repro`. They load their styles from the network and bear times, so they are neither shipped nor kept.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd

from stages.shared import paths
from stages.shared.errors import FlightError
from stages.shared.manifest import read_manifest
from stages.shared.params import ValidateParams, load
from stages.shared.quality import issues
from stages.shared.quality.checks import registry
from stages.shared.quality.expectations import num_unexpected
from stages.shared.quality.tables import tables

DATA_DOCS = Path(".flight/data_docs")


def build(manifest: pd.DataFrame, params: ValidateParams, folder: Path) -> list[Path]:
    """Judge the manifest once more and write a site a table; returns their first pages."""
    shutil.rmtree(folder, ignore_errors=True)
    table = manifest.assign(given_split="", found=pd.Series([issues.mask(names) for names in manifest["issues"]], manifest.index, "uint64"))
    for name, judged in tables(table, params.keep).items():
        num_unexpected(name, [check for check in registry(params) if check.table == name], judged, folder / name)
    return sorted(folder.glob("*/index.html"))


def main() -> int:
    try:
        if not paths.MANIFEST.is_file():
            raise FlightError(f"{paths.MANIFEST} does not exist; it is made by validate. Type: dvc repro validate")
        pages = build(read_manifest(paths.MANIFEST), load(paths.PARAMS).validate_, DATA_DOCS)
    except FlightError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("".join(f"{page}\n" for page in pages))
    return 0


if __name__ == "__main__":
    sys.exit(main())
