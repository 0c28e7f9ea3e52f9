"""A run as plain data, made from its journal."""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.flight.record import journal, recorder_process
from stages.flight.record.names import metric
from stages.flight.record.session import Identity

KINDS_OF_SIGNALS = {signal.SIGKILL: "killed", signal.SIGTERM: "terminated", signal.SIGHUP: "terminated", signal.SIGINT: "interrupted"}
KILLED_KINDS = ("killed", "terminated", "interrupted", "lost")

VERDICT_FIELDS = {"verdict", "sentence", "findings", "silent", "not_applicable"}

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
    mlflow_run_id: str | None
    is_live: bool

    def verdict(self) -> dict[str, Any] | None:
        """The content of verdict.json, if the run has been diagnosed."""
        found = _read_json(self.folder / recorder_process.VERDICT_NAME)
        return found if found is not None and found.keys() >= VERDICT_FIELDS else None


class UnreadableRecordError(Exception):
    """The folder of a run holds no journal that can be read."""


def from_folder(folder: Path) -> Run:
    """The run recorded in ``folder``.

    Raises:
        UnreadableRecordError: if its journal is absent, or not one of a run.
    """
    try:
        return _from_records(folder, journal.read(folder / journal.FILE_NAME)[0])
    except (OSError, KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
        raise UnreadableRecordError(f"{folder} holds no readable record ({type(error).__name__}: {error}).") from error


def _from_records(folder: Path, records: Records) -> Run:
    opening = next(record for record in records if record["type"] == "run")
    closing = end(records)
    shipped = _read_json(folder / recorder_process.STATE_NAME) or {}
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
        mlflow_run_id=shipped.get("run_id"),
        is_live=closing is None and Identity(**opening["anchor"]).process() is not None,
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
    cause = next((record["cause"] for record in records if record["type"] == "orphan" and record["stage"] == stage), ending.get("cause"))
    # A library may turn the signal into an exception of its own, above all while it is loaded.
    asked = next((record["signal"] for record in records if record["type"] == "signal" and record["stage"] == stage), None)
    told = next((record for record in records if record["type"] == "failure" and record["stage"] == stage), None)
    if asked is None and told is not None:
        return {
            "stage": stage,
            "kind": told["kind"],
            "cause": f"{told['error']}: {told['message']}".strip(),
            "traceback": told["traceback"],
        }
    if "kind" in ending:  # written by the recorder
        return {"stage": stage, "kind": ending["kind"], "cause": cause, "traceback": None}
    number = asked or ending["signal"]
    if number is not None:
        kind = "terminated" if cause else KINDS_OF_SIGNALS.get(signal.Signals(number), "exception")
        return {"stage": stage, "kind": kind, "cause": cause or f"ended by {signal.Signals(number).name}", "traceback": None}
    last_lines = ending["last_lines"].strip()
    told_last = last_lines.splitlines()[-1] if last_lines else "and wrote nothing to standard error"
    return {"stage": stage, "kind": "exception", "cause": f"exit code {ending['exit_code']}: {told_last}", "traceback": last_lines or None}


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
