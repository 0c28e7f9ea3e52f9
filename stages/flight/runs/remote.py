"""Runs of other machines, as an MLflow server has them; what ``flight why`` needs is kept in ``.flight/others/<MLflow id>/``.

Whatever a server answers may be wrong, cut off or meant to do harm. So ids and every value that is used are checked, only
files with names of our own are asked for and written, and a page that another machine has made is not taken at all.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from stages.flight.record import address, journal, names, recorder_process
from stages.flight.runs.foreign import Status, checked, checked_verdict
from stages.flight.runs.index import UnknownRunError
from stages.flight.runs.run import Run, UnreadableRecordError, end, from_folder
from stages.flight.runs.server import Server, ServerError
from stages.shared import files

OTHERS = "others"
MAX_MATCHES = 6

Id = Annotated[str, Field(pattern=r"^[0-9a-zA-Z-]{1,64}$")]


class _Info(BaseModel):
    run_id: Id
    run_name: str = ""
    status: Status
    start_time: int
    end_time: int | None = None


class _Text(BaseModel):
    key: str
    value: str


class _Metric(BaseModel):
    key: str
    value: float


class _Data(BaseModel):
    metrics: tuple[_Metric, ...] = ()
    params: tuple[_Text, ...] = ()
    tags: tuple[_Text, ...] = ()


class _Found(BaseModel):
    """A run as the server tells of it."""

    info: _Info
    data: _Data = _Data()

    def tags(self) -> dict[str, str]:
        return {tag.key: tag.value for tag in self.data.tags}

    def names(self) -> tuple[str | None, ...]:
        """All that a person may call it by."""
        tags = self.tags()
        return (self.info.run_id, self.info.run_name, tags.get(names.TAG_FLIGHT_ID), tags.get(names.TAG_DVC_EXPERIMENT))


class _OneFound(BaseModel):
    run: _Found


class _AllFound(BaseModel):
    runs: tuple[_Found, ...] = ()


class _Experiment(BaseModel):
    experiment_id: Id


class _OneExperiment(BaseModel):
    experiment: _Experiment


Shape = TypeVar("Shape", bound=BaseModel)


def fetch(name: str, root: Path, tell: Callable[[str], None]) -> Run | None:
    """The run that ``name`` fits (MLflow id, ``flight.id``, a unique prefix of either, or its name) on the server of MLFLOW_TRACKING_URI.

    None if that is no server. An MLflow id is looked for everywhere, all else in our experiment. A run that has ended is
    fetched once; of one that has not, its record has not arrived yet, and MLflow's own words are all there is.

    Raises:
        UnknownRunError: if no run fits, or several do.
        ServerError: if the server cannot be asked, or what it answers cannot be a run.
    """
    uri = address.tracking_uri(root)
    if not uri.startswith(("http://", "https://")):
        return None
    if problem := address.fault(uri):
        raise ServerError(f"MLFLOW_TRACKING_URI: {problem}")
    server = Server(uri)
    found = _find(server, name)
    run_id = found.tags().get(names.TAG_FLIGHT_ID, "")
    if re.fullmatch(r"[0-9a-zA-Z-]{1,64}", run_id) is None:
        raise UnknownRunError(f"the run {found.info.run_id} of {server.address} has no record: Flight Recorder has not made it")
    folder = root / journal.RECORDS_FOLDER / OTHERS / found.info.run_id
    try:
        if not _is_kept(found, folder):
            _keep(server, found, folder)
        has_record = (folder / journal.FILE_NAME).is_file()
        tell(f"run {run_id} is not recorded here, but on {server.address}{'' if has_record else '; its record has not arrived there yet'}.")
        return _from_record(found, folder) if has_record else _as_told(found, folder)
    except (UnreadableRecordError, ValueError, RecursionError) as error:
        raise ServerError(
            f"the record of run {run_id} on {server.address} is none that this version can read; expected one of Flight Recorder. "
            f"Type: git pull"
        ) from error
    except OSError as error:
        raise ServerError(f"the record of run {run_id} cannot be kept ({error}); expected a folder that can be written to") from error


def _find(server: Server, name: str) -> _Found:
    if re.fullmatch(r"[0-9a-f]{32}", name):
        answer = _shaped(_OneFound, server, server.ask("runs/get", {"run_id": name}))
        if answer is not None:
            return answer.run
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or names.DEFAULT_EXPERIMENT
    fitting = _search(server, experiment, name)
    exact = [found for found in fitting if name in found.names()]
    matches = exact or fitting
    if not matches:
        raise UnknownRunError(f"the experiment '{experiment}' of {server.address} has no run that is called '{name}'")
    if len(matches) > 1:
        several = ", ".join(found.info.run_id for found in matches[:MAX_MATCHES])
        raise UnknownRunError(f"'{name}' fits several runs of {server.address}: {several}. Give one of these ids")
    return matches[0]


def _search(server: Server, experiment: str, name: str) -> list[_Found]:
    """The runs of an experiment whose name is the one given, or one of whose ids begins so."""
    known = _shaped(_OneExperiment, server, server.ask("experiments/get-by-name", {"experiment_name": experiment}))
    if known is None:
        return []
    quote = '"' if "'" in name else "'"
    filters = [f"attributes.run_name = {quote}{name}{quote}"] if quote not in name else []
    if re.fullmatch(r"[0-9a-zA-Z-]+", name):  # in another, a sign may stand for many
        filters += [f"tags.`{names.TAG_FLIGHT_ID}` LIKE '{name}%'", f"attributes.run_id LIKE '{name}%'"]
    found: dict[str, _Found] = {}
    for wanted in filters:
        query = {"experiment_ids": [known.experiment.experiment_id], "filter": wanted, "max_results": MAX_MATCHES}
        answer = _shaped(_AllFound, server, server.ask("runs/search", query, posted=True)) or _AllFound()
        found.update({run.info.run_id: run for run in answer.runs})
    return list(found.values())


def _shaped(shape: type[Shape], server: Server, content: bytes | None) -> Shape | None:
    if content is None:
        return None
    try:
        return shape.model_validate_json(content)
    except ValidationError as error:
        raise ServerError(f"{server.address} does not answer as MLflow does; expected its whole address in MLFLOW_TRACKING_URI") from error


def _state(found: _Found) -> dict[str, Any]:
    """What tells whether the record that is kept is still the run's: one that was taken for lost may go on."""
    return {"run_id": found.info.run_id, "complete": True, "status": found.info.status, "end_time": found.info.end_time}


