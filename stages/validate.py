"""data/raw → data/manifest.parquet, reports/validate: every image looked at once, judged, quarantined or split."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.flight.record import journal
from stages.shared import duplicates, files, page, paths, splits
from stages.shared.checks import IMAGE_ISSUES, UNREADABLE, CheckResult, TableName, judge, registry
from stages.shared.errors import RejectedDataError
from stages.shared.images import ImageFacts, examine
from stages.shared.manifest import MANIFEST_COLUMNS, write_manifest
from stages.shared.params import ValidateParams, load
from stages.shared.thumbnails import MAX_THUMBNAILS, thumbnails


@dataclass(frozen=True)
class Verdict:
    """The manifest (a row an image) and what the checks say of it."""

    manifest: pd.DataFrame
    checks: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no critical check failed."""
        return all(check.passed for check in self.checks if check.severity == "critical")

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        usable = self.manifest[self.manifest["status"] == "ok"]
        counts = usable.groupby(["label", "split"]).size()
        return {
            "num_images": len(self.manifest),
            "num_ok": len(usable),
            "num_quarantined": len(self.manifest) - len(usable),
            "class_counts": {str(label): int(count) for label, count in usable["label"].value_counts().items()},
            "split_counts": {
                name: {str(label): int(count) for label, count in counts.xs(name, level="split").items()}
                for name in paths.SPLITS
                if name in counts.index.get_level_values("split")
            },
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
        }


def scan(raw: Path) -> pd.DataFrame:
    """Decode every file below ``raw`` once, in parallel, with a progress bar; a row a file, sorted by path."""
    found = sorted(path for path in raw.rglob("*") if path.is_file())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        facts = list(tqdm(pool.map(examine, found), total=len(found), desc="validate", unit=" images", mininterval=1))
    rows = [_row(path.relative_to(raw), fact) for path, fact in zip(found, facts, strict=True)]
    return pd.DataFrame(rows, columns=["given_split", *MANIFEST_COLUMNS])


def _row(path: Path, facts: ImageFacts) -> dict[str, Any]:
    given = path.parts[0] if path.parts[0] in paths.SPLITS and len(path.parts) > 2 else ""
    label = path.parts[1] if given else path.parts[0]
    values = {**asdict(facts), "issues": list(facts.issues)}
    return {
        "path": path.as_posix(),
        "label": label,
        "given_split": given,
        "split": "",
        "status": "ok",
        "group": -1,
        **values,
    }


def validate(table: pd.DataFrame, params: ValidateParams) -> Verdict:
    """Find duplicates, quarantine, split, and judge the outcome."""
    table = _with_duplicates(table, params.near_duplicate_distance)
    quarantined = {name for name in IMAGE_ISSUES if getattr(params.policy, name.replace("-", "_")) == "quarantine"}
    unusable = table["issues"].map(lambda issues: bool(quarantined.union(UNREADABLE).intersection(issues))).astype(bool)
    table["status"] = np.where(unusable, "quarantined", "ok")
    fractions = {"val": params.val_fraction, "test": params.test_fraction}
    table["split"] = splits.assign(table[~unusable], fractions, params.seed).reindex(table.index, fill_value="")
    return Verdict(table[list(MANIFEST_COLUMNS)], judge(registry(params), _tables(table)))


def _with_duplicates(table: pd.DataFrame, distance: int) -> pd.DataFrame:
    """Fill in ``group`` and the issues exact-duplicate, conflicting-labels and near-duplicate."""
    table = table.copy()
    undecodable = table["issues"].map(lambda issues: bool({*UNREADABLE, "constant"}.intersection(issues)))
    comparable = np.flatnonzero(~undecodable & ~table["sha256"].duplicated())
    hashes = [table[name].to_numpy(np.uint64)[comparable] for name in ("dhash", "phash")]
    near = comparable[duplicates.near_pairs(hashes[0], hashes[1], distance)]
    readable = np.flatnonzero(~undecodable)
    equal = readable[duplicates.equal_pairs(table["sha256"].to_numpy(object)[readable])]
    table["group"] = duplicates.groups(np.concatenate([near, equal]), len(table))
    labels, issues = list(table["label"]), [set(found) for found in table["issues"]]
    for first, second in equal:
        name = "exact-duplicate" if labels[first] == labels[second] else "conflicting-labels"
        for row in (first, second):
            issues[row].add(name)
    for row in near.ravel():
        issues[row].add("near-duplicate")
    table["issues"] = [sorted(found) for found in issues]
    return table


