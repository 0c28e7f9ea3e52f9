"""The checks of an image folder, each once: what it looks at, how severe it is, what is allowed; judged by Great Expectations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from stages.shared.params import ValidateParams

Severity = Literal["critical", "warning", "info"]
TableName = Literal["images", "classes", "groups", "dataset"]

# Why each finding about an image matters to who trains MobileNetV2.
IMAGE_ISSUES = {
    "empty": "The file has no bytes.",
    "not-an-image": "The content is no image format that is known, whatever the name says.",
    "truncated": "The file ends in the middle of the picture; decoders fill the rest with grey or fail in the middle of an epoch.",
    "unreadable": "The format is known, but decoding fails.",
    "constant": "All pixels are equal: there is nothing to learn from.",
    "animated": "Several frames; only the first is used.",
    "wrong-extension": "The name promises another format than the content; tools that go by the name fail.",
    "conflicting-labels": "The same bytes lie in two classes: one of the labels is wrong.",
    "exact-duplicate": "The same bytes twice in one class; they weigh double, and would leak if they were split.",
    "near-duplicate": "Nearly the same picture as another (dHash and pHash both within the distance).",
    "alpha": "Transparent parts become white.",
    "sixteen-bit": "16 bits a pixel are scaled to 8; some decoders turn such images white.",
    "cmyk": "A print format; colours shift when it is converted to RGB.",
    "exif-orientation": "Stored turned; upright only for decoders that read EXIF.",
}
UNREADABLE = ("empty", "not-an-image", "truncated", "unreadable")
MINOR = ("alpha", "sixteen-bit", "cmyk", "exif-orientation")


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
        return f"at least {self.minimum:g}" if self.maximum is None else f"at most {self.maximum:g}"


@dataclass(frozen=True)
class CheckResult:
    """What Great Expectations found; ``offenders`` are paths, classes or groups, complete and sorted."""

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
    return (
        Check(
            "usable-images",
            "critical",
            "dataset",
            "num_usable",
            "Without a usable image there is nothing to train on.",
            1,
        ),
        Check(
            "class-set",
            "critical",
            "dataset",
            "num_classes",
            "A classifier needs at least two classes with usable images.",
            2,
        ),
        Check(
            "decodable-share",
            "critical",
            "dataset",
            "decodable_share",
            "So many unreadable files point to a broken copy or download, not to a few bad images.",
            1 - params.max_unreadable_fraction,
        ),
        Check(
            "split-classes",
            "critical",
            "classes",
            "smallest_split",
            "A class without an image in a split cannot be learned, or judged.",
            1,
        ),
        Check(
            "split-overlap",
            "critical",
            "groups",
            "num_splits",
            "The same picture in two splits makes the test result too good.",
            maximum=1,
        ),
        Check(
            "smallest-class",
            "warning",
            "classes",
            "num_usable",
            "Few images give a class that is recognised badly, and figures that mean little.",
            params.min_images_per_class,
        ),
        Check(
            "class-ratio",
            "warning",
            "classes",
            "ratio_to_smallest",
            "A class that dominates is guessed too often; see augment.balancing.",
            maximum=params.max_class_ratio,
        ),
        *(_image_check(issue, meaning, params) for issue, meaning in IMAGE_ISSUES.items()),
    )


def _image_check(issue: str, meaning: str, params: ValidateParams) -> Check:
    policy = getattr(params.policy, issue.replace("-", "_"))
    severity: Severity = "critical" if policy == "fail" else "info" if issue in MINOR else "warning"
    return Check(issue, severity, "images", issue, meaning, maximum=0)


def judge(checks: Sequence[Check], tables: dict[TableName, pd.DataFrame]) -> tuple[CheckResult, ...]:
    """Run the checks as Great Expectations suites, one a table; each table's index names its rows.

    Raises:
        RuntimeError: if Great Expectations answers fewer expectations than were asked, or could not compute one.
    """
    answers: dict[str, Any] = {}
    for name, table in tables.items():
        asked = [check for check in checks if check.table == name]
        answers.update(_run_suite(name, asked, table))
    return tuple(_result(check, answers[check.name], tables[check.table]) for check in checks)


def _run_suite(name: str, checks: Sequence[Check], table: pd.DataFrame) -> dict[str, Any]:
    import great_expectations as gx  # 6 to 11 s: only for who judges
    from great_expectations.core.batch import Batch  # noqa: F401  (registers the pandas batch types)
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas(name).add_dataframe_asset(name)
    definition = asset.add_batch_definition_whole_dataframe(name)
    suite = gx.ExpectationSuite(name=name, expectations=[_expectation(gx, check) for check in checks])
    validation = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=definition, suite=context.suites.add(suite)))
    columns = [check.column for check in checks]
    found = validation.run(
        batch_parameters={"dataframe": table[list(dict.fromkeys(columns))].reset_index(drop=True)},
        result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
    )
    answers = {answer.expectation_config.meta["check"]: answer for answer in found.results}
    broken = [answer.exception_info for answer in found.results if _raised(answer.exception_info)]
    if len(answers) != len(checks) or broken:
        raise RuntimeError(f"Great Expectations answered {len(answers)} of {len(checks)} checks of {name}; errors: {broken}")
    return answers


def _expectation(gx: Any, check: Check) -> Any:
    return gx.expectations.ExpectColumnValuesToBeBetween(
        column=check.column,
        min_value=check.minimum,
        max_value=check.maximum,
        severity=check.severity,
        meta={"check": check.name},
    )


def _raised(information: dict[str, Any]) -> bool:
    entries = [information] if "raised_exception" in information else list(information.values())
    return any(entry["raised_exception"] for entry in entries)


def _result(check: Check, answer: Any, table: pd.DataFrame) -> CheckResult:
    rows = answer.result.get("unexpected_index_list") or []
    offenders = tuple(sorted(str(table.index[row]) for row in rows))
    values = table[check.column]
    worst: Callable[[], Any] = values.min if check.maximum is None else values.max
    observed = "no rows" if table.empty else f"{len(offenders)} images" if check.table == "images" else f"{worst():.4g}"
    return CheckResult(
        check.name,
        check.severity,
        bool(answer.success) and not (table.empty and check.severity == "critical"),
        len(offenders),
        observed,
        "no images" if check.table == "images" else check.expected,
        check.meaning,
        offenders,
    )
