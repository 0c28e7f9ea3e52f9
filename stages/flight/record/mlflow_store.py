"""A run's journal shipped to MLflow: idempotent, in batches, from where the last shipping stopped."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from stages.flight.record import description, experiment, journal, names, recorder_process
from stages.flight.record.address import SQLITE
from stages.flight.record.lock import read_stages
from stages.flight.record.secrets import mask, mask_lines, mask_named, mask_values
from stages.flight.runs.changes import read_params

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The recorder itself asks again, later; a request that is repeated at once while a server hangs would be carried out twice.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

logging.getLogger("alembic").setLevel(logging.WARNING)

# MLflow's limits for one request (mlflow/utils/validation.py).
MAX_METRICS, MAX_PARAMS, MAX_TAGS, MAX_PARAM_LENGTH, MAX_TAG_LENGTH = 1000, 100, 100, 6000, 8000
# MLflow's words when a request gets no answer, or none that is of use.
NO_ANSWER = "failed with exception"
# Split → what MLflow calls its use.
CONTEXTS = {"train": "training", "val": "validation", "test": "testing"}


class StoreError(Exception):
    """MLflow could not be reached, or refused; nothing is lost, and the next try goes on from the last success."""


class Store:
    """Ships the run in ``folder`` to the store that was chosen when the run began, or since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        records = journal.read_run(folder)
        self._opening = records[0]
        self._root = folder.resolve().parents[2]
        self._uri = journal.address(records)
        self._next_heartbeat = 0.0
        try:
            self._connect()
        except Exception as error:  # as in ship
            raise self._as_store_error(error) from error

    def _connect(self) -> None:
        if self._uri.startswith(SQLITE):
            _make_database(Path(self._uri.removeprefix(SQLITE)))
        mlflow.set_tracking_uri(self._uri)
        self._client = mlflow.MlflowClient(self._uri)
        state = recorder_process.state(self.folder)
        self._run_id: str | None = state["run_id"]
        self._offset: int = state["offset"]

    def ship(self) -> bool:
        """Send what is new in the journal; True once the run's end has been sent, or nobody wants it any more.

        Raises:
            StoreError: if MLflow does not take it; what was taken so far is remembered.
        """
        try:
            return self._ship()
        except Exception as error:  # the one boundary: whatever MLflow raises must not end the recorder
            if self._is_deleted(error):
                problem = f"the run {self._run_id} was deleted in {mask(self._uri)}, so no more is shipped"
                recorder_process.remember(self.folder, complete=True, dropped=True, problem=problem)
                return True
            raise self._as_store_error(error) from error

    def _as_store_error(self, error: Exception) -> StoreError:
        problem = mask(f"{self._uri} did not take the run ({type(error).__name__}: {reason_of(str(error))})")
        recorder_process.remember(self.folder, problem=problem, unreachable=NO_ANSWER in str(error))
        return StoreError(problem)

    def _is_deleted(self, error: Exception) -> bool:
        if self._run_id is None or not (isinstance(error, MlflowException) and "'active' state" in str(error)):
            return False
        return bool(self._client.get_run(self._run_id).info.lifecycle_stage == "deleted")

    def _ship(self) -> bool:
        if self._run_id is None:
            self._run_id = self._open()
            recorder_process.remember(self.folder, run_id=self._run_id, uri=mask(self._uri))
        records, offset = journal.read(self.folder / journal.FILE_NAME, self._offset)
        for record in records:
            if record["type"] == "capture" and record["part"] == "workspace":
                self._log_capture(record["code"])
            elif record["type"] == "comparison" and self._is_own_file(record["page"]):
                self._client.log_artifact(self._run_id, str(self.folder / record["page"]), str(Path(record["page"]).parent))
        self._tag(_live_tags(records))
        self._log_metrics(records)
        ending = next((record for record in records if record["type"] == "end"), None)
        is_over = ending is not None or recorder_process.state(self.folder)["complete"]  # to a run that has ended something is added
        if ending is not None:
            self._finish(ending)
        elif not is_over and time.monotonic() >= self._next_heartbeat:
            self._show_life()
        if records or self._next_heartbeat == 0.0:
            recorder_process.remember(self.folder, offset=offset, complete=is_over, problem=None)
            self._offset = offset
        return is_over

    def _is_own_file(self, name: str) -> bool:
        path = (self.folder / name).resolve()
        return path.is_file() and path.is_relative_to(self.folder.resolve())

    def _show_life(self) -> None:
        self._next_heartbeat = time.monotonic() + recorder_process.HEARTBEAT_S
        self._tag({names.TAG_HEARTBEAT: str(int(time.time()))})
        if self._client.get_run(self._run_id).info.status != "RUNNING":  # another machine took it for lost, or it was asked for
            self._client.update_run(self._run_id, status="RUNNING")
            self._forget_failure()
        recorder_process.remember(self.folder, problem=None)

    def _forget_failure(self) -> None:
        known = self._client.get_run(self._run_id).data.tags
        for name in (names.TAG_FAILURE_STAGE, names.TAG_FAILURE_KIND):
            if name in known:
                self._client.delete_tag(self._run_id, name)

    def _open(self) -> str:
        """The MLflow run of this record: the one asked for, one that an interrupted shipping has left, or a new one."""
        experiment_id = self._experiment()
        asked = self._opening["mlflow_run_id"]
        if asked and self._is_free(asked):
            self._client.set_tag(asked, names.TAG_FLIGHT_ID, self._opening["id"])
            return str(asked)
        found = self._runs_of_this_record(experiment_id)
        if found:
            return found[0]
        tags = {
            names.TAG_FLIGHT_ID: self._opening["id"],
            names.TAG_HOST: self._opening["host"],
            names.TAG_SOURCE: mask(" ".join(Path(word).name if word.startswith("/") else word for word in self._opening["command"])),
            names.TAG_USER: _user(),
            names.TAG_DESCRIPTION: description.while_running(self._opening["stage"], self._opening["time"]),
        }
        if self._opening["experiment"]:
            tags[names.TAG_DVC_EXPERIMENT] = self._opening["experiment"]
        name = self._opening["experiment"] or self._opening["id"]
        return str(self._client.create_run(experiment_id, _milliseconds(self._opening["time"]), tags, name).info.run_id)

    def _runs_of_this_record(self, experiment_id: str) -> list[str]:
        found = self._client.search_runs([experiment_id], f"tags.`{names.TAG_FLIGHT_ID}` = '{self._opening['id']}'")
        return sorted(str(run.info.run_id) for run in found)

    def _is_free(self, asked: str) -> bool:
        """Whether the run asked for exists and holds no other record; else the record gets a run of its own."""
        try:
            found = self._client.get_run(asked)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return self._refuse(asked, "there is no such run")
        if found.info.lifecycle_stage == "deleted":
            return self._refuse(asked, "that run was deleted")
        holds = found.data.tags.get(names.TAG_FLIGHT_ID)
        return holds in (None, self._opening["id"]) or self._refuse(asked, f"it holds the record of {holds}")

    def _refuse(self, asked: str, reason: str) -> bool:
        notice = f"FLIGHT_RUN_ID is {asked}, but {reason}, so this run has one of its own"
        recorder_process.remember(self.folder, notice=notice)
        return False

    def _experiment(self) -> str:
        name = self._opening["mlflow_experiment"]
        found = self._client.get_experiment_by_name(name)
        if found is None:
            embedded = (self._root / "mlruns").as_uri() if self._uri.startswith("sqlite:") else None
            try:
                return self._with_view(self._client.get_experiment(self._client.create_experiment(name, embedded, experiment.TAGS)))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:  # else another recorder has made it at this moment
                    raise
        return self._with_view(found)

    def _with_view(self, found: Any) -> str:
        if experiment.VIEW_TAG not in found.tags:
            created_ms = _milliseconds(self._opening["time"])
            self._client.set_experiment_tag(found.experiment_id, experiment.VIEW_TAG, experiment.saved_view(created_ms))
        return str(found.experiment_id)

    def _log_capture(self, code: dict[str, Any]) -> None:
        tags = {names.TAG_GIT_DIRTY: str(code.get("dirty")).lower(), names.TAG_CODE_REF: code.get("ref")}
        tags[names.TAG_GIT_COMMIT] = code.get("parent")
        self._tag({name: value for name, value in tags.items() if value})
        masked = {name: "null" if value is None else mask_named(name, str(value)) for name, value in read_params(self.folder).items()}
        self._log("params", [Param(names.valid(name), value[:MAX_PARAM_LENGTH]) for name, value in masked.items()], MAX_PARAMS)

    def _log_metrics(self, records: Iterable[dict[str, Any]]) -> None:
        metrics = [
            Metric(names.valid(names.metric(record["stage"], name)), float(value), _milliseconds(record["time"]), record["step"] or 0)
            for record in records
            if record["type"] == "metrics"
            for name, value in record["values"].items()
        ]
        self._log("metrics", metrics, MAX_METRICS)

    def _tag(self, tags: dict[str, str]) -> None:
        self._log("tags", [RunTag(name, value[:MAX_TAG_LENGTH]) for name, value in tags.items()], MAX_TAGS)

    def _log(self, kind: str, entities: Sequence[Any], most: int) -> None:
        """Send in batches; of one that is refused as invalid, each half, so that a single bad value costs only itself."""
        for start in range(0, len(entities), most):
            batch = entities[start : start + most]
            try:
                self._client.log_batch(self._run_id, **{kind: batch})
            except MlflowException as error:
                if error.error_code != "INVALID_PARAMETER_VALUE" or "'active' state" in str(error):
                    raise
                if len(batch) == 1:
                    sys.stderr.write(f"MLflow refused {kind[:-1]} {batch[0].key}: {error}\n")
                else:
                    self._log(kind, batch, (len(batch) + 1) // 2)

    def _finish(self, ending: dict[str, Any]) -> None:
        records = journal.read_run(self.folder)
        name = next((record["name"] for record in reversed(records) if record["type"] == "name"), self._opening["id"])
        self._forget_failure()
        self._tag(description.tags_of_ended(self.folder, name, ending))
        # The status first: an artifact that cannot be stored must not leave the run RUNNING.
        self._client.set_terminated(self._run_id, ending["status"], _milliseconds(ending["time"]))
        self._delete_duplicates()
        self._log_datasets(records)
        self._log_artifacts(records, ending)
        if (self.folder / "model/input_example.npy").is_file() and not journal.serves_another(records):  # else it could become the champion
            from stages.flight.record import mlflow_model

            mlflow_model.log(self._client, str(self._run_id), self.folder, Path(self._opening["workspace"]))

    def _delete_duplicates(self) -> None:
        """A server that hung may have carried out, later, a request that was given up and repeated."""
        experiment_id = self._client.get_run(self._run_id).info.experiment_id
        for run_id in self._runs_of_this_record(experiment_id):
            if run_id != self._run_id:
                self._client.delete_run(run_id)

    def _log_datasets(self, records: list[dict[str, Any]]) -> None:
        """The images as they came, and each split as trained on; the digests are DVC's hashes."""
        locked = read_stages(self.folder / "dvc.lock")
        hashes = {item["path"]: item["md5"] for entry in locked.values() for item in (*entry.get("outs", []), *entry.get("deps", []))}
        source = str(read_params(self.folder).get("ingest.source"))
        if "data/raw" not in hashes:
            return
        counts = {name: value for record in records if record["type"] == "metrics" for name, value in record["values"].items()}
        wanted = [("", "data/raw", "source", "num_files")]
        wanted += [(f" {split}", f"data/prepared/{split}", context, f"num_{split}") for split, context in CONTEXTS.items()]
        inputs = []
        for suffix, path, context, count in wanted:
            if path in hashes:
                profile = json.dumps({"num_images": counts[count]}) if count in counts else None
                place = json.dumps({"uri": mask(source)})
                dataset = Dataset(f"{Path(source).stem[:200]}{suffix}", hashes[path][:36], "local", place, profile=profile)
                inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        self._client.log_inputs(self._run_id, inputs)

    def _log_artifacts(self, records: list[dict[str, Any]], ending: dict[str, Any]) -> None:
        for folder in ("reports", "diagnosis", "previews", "moment"):
            if (self.folder / folder).is_dir():
                self._client.log_artifacts(self._run_id, str(self.folder / folder), folder)
        for name in (journal.FILE_NAME, "params.yaml", "dvc.lock", "changes.patch"):
            if (self.folder / name).is_file():
                text = (self.folder / name).read_text(encoding="utf-8", errors="replace")
                masked = mask_lines(text) if name == journal.FILE_NAME else mask(text)
                self._client.log_text(self._run_id, masked, f"{names.ARTIFACT_RECORD}/{name}")
        environment = next((record for record in records if record.get("part") == "environment"), {})
        found = {record["stage"]: record["values"] for record in records if record["type"] == "setting"}
        self._client.log_dict(self._run_id, mask_values({**environment, "stages": found}), f"{names.ARTIFACT_RECORD}/environment.json")
        if ending["failure"] and ending["failure"]["traceback"]:
            self._client.log_text(self._run_id, mask(ending["failure"]["traceback"]), "traceback.txt")


def _live_tags(records: list[dict[str, Any]]) -> dict[str, str]:
    """What the newest records change in how the run is shown; the last one counts."""
    tags: dict[str, str] = {}
    for record in records:
        if record["type"] == "name":
            tags[names.TAG_RUN_NAME] = mask(record["name"])
        elif record["type"] == "stage-start":
            tags[names.TAG_DESCRIPTION] = description.while_running(record["stage"], record["time"])
        elif record["type"] == "resumed":
            tags[names.TAG_RESUMED] = record["run"]
        elif record["type"] == "replay":
            known = {names.TAG_REPLAY_OF: record.get("of"), names.TAG_REPLAY_LEVEL: record.get("level")}
            tags |= {name: str(value) for name, value in known.items() if value}
        elif record["type"] == "hybrid":
            tags[names.TAG_HYBRID_OF] = " ".join(record["of"])
            tags[names.TAG_HYBRID_SWITCHED] = ", ".join(record["switched"])
    return tags


def reason_of(text: str) -> str:
    """The innermost reason that an error of the network names, or its first line."""
    reason = re.findall(r"(?:\[Errno -?\d+\] [\w ]+|timed out|Name or service not known)", text)
    return reason[-1] if reason else text.split("\n")[0][:300]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _make_database(path: Path) -> None:
    """Make MLflow's SQLite file beside its place and link it there, unless another recorder was first.

    One that is half made can never be opened again, and one that is replaced loses what was written to it.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}") as folder:
        beside = Path(folder) / "mlflow.db"
        mlflow.MlflowClient(f"{SQLITE}{beside}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
