"""What the commands answer, as plain values: the table and ``--json`` are both made from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.flight.runs.changes import changed
from stages.flight.runs.run import Run


def runs(recorded: Sequence[Run], limit: int) -> list[dict[str, Any]]:
    """A row for each of the newest ``limit`` runs; ``changed`` compares with the run before."""
    before: list[Run | None] = [*recorded[1:], None]
    return [_row(run, previous) for run, previous in zip(recorded[:limit], before, strict=False)]


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
        "speed": [],
        "page": str(page) if page.is_file() else None,
    }
