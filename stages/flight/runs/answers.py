"""What the commands answer, as plain values: the table and ``--json`` are both made from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from stages.flight.record import journal
from stages.flight.runs import speed
from stages.flight.runs.changes import changed
from stages.flight.runs.run import Run

# What a terminal takes for a command, or for the direction of writing; not the ends of lines, and tabs.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
COLOURS = {"FINISHED": "green", "RUNNING": "cyan", "FAILED": "red", "KILLED": "yellow"}  # of a status on a terminal


def runs(recorded: Sequence[Run], limit: int) -> list[dict[str, Any]]:
    """A row for each of the newest ``limit`` runs; ``changed`` compares with the run before."""
    before = [next((other for other in recorded[i + 1 :] if not other.serves_another), None) for i in range(min(limit, len(recorded)))]
    return [_row(run, previous) for run, previous in zip(recorded, before, strict=False)]


def _row(run: Run, previous: Run | None) -> dict[str, Any]:
    differing = changed(previous.params, run.params) if previous is not None else {}
    verdict = run.verdict()
    return {
        "id": run.id,
        "name": run.name,
        "mlflow_run_id": run.mlflow_run_id,
        "status": run.status,
        "verdict": verdict["verdict"] if verdict else None,
        "accuracy": run.metrics.get("evaluate/accuracy"),
        "started": run.started,
        "ended": run.ended,
        "stages": run.stages,
        "changed": [{"param": name, "from": old, "to": new} for name, (old, new) in differing.items()],
    }


def why(run: Run) -> dict[str, Any]:
    """The verdict of a run, with who it belongs to and how it ended."""
    verdict = run.verdict() or {
        "verdict": "unknown",
        "sentence": f"unknown: the run is {run.status.lower()}, and there is no diagnosis of it yet.",
        "findings": [],
        "silent": [],
        "not_applicable": {},
    }
    page = run.folder / "diagnosis/index.html"
    return {
        **verdict,
        "run_id": run.id,
        "mlflow_run_id": run.mlflow_run_id,
        "status": run.status,
        "failure": {name: run.failure[name] for name in ("stage", "kind", "cause")} if run.failure else None,
        "speed": _speed(run),
        "page": str(page) if page.is_file() else None,
    }


def _speed(run: Run) -> list[dict[str, Any]]:
    """What the journal tells of speed; nothing, if it is not as this version writes it."""
    path = run.folder / journal.FILE_NAME
    try:
        return speed.findings(journal.read(path)[0], run.params)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        return []


def printable(value: Any) -> Any:
    """A JSON value whose texts, which may come from anywhere, do nothing to a terminal but appear on it."""
    if isinstance(value, str):
        return UNPRINTABLE.sub("", value)
    if isinstance(value, dict):
        return {printable(name): printable(item) for name, item in value.items()}
    return [printable(item) for item in value] if isinstance(value, list | tuple) else value
