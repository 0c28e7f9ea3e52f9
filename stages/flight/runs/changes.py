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
    return flatten(values)


def flatten(values: Any) -> dict[str, Any]:
    """Nested parameters by dotted name, as DVC and MLflow show them; anything but a mapping has none."""
    if not isinstance(values, dict):
        return {}
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update({f"{name}.{key}": leaf for key, leaf in flatten(value).items()} if isinstance(value, dict) else {str(name): value})
    return flat


def changed_params(run: Run, before: Run) -> dict[str, tuple[Any, Any]]:
    """Name → (value before, value now) of each parameter that differs."""
    old, new = flat_params(before), flat_params(run)
    return {name: (old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)}
