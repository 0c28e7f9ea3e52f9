"""data/raw → data/manifest.parquet, reports/validate: every image looked at once, judged, quarantined or split."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.flight.record import journal
from stages.shared import files, paths
from stages.shared.errors import RejectedDataError
from stages.shared.manifest import MANIFEST_COLUMNS, write_manifest
from stages.shared.params import Params, ValidateParams, load
from stages.shared.quality import findings, issues, noise, report, splits
from stages.shared.quality.checks import CheckResult, judge, registry
from stages.shared.quality.outliers import Line
from stages.shared.quality.scan import scan
from stages.shared.quality.tables import tables

# What earlier scans found, beside the records of runs: no out, for it changes no result.
KEPT_RESULTS = Path(".flight/scan")


@dataclass(frozen=True)
class Verdict:
    """The manifest (a row an image), what the checks say of it, where outliers begin, which rows are alike, (n, 2),
    and path → label of the images that a probe would label otherwise (None if none has looked).
    """

    manifest: pd.DataFrame
    checks: tuple[CheckResult, ...]
    lines: tuple[Line, ...]
    pairs: NDArray[np.int64]
    doubts: Mapping[str, str] | None

    @property
    def passed(self) -> bool:
        """Whether no critical check failed."""
        return all(check.passed for check in self.checks if check.severity == "critical")

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        usable = self.manifest[self.manifest["status"] == "ok"]
        counts = {str(split): rows["label"].value_counts().sort_index() for split, rows in usable.groupby("split")}
        return {
            "num_images": len(self.manifest),
            "num_ok": len(usable),
            "num_quarantined": len(self.manifest) - len(usable),
            "class_counts": {str(label): int(count) for label, count in usable["label"].value_counts().items()},
            "split_counts": {
                name: {str(label): int(count) for label, count in counts[name].items()} for name in paths.SPLITS if name in counts
            },
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
        }


def validate(facts: pd.DataFrame, params: ValidateParams, doubts: Mapping[str, str] | None = None) -> Verdict:
    """Find what is wrong, quarantine, split, and judge the outcome.

    Args:
        facts: a row a file, as ``scan`` returns it.
        params: thresholds and policies.
        doubts: path → the label that a probe would give, of the images whose label it doubts; None if none has looked.
    """
    found = findings.find(facts, params, doubts or {})
    table = found.table
    masks = table["found"].to_numpy(np.uint64)
    quarantined = {name for name in issues.NAMES if getattr(params.policy, name.replace("-", "_")) == "quarantine"}
    first = table["group"].to_numpy() == np.arange(len(table))  # of copies the first stays
    spare = ~first & issues.having(masks, *quarantined.intersection(issues.COPIES))
    bad = spare | issues.having(masks, *quarantined.difference(issues.COPIES))
    accepted = table["path"].isin(params.keep).to_numpy() | ~bad
    usable = accepted & ~issues.having(masks, *issues.UNREADABLE)
    table["status"] = np.where(usable, "ok", "quarantined")
    fractions = {"val": params.val_fraction, "test": params.test_fraction}
    table["split"] = splits.assign(table[usable], fractions, params.seed).reindex(table.index, fill_value="")
    checks = judge(registry(params), tables(table, params.keep))
    table["issues"] = issues.listed(masks)
    return Verdict(table[list(MANIFEST_COLUMNS)], checks, found.lines, found.pairs, doubts)


def write(verdict: Verdict, params: ValidateParams, raw: Path, manifest: Path, folder: Path) -> None:
    """The manifest, summary.json and the page."""
    write_manifest(verdict.manifest, manifest)
    summary = verdict.summary()
    files.write_json(folder / "summary.json", summary)
    page = report.render(verdict.manifest, summary, verdict.lines, verdict.pairs, verdict.doubts, params, raw)
    files.write_text(folder / "index.html", page)


def scan_and_validate(params: Params) -> Verdict:
    """The verdict on data/raw."""
    facts = scan(paths.RAW, Path(os.environ.get("DVC_ROOT", ".")) / KEPT_RESULTS)
    doubts = noise.doubts(facts, paths.RAW, paths.BACKBONE, params.train.alpha, params.validate_.max_label_noise_images)
    return validate(facts, params.validate_, doubts)


def main(log: journal.Journal) -> None:
    params = load(paths.PARAMS)
    verdict = scan_and_validate(params)
    write(verdict, params.validate_, paths.RAW, paths.MANIFEST, paths.VALIDATE_REPORT)
    summary = verdict.summary()
    log.metrics("validate", {key: summary[key] for key in ("num_images", "num_ok", "num_quarantined")})
    log.say(f"{summary['num_ok']} of {summary['num_images']} images usable; report: {paths.VALIDATE_REPORT}/index.html")
    failed = [check for check in verdict.checks if check.severity == "critical" and not check.passed]
    if failed:
        reasons = "\n".join(f"  {check.name}: {check.observed}, expected {check.expected}. {check.meaning}" for check in failed)
        raise RejectedDataError(
            f"The data was rejected by {len(failed)} critical checks:\n{reasons}\n"
            f"The offenders are in {paths.VALIDATE_REPORT}/index.html.\n"
            "Mend the source, or, where a check has one, its threshold in params.yaml; then type: dvc repro"
        )


if __name__ == "__main__":
    journal.run_stage("validate", main)
