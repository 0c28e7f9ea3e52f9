"""A run as plain data, made from its journal; of a closed run a summary is kept beside it, so that many are listed at once."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stages.flight.record import journal, lock, recorder_process
from stages.flight.record.names import metric
from stages.flight.runs.changes import read_params
from stages.shared import files

KINDS_OF_SIGNALS: dict[int, str] = {
    signal.SIGKILL: "killed",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminated",
    signal.SIGINT: "interrupted",
}
# What TensorFlow and XLA tell of themselves on standard error: dated lines of level I, W or E, which are no reason for an end.
START_UP_CHATTER = re.compile(
    r"[IWE]\d{4} \d\d:\d\d:[\d.]+ +\d+ (cuda_|port\.cc|cudart_|cpu_feature)|WARNING: All log messages before absl"
)
KILLED_KINDS = ("killed", "terminated", "interrupted", "lost")

VERDICT_FIELDS = {"verdict", "sentence", "findings", "silent", "not_applicable"}
SUMMARY_NAME = "summary.json"

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Summary:
    """What the journal says of a run; times in seconds since 1970, metrics by their MLflow name (the last value of a curve).

    ``params`` are by dotted name, ``made`` are DVC's hashes of the outs by stage and path, ``inputs`` those of code and frozen images by
    path, ``commit`` is git's of the code; ``serves_another`` is a run that repeats another, or lies between two.
    """

    id: str
    name: str
    experiment: str | None
    host: str
    started: float
    ended: float | None
    status: str
    stages: dict[str, str]
    failure: dict[str, Any] | None
    metrics: dict[str, float]
    params: dict[str, Any]
    made: dict[str, dict[str, str]]
    inputs: dict[str, str]
    commit: str | None
    is_live: bool
    serves_another: bool


@dataclass(frozen=True)
class Run(Summary):
    """A run, where its record lies, and how far it has got on its way to MLflow."""

    folder: Path
    mlflow_run_id: str | None
    is_shipped: bool
    problem: str | None

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
        summary = _summary(folder)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UnreadableRecordError(f"{folder} holds no readable record ({type(error).__name__}: {error}).") from error
    shipped = recorder_process.state(folder)
    return Run(
        **{field.name: getattr(summary, field.name) for field in fields(Summary)},
        folder=folder,
        mlflow_run_id=shipped["run_id"],
        is_shipped=recorder_process.is_shipped(folder),
        problem=shipped["problem"],
    )


def keep_summary(folder: Path) -> None:
    """Summarise a run that has just been closed, so that listing it costs little."""
    _summary(folder)


def _summary(folder: Path) -> Summary:
    """The summary kept, if it is of the journal as it is now; else a new one, kept once the run is closed."""
    status = (folder / journal.FILE_NAME).stat()
    key = [status.st_size, status.st_mtime_ns]
    kept = _read_json(folder / SUMMARY_NAME)
    if kept is not None and kept.get("journal") == key and kept["run"].keys() == {field.name for field in fields(Summary)}:
        return Summary(**kept["run"])
    summary = _summarise(folder, journal.read_run(folder))
    if summary.ended is not None:
        with contextlib.suppress(OSError):  # a folder that is not ours to write to is read all the same
            files.write_text(folder / SUMMARY_NAME, json.dumps({"journal": key, "run": asdict(summary)}, default=str))
    return summary


def _summarise(folder: Path, records: Records) -> Summary:
    opening, closing = records[0], end(records)
    locked = lock.read_stages(folder / "dvc.lock")
    code: dict[str, Any] = next((record["code"] for record in records if record.get("part") == "workspace"), {})
    return Summary(
        id=opening["id"],
        name=next((record["name"] for record in reversed(records) if record["type"] == "name"), opening["experiment"] or opening["id"]),
        experiment=opening["experiment"],
        host=opening["host"],
        started=opening["time"],
        ended=closing["time"] if closing else None,
        status=closing["status"] if closing else "RUNNING",
        stages=closing["stages"] if closing else _states_so_far(records),
        failure=closing["failure"] if closing else failure(records),
        metrics=last_metrics(records),
        params=read_params(folder),
        made=lock.outs(locked),
        inputs=lock.inputs(locked),
        commit=code.get("commit"),
        is_live=closing is None and recorder_process.is_live(opening, folder),
        serves_another=journal.serves_another(records),
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


def has_failed(ending: dict[str, Any]) -> bool:
    """Whether the record of a stage's end tells of a failure."""
    return ending["exit_code"] != 0 or "kind" in ending


