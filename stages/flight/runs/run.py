"""A run as plain data, made from its journal."""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.flight.record import journal
from stages.flight.record.names import metric

STAGES = ("ingest", "validate", "prepare", "augment", "train", "evaluate", "diagnose")
KINDS_OF_SIGNALS = {signal.SIGKILL: "killed", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated", signal.SIGINT: "interrupted"}
KILLED_KINDS = ("killed", "terminated", "interrupted", "lost")

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """What is known of a run; times in seconds since 1970, metrics by their MLflow name (the last value of a curve)."""

    id: str
    name: str
    folder: Path
    started: float
    ended: float | None
    status: str
    stages: dict[str, str]
    failure: dict[str, Any] | None
    metrics: dict[str, float]
    code: dict[str, Any]
    mlflow_run_id: str | None

    def verdict(self) -> dict[str, Any] | None:
        """The content of verdict.json, if the run has been diagnosed."""
        return _read_json(self.folder / "diagnosis/verdict.json")


def from_folder(folder: Path) -> Run | None:
    """The run recorded in ``folder``; None if its journal holds no opening record."""
    try:
        records, _ = journal.read(folder / journal.FILE_NAME)
    except OSError:
        return None
    opening = next((record for record in records if record["type"] == "run"), None)
    if opening is None:
        return None
    closing = end(records)
    shipped = _read_json(folder / "mlflow.json") or {}
    return Run(
        id=opening["id"],
        name=opening["name"],
        folder=folder,
        started=opening["time"],
        ended=closing["time"] if closing else None,
        status=closing["status"] if closing else "RUNNING",
        stages=closing["stages"] if closing else _states_so_far(records),
        failure=closing["failure"] if closing else failure(records),
        metrics=last_metrics(records),
        code=next((record["code"] for record in records if record.get("part") == "workspace"), {}),
        mlflow_run_id=shipped.get("run_id"),
    )


def end(records: Records) -> dict[str, Any] | None:
    """The closing record, if the run has one."""
    return next((record for record in reversed(records) if record["type"] == "end"), None)


def last_metrics(records: Records) -> dict[str, float]:
    """The last value of each metric, by its MLflow name."""
    return {
        metric(record["stage"], name): value
        for record in records
        if record["type"] == "metrics"
        for name, value in record["values"].items()
    }


def running_stage(records: Records) -> dict[str, Any] | None:
    """The start record of a stage that has not ended."""
    last = next((record for record in reversed(records) if record["type"] in ("stage-start", "stage-end")), None)
    return last if last is not None and last["type"] == "stage-start" else None


def failure(records: Records) -> dict[str, Any] | None:
    """The first stage that failed: ``stage``, ``kind``, ``cause`` in words, and ``traceback`` (or None)."""
    ending = next((record for record in records if record["type"] == "stage-end" and record["exit_code"] != 0), None)
    if ending is None:
        return None
    stage = ending["stage"]
    orphan = next((record["cause"] for record in records if record["type"] == "orphan" and record["stage"] == stage), None)
    cause = orphan or ending.get("cause")
    told = next((record for record in records if record["type"] == "failure" and record["stage"] == stage), None)
    if told is not None:
        first_lines = f"{told['error']}: {told['message']}".strip()
        return {"stage": stage, "kind": told["kind"], "cause": first_lines, "traceback": told["traceback"]}
    if ending["signal"] is not None:
        number = signal.Signals(ending["signal"])
        kind = "terminated" if cause else KINDS_OF_SIGNALS.get(number, "exception")
        return {"stage": stage, "kind": kind, "cause": cause or f"ended by {number.name}", "traceback": None}
    if ending["exit_code"] is None:
        return {"stage": stage, "kind": ending.get("kind", "lost"), "cause": cause or "its end was not recorded", "traceback": None}
    return {"stage": stage, "kind": "exception", "cause": f"exit code {ending['exit_code']} without an exception", "traceback": None}


def status(failed: dict[str, Any] | None) -> str:
    """MLflow's status: FINISHED, FAILED (its own doing), KILLED (ended from outside)."""
    if failed is None:
        return "FINISHED"
    return "KILLED" if failed["kind"] in KILLED_KINDS else "FAILED"


def _states_so_far(records: Records) -> dict[str, str]:
    states = {record["stage"]: "running" for record in records if record["type"] == "stage-start"}
    ended = {record["stage"]: "ran" if record["exit_code"] == 0 else "failed" for record in records if record["type"] == "stage-end"}
    return {**states, **ended}


def _read_json(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None
