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
TableName = Literal["images", "classes", "splits", "properties", "dataset", "keep"]

WITHOUT_IMAGE = "A class without an image in a split cannot be learned, or judged."
FEW_IMAGES = "Few images give a class that is recognised badly, and figures that mean little."
MANY_UNREADABLE = "So many unreadable files point to a broken copy or download, not to a few bad images."
MISREAD_SPLIT = "This folder is named like a split and holds folders, but is taken for a class. Rename splits to train, val and test."
NEAR_OVERLAP = "Nearly the same picture lies in another of the given splits, and makes the test result too good."
DOMINATING = "A class that dominates is guessed too often; see augment.balancing."
OTHER_SHARES = "A split with other shares of the classes judges another task than the one that is trained."
TELLING = "This property alone tells the class from the others, so a model may learn it in place of what the picture shows."
UNKNOWN_KEEP = "validate.keep names files that do not exist or cannot be decoded; correct or remove these lines."


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
    """What was found; ``offenders`` are rows of the table that was judged (paths of images, classes …), complete and sorted."""

    name: str
    severity: Severity
    table: TableName
    passed: bool
    num_offenders: int
    observed: str
    expected: str
    meaning: str
    offenders: tuple[str, ...]


def registry(params: ValidateParams) -> tuple[Check, ...]:
    """All checks in the order of the report, with their thresholds from ``params``."""
    lower = (
        Check("usable-images", "critical", "dataset", "num_usable", "Without a usable image there is nothing to train on.", 1),
        Check("class-set", "critical", "dataset", "num_classes", "A classifier needs at least two classes with usable images.", 2),
        Check("split-classes", "critical", "classes", "smallest_split", WITHOUT_IMAGE, 1),
        Check("smallest-class", "warning", "classes", "num_usable", FEW_IMAGES, params.min_images_per_class),
    )
    upper = (
        Check("unreadable-share", "critical", "dataset", "unreadable_share", MANY_UNREADABLE, maximum=params.max_unreadable_fraction),
        Check("split-names", "critical", "classes", "misread_split", MISREAD_SPLIT, maximum=0),
        Check("split-overlap", "critical", "images", "overlap", "The same bytes in two splits make the test result too good.", maximum=0),
        Check("near-split-overlap", "warning", "images", "near_overlap", NEAR_OVERLAP, maximum=0),
        Check("class-ratio", "warning", "classes", "ratio_to_smallest", DOMINATING, maximum=params.max_class_ratio),
        Check("split-balance", "warning", "splits", "difference", OTHER_SHARES, maximum=params.max_split_difference),
        Check("telling-property", "warning", "properties", "difference", TELLING, maximum=params.max_property_difference),
        Check("unknown-keep", "warning", "keep", "unknown", UNKNOWN_KEEP, maximum=0),
    )
    return (*lower, *upper, *(_image_check(issue, params) for issue in ISSUES))


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


def _number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def _result(check: Check, num_counted: int, table: pd.DataFrame) -> CheckResult:
    offenders = tuple(sorted(map(str, table.index[check.broken_in(table)])))
    if len(offenders) != num_counted:
        raise RuntimeError(f"Great Expectations counts {num_counted} rows that fail {check.name}, the table has {len(offenders)}.")
    values = table[check.column]
    worst: Callable[[], Any] = values.min if check.maximum is None else values.max
    observed = (
        f"{len(offenders)} {'image' if len(offenders) == 1 else 'images'}"
        if check.table == "images"
        else "no rows"
        if table.empty
        else _number(worst())
    )
    # On an empty table every expectation holds, and nothing is known. That of images holds those with a finding.
    passed = not offenders and not (table.empty and check.severity == "critical" and check.table != "images")
    return CheckResult(check.name, check.severity, check.table, passed, len(offenders), observed, check.expected, check.meaning, offenders)
