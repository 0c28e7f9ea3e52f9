"""Results of earlier scans, outside the outs: by content, and by the file's state, so that an untouched file is not even read.

A folder of Parquet files, of which each scan adds some and none is ever changed: processes may share it, and a killed scan keeps what it
had found. Results of other code or other decoders lie in a folder of another name and are removed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import shutil
import uuid
from collections.abc import Iterable
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


@functools.cache
def version() -> str:
    """Names the code and the decoders on which a result depends."""
    parts = [(Path(__file__).parent / name).read_bytes() for name in DECIDING_MODULES]
    parts += [importlib.metadata.version(name).encode() for name in DECIDING_PACKAGES]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def read(results: Path) -> pa.Table:
    """All results that still hold."""
    return _read(sorted((results / version()).glob("*.parquet")))


def _read(parts: Iterable[Path]) -> pa.Table:
    """The rows of some files; one that cannot be read, or has gone, is passed over, for a scan can find them again."""
    tables = []
    for path in parts:
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            if table.schema.equals(SCHEMA) and not any(column.null_count for column in table.columns):
                tables.append(table)
        except (OSError, pa.ArrowException):
            continue
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def add(results: Path, table: pa.Table) -> bool:
    """Keep a table of results; whether that worked. A folder that cannot be written costs the next scan its time, nothing more."""
    folder = results / version()
    beside = folder / f".{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, beside, compression="zstd", write_page_checksum=True)
        beside.replace(folder / f"{uuid.uuid4().hex}.parquet")
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        return False
    return True


def tidy(results: Path) -> None:
    """Remove results of other versions, and gather many small files into one: the newest state of each path, and each content once."""
    for other in results.glob("*/"):
        if other.name != version():
            shutil.rmtree(other, ignore_errors=True)
    parts = sorted((results / version()).glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    if len(parts) <= MAX_PARTS:
        return
    rows = _read(parts).to_pandas()
    needed = ~rows["path"].duplicated(keep="last") | ~rows["sha256"].duplicated(keep="last")
    if add(results, pa.Table.from_pandas(rows[needed], SCHEMA, preserve_index=False)):
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
