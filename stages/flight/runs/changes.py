"""Which parameters differ between two runs."""

from __future__ import annotations

from typing import Any

from stages.flight.runs.run import Run
from stages.shared.errors import ParamsError
from stages.shared.params import read_yaml


def flat_params(run: Run) -> dict[str, Any]:
    """The run's parameters by dotted name; none if its params.yaml cannot be read."""
    try:
        values = read_yaml(run.folder / "params.yaml")
    except ParamsError:
        return {}
    return dict(_flatten(values, "")) if isinstance(values, dict) else {}


def _flatten(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found.extend(_flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)])
    return found


def changed_params(run: Run, before: Run) -> dict[str, tuple[Any, Any]]:
    """Name → (value before, value now) of each parameter that differs."""
    old, new = flat_params(before), flat_params(run)
    return {name: (old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)}
