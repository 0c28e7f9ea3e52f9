"""What a rule can answer: a finding, silence (None), or that a signal was missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from stages.shared.evidence import Evidence, Number
from stages.shared.params import Params


class Finding(BaseModel):
    """A fault with its evidence (numbers by name), an explanation in a sentence, and the changes that should mend it."""

    model_config = ConfigDict(frozen=True)

    fault: str
    score: float
    severity: Literal["critical", "warning"]
    evidence: dict[str, Number | str]
    explanation: str
    fix: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Missing:
    """The rule could not look, for want of this signal."""

    signal: str


Rule = Callable[[Evidence, Params | None], Finding | Missing | None]


def change(params: Params | None, key: str, value: Any) -> dict[str, Any]:
    """A fix by parameter, with its present value and the command to try it."""
    present: Any = params
    for part in key.split("."):
        present = getattr(present, part, None)
    return {
        "param": key,
        "from": present,
        "to": value,
        "command": f"dvc exp run -S {key}={'null' if value is None else value}",
    }


def rounded(value: float) -> float:
    """Two significant digits, for values that a person types."""
    return float(f"{value:.2g}")
