"""A folder of images → a table of facts: each file decoded once, in parallel; known content is not decoded again."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from stages.shared.errors import SourceError
from stages.shared.quality import kept
from stages.shared.quality.examine import examine

BATCH_FILES = 64
PART_ROWS = 20_000
# Below both, starting worker processes takes longer than the work.
FEW_FILES, FEW_BYTES = 4_000, 32_000_000
# A file that changed so shortly before it was looked at may change again without a new time stamp (git calls such entries racy).
RACY_NS = 2_000_000_000
NO_INODE = -1
PARENT_CHECK_S = 1.0


def scan(raw: Path, results: Path) -> pd.DataFrame:
    """Path and facts (``kept.FACT_SCHEMA``) of every file below ``raw``, a row a file, sorted by path.

    ``results`` is the folder that holds what earlier scans found; what this one finds is added.
    """
    files = list_files(raw)
    known = kept.read(results)
    row_of = _rows_in_same_state(files, known)
    untold = np.flatnonzero(row_of < 0)
    if known.num_rows and len(untold):
        digests = pd.Series(list(_over_files(_digests, raw, files.iloc[untold], "read")), dtype="str")
        row_of[untold] = _first_positions(known["sha256"].to_pandas(), digests)
        moved = untold[row_of[untold] >= 0]
        kept.add(results, _with_state(files.iloc[moved], known.take(row_of[moved])))
    told, new = np.flatnonzero(row_of >= 0), np.flatnonzero(row_of < 0)
    tables = [known.take(row_of[told]).select(kept.FACT_SCHEMA.names)]
    found = _over_files(_facts, raw, files.iloc[new], "examine")
    for start in range(0, len(new), PART_ROWS):
        rows = list(itertools.islice(found, PART_ROWS))
        columns = zip(zip(*rows, strict=True), kept.FACT_SCHEMA, strict=True)
        tables.append(pa.table([pa.array(values, field.type) for values, field in columns], kept.FACT_SCHEMA))
        kept.add(results, _with_state(files.iloc[new[start : start + PART_ROWS]], tables[-1]))
    table = pa.concat_tables(tables).take(np.argsort(np.concatenate([told, new])))
    kept.tidy(results)
    facts: pd.DataFrame = table.to_pandas()
    return pd.concat([files[["path"]], facts], axis=1)


def list_files(raw: Path) -> pd.DataFrame:
    """Path (relative to ``raw``, with slashes) and state of every regular file, sorted by path."""
    try:
        rows = [(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino) for path, state in _states(raw, "")]
    except OSError as error:
        raise SourceError(f"{error.filename} cannot be read: {error.strerror}.\nIt is made by ingest. Type: dvc repro -f ingest") from error
    if unspeakable := next((path for path, *_ in rows if not path.isascii() and _is_no_text(path)), None):
        raise SourceError(f"{raw}/{unspeakable!r} is no UTF-8. Rename the file in the source, and type: dvc repro -f ingest")
    files = pd.DataFrame(sorted(rows), columns=list(kept.STATE_COLUMNS)).astype({"path": "str"})
    files.loc[files["ctime_ns"] > time.time_ns() - RACY_NS, "inode"] = NO_INODE
    return files


def _is_no_text(path: str) -> bool:
    """Whether Python stands in for bytes that are no UTF-8 (PEP 383)."""
    return any("\ud800" <= character <= "\udfff" for character in path)


def _states(folder: str | Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Path below the first folder, and state, of each regular file; links to folders are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _states(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name, entry.stat()


def _rows_in_same_state(files: pd.DataFrame, known: pa.Table) -> NDArray[np.int64]:
    """For each file the row of ``known`` with its path, size, times and inode; -1 where there is none."""
    states = known.select(kept.STATE_COLUMNS).to_pandas()
    states["row"] = np.arange(len(states))
    states = states[states["inode"] != NO_INODE].drop_duplicates(list(kept.STATE_COLUMNS))
    return files.merge(states, how="left", on=list(kept.STATE_COLUMNS))["row"].fillna(-1).to_numpy(np.int64)


def _first_positions(values: pd.Series[str], wanted: pd.Series[str]) -> NDArray[np.int64]:
    """Where each of ``wanted`` first lies in ``values``; -1 where it does not."""
    first = values[~values.duplicated()]
    found = pd.Index(first).get_indexer(pd.Index(wanted))
    return np.where(found < 0, -1, first.index.to_numpy()[found]) if len(first) else np.full(len(wanted), -1)


def _with_state(files: pd.DataFrame, facts: pa.Table) -> pa.Table:
    states = [pa.array(files[name], kept.SCHEMA.field(name).type) for name in kept.STATE_COLUMNS]
    return pa.table([*states, *(facts[name] for name in kept.FACT_SCHEMA.names)], kept.SCHEMA)


def _over_files(function: Callable[[Path, Sequence[str]], list[Any]], raw: Path, files: pd.DataFrame, verb: str) -> Iterator[Any]:
    """What ``function`` says of each file, in order, by as many processes as there are cores, with a progress bar."""
    if files.empty:
        return
    paths = list(files["path"])
    batches = (paths[start : start + BATCH_FILES] for start in range(0, len(paths), BATCH_FILES))
    few = len(paths) < FEW_FILES and int(files["size"].sum()) < FEW_BYTES
    workers = {} if few else {"initializer": _end_with, "initargs": (os.getpid(),)}
    parallel = joblib.Parallel(n_jobs=1 if few else joblib.cpu_count(), return_as="generator", batch_size=1, max_nbytes=None, **workers)
    with tqdm(total=len(paths), desc=verb, unit=" images", mininterval=1) as bar:
        for answers in parallel(joblib.delayed(function)(raw, batch) for batch in batches):
            bar.update(len(answers))
            yield from answers


def _end_with(parent: int) -> None:
    """Let this process end when ``parent`` does, also by SIGKILL; it would wait for work for five minutes else."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _digests(raw: Path, paths: Sequence[str]) -> list[str]:
    return [hashlib.sha256(_content(raw / path)).hexdigest() for path in paths]


def _facts(raw: Path, paths: Sequence[str]) -> list[tuple[Any, ...]]:
    return [astuple(examine(_content(raw / path))) for path in paths]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.\nMake the file readable, or type: dvc repro -f ingest") from error
