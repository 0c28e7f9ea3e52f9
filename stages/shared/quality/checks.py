"""The checks of an image folder, each once: what it looks at, how severe it is, what is allowed; judged by Great Expectations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from stages.shared.params import ValidateParams
from stages.shared.quality.expectations import num_unexpected
from stages.shared.quality.issues import ISSUES, Issue

Severity = Literal["critical", "warning", "info"]
TableName = Literal["images", "classes", "splits", "properties", "dataset"]


@dataclass(frozen=True)
class Check:
    """One expectation on one column of one table. The bounds are inclusive; None is open."""

    name: str
    severity: Severity
    table: TableName
    column: str
    meaning: str
    minimum: float | None = None
    maximum: float | None = None

    @property
    def expected(self) -> str:
        """The bounds in words."""
        if self.table == "images":
            return "no images"
        return f"at least {self.minimum:g}" if self.maximum is None else f"at most {self.maximum:g}"

    def broken_in(self, table: pd.DataFrame) -> pd.Series[bool]:
        """Which rows lie outside the bounds."""
        values = table[self.column]
        return values < self.minimum if self.minimum is not None else values > self.maximum


@dataclass(frozen=True)
class CheckResult:
    """What was found; ``offenders`` are paths, classes, splits or properties, complete and sorted."""

    name: str
    severity: Severity
    passed: bool
    num_offenders: int
    observed: str
    expected: str
    meaning: str
    offenders: tuple[str, ...]


def registry(params: ValidateParams) -> tuple[Check, ...]:
    """All checks in the order of the report, with their thresholds from ``params``."""
    least_decodable, least_images = 1 - params.max_unreadable_fraction, params.min_images_per_class
    lower: tuple[tuple[str, Severity, TableName, str, float, str], ...] = (
        ("usable-images", "critical", "dataset", "num_usable", 1, "Without a usable image there is nothing to train on."),
        ("class-set", "critical", "dataset", "num_classes", 2, "A classifier needs at least two classes with usable images."),
        (
            "decodable-share",
            "critical",
            "dataset",
            "decodable_share",
            least_decodable,
            "So many unreadable files point to a broken copy or download, not to a few bad images.",
        ),
        ("split-classes", "critical", "classes", "smallest_split", 1, "A class without an image in a split cannot be learned, or judged."),
        (
            "smallest-class",
            "warning",
            "classes",
            "num_usable",
            least_images,
            "Few images give a class that is recognised badly, and figures that mean little.",
        ),
    )
    upper: tuple[tuple[str, Severity, TableName, str, float, str], ...] = (
        ("split-overlap", "critical", "images", "overlap", 0, "The same bytes in two splits make the test result too good."),
        (
            "near-split-overlap",
            "warning",
            "images",
            "near_overlap",
            0,
            "Nearly the same picture lies in another of the given splits, and makes the test result too good.",
        ),
        (
            "class-ratio",
            "warning",
            "classes",
            "ratio_to_smallest",
            params.max_class_ratio,
            "A class that dominates is guessed too often; see augment.balancing.",
        ),
        (
            "split-balance",
            "warning",
            "splits",
            "difference",
            params.max_split_difference,
            "A split with other shares of the classes judges another task than the one that is trained.",
        ),
        (
            "telling-property",
            "warning",
            "properties",
            "skill",
            params.max_property_skill,
            "This property alone tells the class, so a model may learn it in place of what the picture shows.",
        ),
        (
            "unknown-keep",
            "warning",
            "dataset",
            "num_unknown_keep",
            0,
            "validate.keep names files that do not exist or cannot be decoded; correct or remove these lines.",
        ),
    )
    return (
        *(Check(name, severity, table, column, meaning, minimum=bound) for name, severity, table, column, bound, meaning in lower),
        *(Check(name, severity, table, column, meaning, maximum=bound) for name, severity, table, column, bound, meaning in upper),
        *(_image_check(issue, params) for issue in ISSUES),
    )


def _image_check(issue: Issue, params: ValidateParams) -> Check:
    policy = getattr(params.policy, issue.name.replace("-", "_"))
    severity: Severity = "critical" if policy == "fail" else "info" if issue.minor else "warning"
    return Check(issue.name, severity, "images", issue.name, issue.meaning, maximum=0)


def judge(checks: Sequence[Check], tables: dict[TableName, pd.DataFrame]) -> tuple[CheckResult, ...]:
    """Run the checks as Great Expectations suites, one a table; each table's index names its rows."""
    counts: dict[str, int] = {}
    for name, table in tables.items():
        counts.update(num_unexpected(name, [check for check in checks if check.table == name], table))
    return tuple(_result(check, counts[check.name], tables[check.table]) for check in checks)


def _result(check: Check, num_unexpected: int, table: pd.DataFrame) -> CheckResult:
    offenders = tuple(sorted(map(str, table.index[check.broken_in(table)])))
    if len(offenders) != num_unexpected:
        raise RuntimeError(f"Great Expectations counts {num_unexpected} rows that fail {check.name}, the table has {len(offenders)}.")
    values = table[check.column]
    worst: Callable[[], Any] = values.min if check.maximum is None else values.max
    observed = f"{len(offenders)} images" if check.table == "images" else "no rows" if table.empty else f"{worst():.4g}"
    # On an empty table every expectation holds, and nothing is known. That of images holds those with a finding.
    passed = not offenders and not (table.empty and check.severity == "critical" and check.table != "images")
    return CheckResult(check.name, check.severity, passed, len(offenders), observed, check.expected, check.meaning, offenders)
