"""Facts of each file → what is wrong with it, also beside the others: wrong names, outliers, duplicates, doubtful labels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.shared.params import ValidateParams
from stages.shared.paths import SPLITS
from stages.shared.quality import duplicates, issues, outliers

EXTENSIONS = {
    "PNG": {".png", ".apng"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
    "AVIF": {".avif"},
    "JPEG2000": {".jp2", ".j2k", ".jpx"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
}


@dataclass(frozen=True)
class Findings:
    """The facts with label, given_split, group, and all issues in ``found``; where outliers begin; rows that are alike, (n, 2)."""

    table: pd.DataFrame
    lines: tuple[outliers.Line, ...]
    pairs: NDArray[np.int64]


def find(facts: pd.DataFrame, params: ValidateParams, doubtful: Collection[str]) -> Findings:
    """All that can be said before anything is quarantined.

    Args:
        facts: a row a file, as ``scan`` returns it.
        params: thresholds.
        doubtful: paths of the images whose label a probe doubts.
    """
    table = with_labels(facts)
    found = table["found"].to_numpy(np.uint64).copy()
    decodable = ~issues.having(found, *issues.UNREADABLE)
    found[decodable & _has_wrong_extension(table)] |= issues.BITS["wrong-extension"]
    found[table["path"].isin(doubtful).to_numpy()] |= issues.BITS["label-noise"]
    comparable = decodable & ~issues.having(found, "constant")
    lines = _mark_outliers(found, table, comparable, params)
    equal, near = _similar(table, decodable, comparable, params.near_duplicate_distance)
    _mark_duplicates(found, table, equal, near)
    pairs = np.concatenate([equal, near])
    table = table.assign(found=found, group=duplicates.groups(pairs, len(table)))
    return Findings(table, lines, pairs)


def with_labels(facts: pd.DataFrame) -> pd.DataFrame:
    """Add ``label`` and ``given_split`` ("" where none), which the folders in ``path`` tell: ``[<split>/]<class>/…``."""
    parts = [path.split("/", 2) for path in facts["path"].to_numpy(object)]
    given = [names[0] if len(names) > 2 and names[0] in SPLITS else "" for names in parts]
    label = [names[1] if split else names[0] for names, split in zip(parts, given, strict=True)]
    return facts.assign(label=pd.Series(label, facts.index, "str"), given_split=pd.Series(given, facts.index, "str"))


def _has_wrong_extension(table: pd.DataFrame) -> NDArray[np.bool_]:
    suffix, suffixes = pd.factorize(np.array([path.rpartition("/")[2].rpartition(".")[2].lower() for path in table["path"]], object))
    number, formats = pd.factorize(table["format"])
    wrong = np.array([[f".{end}" not in EXTENSIONS.get(name, ()) for name in formats] for end in suffixes], np.bool_)
    return wrong.reshape(len(suffixes), len(formats))[suffix, number]


def _mark_outliers(
    found: NDArray[np.uint64], table: pd.DataFrame, comparable: NDArray[np.bool_], params: ValidateParams
) -> tuple[outliers.Line, ...]:
    values = outliers.measures(table)
    lines = outliers.lines(values[comparable], params)
    for line in lines:
        found[comparable & line.crossed(values[line.measure].to_numpy())] |= issues.BITS[line.issue]
    rows = np.flatnonzero(comparable)
    found[rows[outliers.grey_among_colour(table["colour"].to_numpy()[rows])]] |= issues.BITS["grey-among-colour"]
    return lines


def _similar(
    table: pd.DataFrame, decodable: NDArray[np.bool_], comparable: NDArray[np.bool_], distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of equal bytes, and rows of nearly equal pictures; both of shape (num_pairs, 2)."""
    readable = np.flatnonzero(decodable)
    equal = readable[duplicates.equal_pairs(table["sha256"].iloc[readable])]
    different = comparable.copy()
    different[equal[:, 1]] = False
    rows = np.flatnonzero(different)
    dhash, phash, dhash_mirrored, phash_mirrored = (
        table[name].to_numpy(np.uint64)[rows] for name in ("dhash", "phash", "dhash_mirrored", "phash_mirrored")
    )
    return equal, rows[duplicates.near_pairs((dhash, phash), (dhash_mirrored, phash_mirrored), distance)]


def _mark_duplicates(found: NDArray[np.uint64], table: pd.DataFrame, equal: NDArray[np.int64], near: NDArray[np.int64]) -> None:
    """Mark every copy, whichever of them the pairs name."""
    content = duplicates.groups(equal, len(table))
    label, _ = pd.factorize(table["label"])
    copied = np.flatnonzero(np.isin(content, content[equal.ravel()]))
    copies = pd.DataFrame({"content": content[copied], "label": label[copied]})
    disputed = copied[copies.groupby("content")["label"].transform("nunique").to_numpy(np.int64) > 1]
    alike = copied[copies.groupby(["content", "label"])["label"].transform("size").to_numpy(np.int64) > 1]
    found[alike] |= issues.BITS["exact-duplicate"]
    found[disputed] |= issues.BITS["conflicting-labels"]
    found[np.isin(content, content[near.ravel()])] |= issues.BITS["near-duplicate"]
    conflicting = (label[near[:, 0]] != label[near[:, 1]]) | np.isin(near, disputed).any(axis=1)
    found[np.isin(content, content[near[conflicting].ravel()])] |= issues.BITS["conflicting-near-duplicate"]