def _tables(table: pd.DataFrame) -> dict[TableName, pd.DataFrame]:
    """What the checks look at: images, classes, duplicate groups, and the data set as one row."""
    usable = table[table["status"] == "ok"]
    issues = {name: table["issues"].map(lambda found, name=name: int(name in found)) for name in IMAGE_ISSUES}
    images = pd.DataFrame(issues).set_axis(table["path"])
    per_split = pd.crosstab(usable["label"], usable["split"]).reindex(columns=list(paths.SPLITS), fill_value=0)
    per_split = per_split.reindex(sorted(table["label"].unique()), fill_value=0)
    num_usable = per_split.sum(axis=1)
    classes = pd.DataFrame(
        {
            "num_usable": num_usable,
            "smallest_split": per_split.min(axis=1),
            "ratio_to_smallest": num_usable / max(int(num_usable.min()), 1) if len(num_usable) else num_usable.astype(float),
        }
    )
    first_paths = usable.groupby("group")["path"].min()
    groups = usable.groupby("group")["split"].nunique().rename("num_splits").to_frame().set_axis(first_paths)
    unreadable = table["issues"].map(lambda found: bool(set(UNREADABLE).intersection(found)))
    dataset = pd.DataFrame(
        {
            "num_usable": [len(usable)],
            "num_classes": [usable["label"].nunique()],
            "decodable_share": [1 - float(unreadable.mean()) if len(table) else 0.0],
        },
        index=["data/raw"],
    )
    return {"images": images, "classes": classes, "groups": groups, "dataset": dataset}


def write(verdict: Verdict, raw: Path, manifest: Path, report: Path) -> None:
    """The manifest, summary.json and the page."""
    write_manifest(verdict.manifest, manifest)
    summary = verdict.summary()
    files.write_json(report / "summary.json", summary)
    pictured = {path for check in verdict.checks if not check.passed for path in check.offenders[:MAX_THUMBNAILS]}
    examples = _examples(verdict.manifest)
    pictures = thumbnails(raw, sorted(pictured.union(path for paths_ in examples.values() for path in paths_)))
    content = {
        "summary": summary,
        "examples": examples,
        "pictures": pictures,
        "rows": _rows_by_path(verdict.manifest, pictured),
    }
    files.write_text(report / "index.html", page.render("validate.html", **content))


def _examples(manifest: pd.DataFrame, num_examples: int = 8) -> dict[str, list[str]]:
    usable = manifest[manifest["status"] == "ok"].sort_values("sha256")  # by hash: arbitrary, yet the same each time
    return {str(label): list(rows["path"].head(num_examples)) for label, rows in usable.groupby("label")}


def _rows_by_path(manifest: pd.DataFrame, pictured: Iterable[str]) -> dict[str, dict[str, Any]]:
    chosen = manifest[manifest["path"].isin(list(pictured))]
    return {str(row["path"]): {str(key): value for key, value in row.items()} for row in chosen.to_dict("records")}


def main(log: journal.Journal) -> None:
    params = load(paths.PARAMS).validate_
    verdict = validate(scan(paths.RAW), params)
    write(verdict, paths.RAW, paths.MANIFEST, paths.VALIDATE_REPORT)
    summary = verdict.summary()
    log.metrics("validate", {key: summary[key] for key in ("num_images", "num_ok", "num_quarantined")})
    log.say(f"{summary['num_ok']} of {summary['num_images']} images usable; report: {paths.VALIDATE_REPORT}/index.html")
    failed = [check for check in verdict.checks if check.severity == "critical" and not check.passed]
    if failed:
        reasons = "\n".join(f"  {check.name}: {check.observed}, expected {check.expected}. {check.meaning}" for check in failed)
        raise RejectedDataError(
            f"The data was rejected by {len(failed)} critical checks:\n{reasons}\n"
            f"The offenders are in {paths.VALIDATE_REPORT}/index.html; mend the source, or the thresholds in params.yaml."
        )


if __name__ == "__main__":
    journal.run_stage("validate", main)
