"""Which parameters differ between two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.shared.errors import ParamsError
from stages.shared.params import read_yaml


def read_params(folder: Path) -> dict[str, Any]:
    """The parameters of the run in ``folder`` by dotted name; none if its params.yaml cannot be read."""
    return flatten(plain_params(folder))


def plain_params(folder: Path) -> dict[str, Any]:
    """The parameters that the run began with, nested and unchecked; none if its params.yaml cannot be read."""
    try:
        values = read_yaml(folder / "params.yaml")
    except ParamsError:
        return {}
    return values if isinstance(values, dict) else {}


def flatten(values: Any) -> dict[str, Any]:
    """Nested parameters by dotted name, as DVC and MLflow show them; anything but a mapping has none."""
    if not isinstance(values, dict):
        return {}
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update({f"{name}.{key}": leaf for key, leaf in flatten(value).items()} if isinstance(value, dict) else {str(name): value})
    return flat


def changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Name → (value before, value now) of each parameter that differs."""
    return {name: (old.get(name), new.get(name)) for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)}


def shown(value: Any) -> str:
    """A parameter's value as params.yaml has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