def _is_kept(found: _Found, folder: Path) -> bool:
    return found.info.status != "RUNNING" and recorder_process.state(folder).items() >= _state(found).items()


def _keep(server: Server, found: _Found, folder: Path) -> None:
    """Fetch verdict and journal of a run that has ended. MLflow hears of the end a little before it gets them.

    Raises:
        ValueError, RecursionError: if they are not what they should be.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if found.info.status == "RUNNING":
        return
    verdict = server.artifact(found.info.run_id, recorder_process.VERDICT_NAME)
    if verdict is not None:
        files.write_json(folder / recorder_process.VERDICT_NAME, checked_verdict(verdict))
    record = server.artifact(found.info.run_id, f"{names.ARTIFACT_RECORD}/{journal.FILE_NAME}")
    if record is not None:
        path = folder / journal.FILE_NAME
        files.write_text(path, record.decode("utf-8", "replace"))
        if end(journal.read(path)[0]) is None:
            path.unlink()
        elif verdict is not None:
            files.write_json(folder / recorder_process.STATE_NAME, _state(found))


def _from_record(found: _Found, folder: Path) -> Run:
    """The run as its journal tells it; the parameters as MLflow has them.

    Raises:
        UnreadableRecordError, ValueError, RecursionError: if it is no journal of this run.
    """
    run = checked({**vars(from_folder(folder)), "params": _params(found), "mlflow_run_id": found.info.run_id})
    if run.id != found.tags()[names.TAG_FLIGHT_ID]:
        raise UnreadableRecordError(f"{folder} holds the record of {run.id}.")
    return run


def _as_told(found: _Found, folder: Path) -> Run:
    """The run by what MLflow says of it alone."""
    info, tags = found.info, found.tags()
    failure = None
    if names.TAG_FAILURE_KIND in tags:
        cause = tags.get(names.TAG_DESCRIPTION, "its record has not arrived")
        failure = {"stage": tags.get(names.TAG_FAILURE_STAGE, "unknown"), "kind": tags[names.TAG_FAILURE_KIND], "cause": cause}
    return Run(
        id=tags[names.TAG_FLIGHT_ID],
        name=info.run_name,
        experiment=tags.get(names.TAG_DVC_EXPERIMENT),
        host=tags.get(names.TAG_HOST, ""),
        started=info.start_time / 1000,
        ended=None if info.end_time is None else info.end_time / 1000,
        status=info.status,
        stages={stage: tags[names.stage_tag(stage)] for stage in names.STAGES if names.stage_tag(stage) in tags},
        failure=failure,
        metrics={metric.key: metric.value for metric in found.data.metrics},
        params=_params(found),
        made={},
        inputs={},
        commit=None,
        is_live=info.status == "RUNNING",
        serves_another=names.TAG_REPLAY_OF in tags or names.TAG_HYBRID_OF in tags,
        folder=folder,
        mlflow_run_id=info.run_id,
        is_shipped=False,
        problem=None,
    )


def _params(found: _Found) -> dict[str, Any]:
    return {param.key: _value(param.value) for param in found.data.params}


def _value(text: str) -> Any:
    """A parameter's value, of which MLflow has Python's text, or ``null``; text that is no number, truth value or list stays one."""
    try:
        value = None if text == "null" else ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    return value if value is None or isinstance(value, bool | int | float | list) else text
