"""Results of earlier scans, outside the outs: by content, and by the file's state, so that an untouched file is not even read.

A folder of Parquet files, of which each scan adds some and none is ever changed: processes may share it, and a killed scan keeps what it
had found. Results of other code or other decoders lie in a folder of another name and are removed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

STATE_COLUMNS = ("path", "size", "mtime_ns", "ctime_ns", "inode")
FACT_SCHEMA = pa.schema(
    [
        ("sha256", pa.string()),
        ("num_bytes", pa.int64()),
        ("found", pa.uint64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("format", pa.string()),
        *((name, pa.uint64()) for name in ("dhash", "phash", "dhash_mirrored", "phash_mirrored")),
        *((name, pa.float64()) for name in ("brightness", "dark_end", "bright_end", "contrast", "colour", "sharpness", "entropy")),
    ]
)
SCHEMA = pa.schema([("path", pa.string()), *((name, pa.int64()) for name in STATE_COLUMNS[1:]), *FACT_SCHEMA])
MAX_PARTS = 16
DECIDING_MODULES = ("examine.py", "damage.py", "hashes.py", "issues.py", "../images.py")
DECIDING_PACKAGES = ("numpy", "pillow", "simplejpeg")


def version() -> str:
    """Names the code and the decoders on which a result depends."""
    parts = [(Path(__file__).parent / name).read_bytes() for name in DECIDING_MODULES]
    parts += [importlib.metadata.version(name).encode() for name in DECIDING_PACKAGES]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def read(results: Path) -> pa.Table:
    """All results that still hold; a file that cannot be read is passed over, for a scan can find them again."""
    tables = []
    for path in sorted((results / version()).glob("[!.]*.parquet")):
        try:
            tables.append(pq.read_table(path, schema=SCHEMA))
        except (OSError, pa.ArrowException):
            continue
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def add(results: Path, table: pa.Table) -> None:
    """Keep a table of results; a folder that cannot be written costs the next scan its time, nothing more."""
    folder = results / version()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{uuid.uuid4().hex}"
        pq.write_table(table, beside, compression="zstd")
        beside.replace(folder / f"{uuid.uuid4().hex}.parquet")
    except OSError:
        return


def tidy(results: Path, current: pa.Table) -> None:
    """Remove results of other versions, and gather many small files into one that holds what ``current`` (the newest scan) needs."""
    for other in results.glob("*/"):
        if other.name != version():
            shutil.rmtree(other, ignore_errors=True)
    parts = sorted((results / version()).glob("*.parquet"))
    if len(parts) > MAX_PARTS:
        add(results, current)
        for part in parts:
            part.unlink(missing_ok=True)
