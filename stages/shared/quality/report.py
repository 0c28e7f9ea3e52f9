"""The data-quality page: a verdict, what to do next, and for each finding the images themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.shared import page
from stages.shared.params import ValidateParams
from stages.shared.paths import SPLITS
from stages.shared.quality import histograms, issues, outliers
from stages.shared.thumbnails import thumbnails

MAX_PICTURES = 24  # for one finding
MAX_PAIRS = 12
MAX_LISTED = 300
MAX_EXAMPLES, MAX_EXAMPLES_PER_CLASS = 320, 8
PAIR_CHECKS = (
    "conflicting-labels",
    "conflicting-near-duplicate",
    "split-overlap",
    "near-split-overlap",
    "exact-duplicate",
    "near-duplicate",
)
SEVERITIES = ("critical", "warning", "info")


@dataclass(frozen=True)
class Pair:
    """Two images that are alike: their rows, and how far apart their hashes are, in bits."""

    first: Mapping[str, Any]
    second: Mapping[str, Any]
    distance: str


@dataclass(frozen=True)
class Selection:
    """The rows of the manifest that the page shows: by check, side by side by check, and by class."""

    shown: Mapping[str, list[dict[str, Any]]]
    pairs: Mapping[str, list[Pair]]
    examples: Mapping[str, list[dict[str, Any]]]

    @property
    def paths(self) -> list[str]:
        """The images to show, sorted."""
        paths = {row["path"] for rows in [*self.shown.values(), *self.examples.values()] for row in rows}
        return sorted(paths.union(row["path"] for pairs in self.pairs.values() for pair in pairs for row in (pair.first, pair.second)))


def render(
    manifest: pd.DataFrame,
    summary: dict[str, Any],
    lines: Sequence[outliers.Line],
    pairs: NDArray[np.int64],
    doubts: Mapping[str, str] | None,
    params: ValidateParams,
    raw: Path,
) -> str:
    """The page, self-contained; a pure function of its arguments and of the images below ``raw``.

    ``manifest`` has a row an image, ``summary`` is the content of summary.json, ``lines`` say where outliers begin, ``pairs`` are rows that
    are alike, (num_pairs, 2), ``doubts`` map a path to the label that a probe would give.
    """
    failed = [check for check in summary["checks"] if not check["passed"]]
    selection = _select(failed, manifest, lines, pairs, params.near_duplicate_distance)
    used = set(manifest.loc[manifest["status"] == "ok", "path"])
    back = _decodable_in_quarantine(manifest)
    return page.render(
        "validate.html",
        summary=summary,
        groups={severity: [check for check in failed if check["severity"] == severity] for severity in SEVERITIES},
        num_used={check["name"]: len(used.intersection(check["offenders"])) for check in failed},
        first=next((check["name"] for check in failed if check["severity"] == "warning" and _is_open(check, used)), None),
        passed=[check for check in summary["checks"] if check["passed"]],
        selection=selection,
        doubts=doubts or {},
        labels_judged=doubts is not None,
        pictures=thumbnails(raw, selection.paths),
        histograms=histograms.of_measures(manifest, lines),
        sizes=histograms.of_sizes(manifest),
        formats=_formats(manifest),
        keep="keep: " + _yaml_list([*params.keep, *back[:MAX_PICTURES]]) if back else "",
        num_more=max(0, len(back) - MAX_PICTURES),
        policies=issues.NAMES,
        copies=issues.COPIES,
        splits=SPLITS,
        max_listed=MAX_LISTED,
    )


def _select(
    failed: Sequence[dict[str, Any]], manifest: pd.DataFrame, lines: Sequence[outliers.Line], pairs: NDArray[np.int64], distance: int
) -> Selection:
    return Selection(
        {check["name"]: _shown(check, manifest, lines) for check in failed},
        {check["name"]: _pairs(check, manifest, pairs, distance) for check in failed if check["name"] in PAIR_CHECKS},
        _examples(manifest),
    )


def _shown(check: dict[str, Any], manifest: pd.DataFrame, lines: Sequence[outliers.Line]) -> list[dict[str, Any]]:
    """Rows of the images to show, the worst first."""
    if check["name"] in PAIR_CHECKS or check["table"] != "images":
        return []
    rows = manifest[manifest["path"].isin(check["offenders"])]
    values = outliers.measures(rows)
    distance = np.zeros(len(rows))
    for line in lines:
        if line.issue == check["name"]:
            beyond = values[line.measure].to_numpy(np.float64) - line.value
            distance = np.maximum(distance, -beyond if line.side == "below" else beyond)
    return _records(rows.iloc[np.argsort(-distance, kind="stable")[:MAX_PICTURES]])


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def _pairs(check: dict[str, Any], manifest: pd.DataFrame, pairs: NDArray[np.int64], distance: int) -> list[Pair]:
    """The first pairs of images that both offend, from two classes or two splits before others."""
    offending = manifest["path"].isin(check["offenders"]).to_numpy()
    both = pairs[offending[pairs].all(axis=1)] if len(pairs) else pairs
    label, split, sha256 = (manifest[name].to_numpy(object) for name in ("label", "split", "sha256"))
    left, right = both.T if len(both) else (np.empty(0, np.int64), np.empty(0, np.int64))
    same_bytes = sha256[left] == sha256[right]
    wanted = {
        "conflicting-labels": same_bytes & (label[left] != label[right]),
        "conflicting-near-duplicate": ~same_bytes & (label[left] != label[right]),
        "split-overlap": same_bytes & (split[left] != split[right]),
        "near-split-overlap": split[left] != split[right],
        "exact-duplicate": same_bytes,
        "near-duplicate": ~same_bytes,
    }[check["name"]]
    rows = np.flatnonzero(wanted)[:MAX_PAIRS]
    return [_pair(manifest, int(left[row]), int(right[row]), distance) for row in rows]


def _pair(manifest: pd.DataFrame, left: int, right: int, distance: int) -> Pair:
    first, second = _records(manifest.iloc[[left, right]])
    if first["sha256"] == second["sha256"]:
        return Pair(first, second, "same bytes")
    bits = [(int(first[name]) ^ int(second[name])).bit_count() for name in ("dhash", "phash")]
    return Pair(first, second, f"{max(bits)} of 64 bits differ" if max(bits) <= distance else "mirrored")


def _examples(manifest: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Some images of each class, chosen by their hash: arbitrary, yet the same each time."""
    usable = manifest[manifest["status"] == "ok"].sort_values("sha256")
    classes = sorted(usable["label"].unique())[:MAX_EXAMPLES]
    number = min(MAX_EXAMPLES_PER_CLASS, max(1, MAX_EXAMPLES // max(len(classes), 1)))
    first = usable.groupby("label").head(number)
    return {str(label): _records(first[first["label"] == label]) for label in classes}


def _formats(manifest: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Format, colour mode and number of images, the most frequent first."""
    decodable = manifest[manifest["format"] != ""]
    counts = decodable.groupby(["format", "mode"]).size().reset_index(name="count").sort_values("count", ascending=False, kind="stable")
    return [(str(row["format"]), str(row["mode"]), int(row["count"])) for row in counts.to_dict("records")]


def _is_open(check: dict[str, Any], used: set[str]) -> bool:
    """Whether a failed check still concerns training: not if all images that it names are left out."""
    return check["table"] != "images" or not used.isdisjoint(check["offenders"])


def _decodable_in_quarantine(manifest: pd.DataFrame) -> list[str]:
    quarantined = manifest.loc[manifest["status"] == "quarantined", ["path", "issues"]].to_numpy(object)
    return [path for path, names in quarantined if not set(names).intersection(issues.UNREADABLE)]


def _yaml_list(paths: Sequence[str]) -> str:
    return "[" + ", ".join(json.dumps(path, ensure_ascii=False) for path in paths) + "]"
