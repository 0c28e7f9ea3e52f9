"""data/manifest.parquet: a row an image."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("status", pa.string()),
        ("issues", pa.list_(pa.string())),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("format", pa.string()),
        ("num_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("dhash", pa.uint64()),
        ("phash", pa.uint64()),
        ("brightness", pa.float64()),
        ("dark_end", pa.float64()),
        ("bright_end", pa.float64()),
        ("contrast", pa.float64()),
        ("colour", pa.float64()),
        ("sharpness", pa.float64()),
        ("entropy", pa.float64()),
        ("group", pa.int64()),
    ]
)
MANIFEST_COLUMNS = tuple(_SCHEMA.names)


def write_manifest(table: pd.DataFrame, path: Path) -> None:
    """Write with a fixed schema and without pandas' metadata, so that equal tables give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [pa.array(list(table[field.name]) if table.empty else table[field.name], type=field.type) for field in _SCHEMA]
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")


def read_manifest(path: Path) -> pd.DataFrame:
    """The whole manifest."""
    return pd.DataFrame(pq.read_table(path).to_pandas())


def usable_rows(manifest: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of one split that training may use, in the manifest's order."""
    chosen = (manifest["split"] == split) & (manifest["status"] == "ok")
    return manifest[chosen].reset_index(drop=True)
