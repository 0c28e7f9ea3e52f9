"""Tables of facts as a scan of good images makes them, to be changed by tests, and what a verdict says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from stages import validate as stage
from stages.shared.params import ValidateParams, load
from stages.shared.quality import issues
from stages.shared.quality.checks import CheckResult
from stages.shared.quality.kept import FACT_SCHEMA
from tests.tiny import ROOT

PARAMS = load(ROOT / "params.yaml").validate_


def with_values(**values: Any) -> ValidateParams:
    """The shipped parameters with some changed; ``policy`` changes only the policies that it names."""
    policy = values.pop("policy", {})
    return PARAMS.model_copy(update={**values, "policy": PARAMS.policy.model_copy(update=policy)})


def make_table(counts: dict[str, int], **columns: list[Any]) -> pd.DataFrame:
    """Distinct good images as a scan finds them: ``counts`` images a class, some columns replaced."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**63, (4, len(labels)), dtype=np.uint64)
    values: dict[str, Any] = {
        "path": [f"{label}/{number:04d}.png" for number, label in enumerate(labels)],
        "found": np.zeros(len(labels), np.uint64),
        "width": [8] * len(labels),
        "height": [8] * len(labels),
        "mode": ["RGB"] * len(labels),
        "format": ["PNG"] * len(labels),
        "num_bytes": [100] * len(labels),
        "sha256": [f"{number:064x}" for number in generator.permutation(len(labels))],
        **dict(zip(("dhash", "phash", "dhash_mirrored", "phash_mirrored"), hashes, strict=True)),
        "brightness": [0.5] * len(labels),
        "dark_end": [0.1] * len(labels),
        "bright_end": [0.9] * len(labels),
        "contrast": [0.2] * len(labels),
        "colour": [0.1] * len(labels),
        "sharpness": [500.0] * len(labels),
        "entropy": [7.0] * len(labels),
    }
    if given_split := columns.pop("given_split", None):
        values["path"] = [f"{split}/{path}" for split, path in zip(given_split, values["path"], strict=True)]
    if found := columns.pop("issues", None):
        values["found"] = [issues.mask(names) for names in found]
    table = pd.DataFrame({**values, **columns}, columns=["path", *FACT_SCHEMA.names])
    return table.astype({"path": "str", "sha256": "str", "mode": "str", "format": "str", "found": "uint64"})


def set_value(table: pd.DataFrame, column: str, row: int, value: Any) -> None:
    """Change one value."""
    values = list(table[column])
    values[row] = value
    table[column] = pd.Series(values, dtype=table[column].dtype)


def copy_bytes(table: pd.DataFrame, original: int, copy: int) -> None:
    """Make one row a byte-equal copy of another."""
    for column in ("sha256", "dhash", "phash", "dhash_mirrored", "phash_mirrored"):
        set_value(table, column, copy, table[column][original])


def check(verdict: stage.Verdict, name: str) -> CheckResult:
    return next(found for found in verdict.checks if found.name == name)


def failed_critical(verdict: stage.Verdict) -> set[str]:
    return {found.name for found in verdict.checks if found.severity == "critical" and not found.passed}
