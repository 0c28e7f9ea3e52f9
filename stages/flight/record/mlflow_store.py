"""A run's journal shipped to MLflow: idempotent, in batches, from where the last shipping stopped. The only file that imports mlflow."""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.flight.record import journal, names, recorder_process
from stages.flight.record.secrets import mask
from stages.flight.record.session import RECORDS_FOLDER
from stages.flight.runs.changes import flatten
from stages.shared import files
from stages.shared.errors import ParamsError
from stages.shared.params import read_yaml

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server that does not answer is asked again by the recorder, not for minutes inside one request.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

logging.getLogger("alembic").setLevel(logging.WARNING)

# MLflow's limits for one request (mlflow/utils/validation.py).
MAX_METRICS, MAX_PARAMS, MAX_PARAM_LENGTH, MAX_TAG_LENGTH, MAX_NAME_LENGTH = 1000, 100, 6000, 8000, 250
HEARTBEAT_S = 30.0


class StoreError(Exception):
    """MLflow could not be reached, or refused; nothing is lost, and the next try goes on from the last success."""


class Store:
    """Ships the run in ``folder`` to the store that was chosen when the run began."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._connect()
        except Exception as error:  # as in ship
            raise StoreError(mask(f"{type(error).__name__}: {error}")) from error

    def _connect(self) -> None:
        self._opening = journal.read(self.folder / journal.FILE_NAME)[0][0]
        self._root = Path(self._opening["root"])
        self._uri = str(self._opening["tracking_uri"])
        if self._uri.startswith("sqlite:///"):
            _make_database(Path(self._uri.removeprefix("sqlite:///")), self._root / RECORDS_FOLDER / "mlflow.lock")
        mlflow.set_tracking_uri(self._uri)
        self._client = mlflow.MlflowClient(self._uri)
        state = files.read_json(self.folder / recorder_process.STATE_NAME) if (self.folder / recorder_process.STATE_NAME).is_file() else {}
        self._run_id: str | None = state.get("run_id")
        self._offset: int = state.get("offset", 0)
        self._is_complete: bool = state.get("complete", False)
        self._next_heartbeat = 0.0

    def ship(self) -> bool:
        """Send what is new in the journal; True once the run's end has been sent.

        Raises:
            StoreError: if MLflow does not take it; what was taken so far is remembered.
        """
        try:
            return self._ship()
        except Exception as error:  # the one boundary: whatever MLflow raises must not end the recorder
            raise StoreError(mask(f"{self._uri}: {type(error).__name__}: {error}")) from error

    def _ship(self) -> bool:
        if self._run_id is None:
            self._run_id = self._open()
            self._remember(0, complete=False)
        records, offset = journal.read(self.folder / journal.FILE_NAME, self._offset)
        for record in records:
            if record["type"] == "capture" and record["part"] == "workspace":
                self._log_capture(record["code"])
        self._log_metrics(records)
        ending = next((record for record in records if record["type"] == "end"), None)
        if ending is not None:
            self._finish(ending)
        elif time.monotonic() >= self._next_heartbeat:
            self._tag({names.TAG_HEARTBEAT: str(int(time.time()))})
            self._next_heartbeat = time.monotonic() + HEARTBEAT_S
        if records:
            self._remember(offset, complete=ending is not None)
        return self._is_complete

    def _remember(self, offset: int, *, complete: bool) -> None:
        self._offset, self._is_complete = offset, complete
        state = {"run_id": self._run_id, "offset": offset, "complete": complete, "uri": mask(self._uri)}
        files.write_json(self.folder / recorder_process.STATE_NAME, state)

    def _open(self) -> str:
        """The MLflow run of this record: the one asked for, one that an interrupted shipping has left, or a new one."""
        experiment_id = self._experiment()
        asked = self._opening["mlflow_run_id"]
        if asked and self._is_free(asked):
            self._client.set_tag(asked, names.TAG_FLIGHT_ID, self._opening["id"])
            return str(asked)
        found = self._client.search_runs([experiment_id], f"tags.`{names.TAG_FLIGHT_ID}` = '{self._opening['id']}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {
            names.TAG_FLIGHT_ID: self._opening["id"],
            names.TAG_SOURCE: mask(" ".join(Path(word).name if word.startswith("/") else word for word in self._opening["command"])),
            names.TAG_USER: _user(),
        }
        if self._opening["experiment"]:
            tags[names.TAG_DVC_EXPERIMENT] = self._opening["experiment"]
        opened = self._client.create_run(experiment_id, _milliseconds(self._opening["time"]), tags, self._opening["name"])
        return str(opened.info.run_id)

    def _is_free(self, asked: str) -> bool:
        """Whether the run asked for exists and holds no other record; else the record gets a run of its own."""
        try:
            holds = self._client.get_run(asked).data.tags.get(names.TAG_FLIGHT_ID)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            sys.stderr.write(f"FLIGHT_RUN_ID {asked} is not a run of {mask(self._uri)}\n")
            return False
        return holds in (None, self._opening["id"])

    def _experiment(self) -> str:
        name = self._opening["mlflow_experiment"]
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        embedded = (self._root / "mlruns").as_uri() if self._uri.startswith("sqlite:") else None
        try:
            return str(self._client.create_experiment(name, embedded, names.EXPERIMENT_TAGS))
        except MlflowException:  # another recorder made it in the meantime
            return str(self._client.get_experiment_by_name(name).experiment_id)

    def _log_capture(self, code: dict[str, Any]) -> None:
        tags = {names.TAG_GIT_DIRTY: str(code.get("dirty")).lower(), names.TAG_CODE_REF: code.get("ref")}
        tags[names.TAG_GIT_COMMIT] = code.get("parent")
        self._tag({name: value for name, value in tags.items() if value})
        try:
            values = read_yaml(self.folder / "params.yaml")
        except ParamsError:
            return  # the run fails for that very reason, and says so
        shown = {_valid_name(name): "null" if value is None else mask(str(value)) for name, value in flatten(values).items()}
        params = [Param(name, value[:MAX_PARAM_LENGTH]) for name, value in shown.items()]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self._run_id, params=params[start : start + MAX_PARAMS])

    def _log_metrics(self, records: Iterable[dict[str, Any]]) -> None:
        metrics = [
            Metric(_valid_name(names.metric(record["stage"], name)), float(value), _milliseconds(record["time"]), record["step"] or 0)
            for record in records
            if record["type"] == "metrics"
            for name, value in record["values"].items()
        ]
        for start in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + MAX_METRICS])

    def _tag(self, tags: dict[str, str]) -> None:
        self._client.log_batch(self._run_id, tags=[RunTag(name, value[:MAX_TAG_LENGTH]) for name, value in tags.items()])

    def _finish(self, ending: dict[str, Any]) -> None:
        verdict = files.read_json(self.folder / recorder_process.VERDICT_NAME)
        gates = self.folder / "reports/evaluate/gates.json"
        tags = {names.stage_tag(stage): state for stage, state in ending["stages"].items()}
        tags[names.TAG_VERDICT] = verdict["verdict"]
        tags[names.TAG_DESCRIPTION] = mask(self._describe(ending, verdict))
        if ending["data_version"]:
            tags[names.TAG_DATA_VERSION] = ending["data_version"]
            self._log_dataset(ending["data_version"])
        if gates.is_file():
            missed = [name for name, gate in files.read_json(gates).items() if not gate["passed"]]
            tags[names.TAG_GATES] = f"missed: {', '.join(missed)}" if missed else "passed"
        if ending["failure"]:
            tags[names.TAG_FAILURE_STAGE], tags[names.TAG_FAILURE_KIND] = ending["failure"]["stage"], ending["failure"]["kind"]
        self._tag(tags)
        # The status first: a model that cannot be logged must not leave the run RUNNING.
        self._client.set_terminated(self._run_id, ending["status"], _milliseconds(ending["time"]))
        self._log_artifacts(ending)
        if (self.folder / "model/input_example.npy").is_file():
            self._log_model(self.folder / "model")

    def _describe(self, ending: dict[str, Any], verdict: dict[str, Any]) -> str:
        lines = [verdict["sentence"], ""]
        if ending["failure"]:
            failure = ending["failure"]
            lines += [f"Failed in `{failure['stage']}` ({failure['kind']}): {failure['cause']}", ""]
        lines += [f"- {stage}: {state}" for stage, state in ending["stages"].items()]
        return "\n".join(lines)

    def _log_dataset(self, version: str) -> None:
        source = read_yaml(self.folder / "params.yaml")["ingest"]["source"]
        dataset = Dataset(name=Path(source).stem[:200], digest=version[:36], source_type="local", source=json.dumps({"uri": source}))
        self._client.log_inputs(self._run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def _log_artifacts(self, ending: dict[str, Any]) -> None:
        for folder in ("reports", "diagnosis"):
            if (self.folder / folder).is_dir():
                self._client.log_artifacts(self._run_id, str(self.folder / folder), folder)
        for name in (journal.FILE_NAME, "params.yaml", "dvc.lock", "changes.patch"):
            if (self.folder / name).is_file():
                text = (self.folder / name).read_text(encoding="utf-8", errors="replace")
                self._client.log_text(self._run_id, mask(text), f"{names.ARTIFACT_RECORD}/{name}")
        records = journal.read(self.folder / journal.FILE_NAME)[0]
        environment = next((record for record in records if record.get("part") == "environment"), {})
        self._client.log_dict(self._run_id, environment, f"{names.ARTIFACT_RECORD}/environment.json")
        if ending["failure"] and ending["failure"]["traceback"]:
            self._client.log_text(self._run_id, mask(ending["failure"]["traceback"]), "traceback.txt")

    def _log_model(self, folder: Path) -> None:
        """The classifier as an MLflow model with signature and input example; loads TensorFlow, so it comes last."""
        run = self._client.get_run(self._run_id)
        if run.outputs is not None and run.outputs.model_outputs:
            return  # an earlier try got this far

        import mlflow.tensorflow
        import numpy as np
        from mlflow.models import Model, infer_signature

        from stages.shared import model

        classifier = model.load(folder)
        example = np.load(folder / "input_example.npy").astype(np.float32)
        signature = infer_signature(example, np.asarray(classifier(example)))
        requirements = [f"{package}=={importlib.metadata.version(package)}" for package in ("keras", "numpy", "tensorflow")]
        mlflow.set_experiment(experiment_id=run.info.experiment_id)
        # mlflow.keras cannot save an input example (3.17.2), and the fluent log_model would end the run.
        Model.log(
            None,
            flavor=mlflow.tensorflow,
            name=names.MODEL_NAME,
            run_id=self._run_id,
            model=classifier,
            signature=signature,
            input_example=example,
            pip_requirements=requirements,
        )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _valid_name(name: str) -> str:
    """A name that MLflow takes for a metric or parameter; a long one ends in its own hash, so that two stay apart."""
    valid = re.sub(r"[^\w\-./ :]", "_", name, flags=re.ASCII)
    if valid == name and len(name) <= MAX_NAME_LENGTH:
        return name
    return f"{valid[: MAX_NAME_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _make_database(path: Path, lock: Path) -> None:
    """Make MLflow's SQLite file beside its place and move it there: one that is half made cannot be opened ever again."""
    with lock.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if path.exists():
            return
        with tempfile.TemporaryDirectory(dir=lock.parent) as folder:
            beside = Path(folder) / "mlflow.db"
            mlflow.MlflowClient(f"sqlite:///{beside}").search_experiments(max_results=1)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(beside, path)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
