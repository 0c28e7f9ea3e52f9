"""What a rule can answer: a finding, silence (None), or that a signal was missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from stages.shared.evidence import Evidence, Number
from stages.shared.params import Params

Fix = tuple[dict[str, Any], ...]


class Finding(BaseModel):
    """A fault with its evidence (numbers by name), an explanation in a sentence, and the changes that should mend it.

    ``score`` is the chance that this is the cause; 1 until ``judge`` has weighed it against the others.
    """

    model_config = ConfigDict(frozen=True)

    fault: str
    score: float = 1.0
    severity: Literal["critical", "warning"] = "warning"
    evidence: dict[str, int | Number | str]
    explanation: str
    fix: Fix


@dataclass(frozen=True)
class Missing:
    """The rule could not look, for want of this signal."""

    signal: str


Rule = Callable[[Evidence, Params | None], Finding | Missing | None]


def name_of(rule: Rule) -> str:
    """The fault that a rule looks for, as it is written: ``class-imbalance``."""
    return rule.__name__.replace("_", "-")


def changes(params: Params | None, values: Mapping[str, Any]) -> Fix:
    """A fix by parameters: each with its present value, and the one command that tries them together.

    What is so already is left out; without ``params`` present values are not known.
    """
    present = {name: _value(params, name) for name in values}
    left = {name: value for name, value in values.items() if params is None or present[name] != value}
    command = " ".join(["dvc exp run", *(f"-S {name}={_written(value)}" for name, value in left.items())])
    return tuple({"param": name, "from": present[name], "to": value, "command": command} for name, value in left.items())


def action(text: str) -> Fix:
    """A fix that no parameter can make."""
    return ({"action": text},)


def sentence(words: str) -> str:
    """Someone else's words with a full stop, so that what follows begins anew; none of none."""
    return words.rstrip() + ("" if words.rstrip().endswith((".", "!", "?", ":")) or not words.strip() else ".")


def _value(params: Params | None, name: str) -> Any:
    found: Any = params
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _written(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def rounded(value: float) -> float:
    """Two significant digits, for values that a person types."""
    return float(f"{value:.2g}")
