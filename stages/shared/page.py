"""Self-contained HTML pages: templates and charts, everything inline and escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "pages"


def render(template: str | Path, **content: Any) -> str:
    """Fill a template of ``stages/shared/pages`` (or elsewhere, by its path); every value is escaped, an unknown name is an error."""
    path = TEMPLATES / template
    environment = Environment(
        loader=FileSystemLoader((path.parent, TEMPLATES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = chart_points
    environment.filters["shown"] = shown
    return environment.get_template(path.name).render(**content)


def shown(value: Any) -> str:
    """A parameter or a figure as a person writes it: three digits, ``true``, ``null``."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def chart_points(values: Sequence[float | None], low: float, high: float, width: float, height: float) -> str:
    """The ``points`` of an SVG polyline for values at equal distances; values that are missing or not finite are left out."""
    step = width / max(len(values) - 1, 1)
    span = (high - low) or 1.0
    finite = [(i, value) for i, value in enumerate(values) if value is not None and low <= value <= high]
    return " ".join(f"{i * step:.1f},{height - (value - low) / span * height:.1f}" for i, value in finite)