def failure(records: Records) -> dict[str, Any] | None:
    """The first stage that failed: ``stage``, ``kind``, ``cause`` in words, and ``traceback`` (or None)."""
    orphans = {record["stage"] for record in records if record["type"] == "orphan"}  # DVC has not seen how they ended
    endings = [record for record in records if record["type"] == "stage-end"]
    ending = next((record for record in endings if has_failed(record) or record["stage"] in orphans), None)
    if ending is None:
        return None
    of_stage = [record for record in records if record.get("stage") == ending["stage"]]
    kind, cause, trace = _explain(ending, {record["type"]: record for record in reversed(of_stage)})
    return {"stage": ending["stage"], "kind": kind, "cause": cause, "traceback": trace}


def _explain(ending: dict[str, Any], first: dict[str, dict[str, Any]]) -> tuple[str, str, str | None]:
    """Kind, cause and traceback, from the stage's first record of each type; the surest witness is heard first."""
    told = first.get("failure")
    trace = told["traceback"] if told else ending.get("last_lines", "").strip() or None
    words = f"{told['error']}: {_message(told)}".strip() if told else _last_line(ending)
    # The count is of a group of processes: the stage's own exception says more.
    if ending.get("oom_kills") and told is None:
        quoted = words if journal.OUT_OF_MEMORY.search(words) else "SIGKILL"
        return "out-of-memory", f"the system killed it, or a process of it, for lack of memory ({quoted})", trace
    if "orphan" in first:
        return first["orphan"].get("kind", "terminated"), first["orphan"]["cause"], None
    # A library may turn the signal into an exception of its own, above all while it is loaded.
    number = first["signal"]["signal"] if "signal" in first else ending["signal"]
    if "signal" not in first and told is not None:
        return told["kind"], words, trace
    if journal.OUT_OF_MEMORY.search(ending.get("last_lines", "")) and "signal" not in first:
        return "out-of-memory", words, trace
    if "kind" in ending:
        return ending["kind"], ending["cause"], trace
    if number is not None:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        kind = KINDS_OF_SIGNALS.get(number, "exception")
        return kind, f"ended by {name}" + (f": {words}" if kind == "exception" and words else ""), trace
    return "exception", f"exit code {ending['exit_code']}: {words or 'and wrote nothing to standard error'}", trace


def _message(told: dict[str, Any]) -> str:
    """The message of an exception; where TensorFlow tells the graph's whole story, the line that says what could not be allocated."""
    lines = told["message"].splitlines() if told["kind"] == "out-of-memory" else []
    return next((line.strip() for line in lines if journal.OUT_OF_MEMORY.search(line)), str(told["message"]))


def _last_line(ending: dict[str, Any]) -> str:
    lines = [line for line in ending.get("last_lines", "").strip().splitlines() if not START_UP_CHATTER.match(line)]
    memory = [line for line in lines if journal.OUT_OF_MEMORY.search(line)]
    return str((memory or lines or [""])[-1]).strip()


def status(failed: dict[str, Any] | None) -> str:
    """MLflow's status: FINISHED, FAILED (its own doing), KILLED (ended from outside)."""
    if failed is None:
        return "FINISHED"
    return "KILLED" if failed["kind"] in KILLED_KINDS else "FAILED"


def _states_so_far(records: Records) -> dict[str, str]:
    states = {record["stage"]: "running" for record in records if record["type"] == "stage-start"}
    ended = {record["stage"]: "failed" if has_failed(record) else "ran" for record in records if record["type"] == "stage-end"}
    return {**states, **ended}


def _read_json(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None
