"""All recorded runs of a repository, and the finding of one by what a person types."""

from __future__ import annotations

import difflib
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from stages.flight.errors import CommandError
from stages.flight.record import recorder_process
from stages.flight.record.journal import RECORDS_FOLDER
from stages.flight.runs.run import Run, UnreadableRecordError, from_folder


class UnknownRunError(CommandError):
    """No recorded run, or several, have the name given."""


class NotRecordedError(UnknownRunError):
    """No run recorded here has the name given; another machine's may."""


def find_root(start: Path) -> Path:
    """The nearest folder upwards that holds records, else a pipeline; ``start`` itself if there is none."""
    upwards = (start, *start.parents)
    holding = [folder for folder in upwards if (folder / RECORDS_FOLDER).is_dir()]
    return next(iter([*holding, *(folder for folder in upwards if (folder / "dvc.yaml").is_file())]), start)


def load_all(root: Path) -> tuple[list[Run], list[str]]:
    """Every run, newest first, and what is wrong with records that cannot be read; runs whose processes died are closed before."""
    folders = sorted((root / RECORDS_FOLDER / "runs").glob("[!.]*/"))
    runs, unreadable = _read(folders)
    for run in runs:
        if run.is_live and run.host == socket.gethostname():
            recorder_process.ensure(run.folder, root)  # does nothing where one is at work
    dead = [run.folder for run in runs if run.ended is None and not run.is_live]
    if dead:
        for folder in dead:
            recorder_process.ensure(folder, root)
        recorder_process.wait_until(lambda: not any(_is_being_closed(folder) for folder in dead), recorder_process.CLOSING_TIMEOUT_S)
        runs, unreadable = _read(folders)
    return sorted(runs, key=lambda run: (run.started, run.id), reverse=True), unreadable


def _is_being_closed(folder: Path) -> bool:
    return recorder_process.is_alive(folder) and from_folder(folder).ended is None


def _read(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    runs, unreadable = [], []
    for folder in folders:
        try:
            runs.append(from_folder(folder))
        except UnreadableRecordError as error:
            unreadable.append(str(error))
    return runs, unreadable


def find(runs: Sequence[Run], name: str) -> Run:
    """A run by id, MLflow id, unique prefix of either, run name, ``latest``, ``latest~N`` or ``best``; these pass over replays and hybrids.

    Raises:
        UnknownRunError: naming the nearest ones; NotRecordedError if the name is one that a run of another machine may have.
    """
    back = _steps_back(name)
    if not runs:
        kind = UnknownRunError if name == "best" or back is not None else NotRecordedError
        raise kind("no run has been recorded yet. Type: dvc repro")
    own = [run for run in runs if not run.serves_another]
    if name == "best":
        scored = [run for run in own if "evaluate/macro_f1" in run.metrics]
        if not scored:
            raise UnknownRunError("no run has been evaluated yet, so none is best. Type: flight runs")
        return max(scored, key=lambda run: run.metrics["evaluate/macro_f1"])
    if back is not None:
        if back >= len(own):
            raise UnknownRunError(f"{name} asks for the run {back} before the latest, and there are {len(own)}. Type: flight runs")
        return own[back]
    exact = [run for run in runs if name == run.id] or [run for run in runs if name in (run.name, run.experiment, run.mlflow_run_id)]
    matches = exact or [run for run in runs if run.id.startswith(name) or (run.mlflow_run_id or "").startswith(name)]
    if len(matches) == 1 or (exact and len({run.id for run in exact}) == 1):
        return matches[0]
    if matches:
        raise UnknownRunError(f"'{name}' fits {len(matches)} runs: {', '.join(run.id for run in matches[:5])}. Give more of the id.")
    known = [*(run.id for run in runs), *(run.experiment or run.name for run in runs)]
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or [runs[0].id]
    raise NotRecordedError(f"no run is called '{name}'. Nearest: {', '.join(dict.fromkeys(nearest))}. Type: flight runs")


def _steps_back(name: str) -> int | None:
    if name == "latest":
        return 0
    number = name.removeprefix("latest~")
    return int(number) if number != name and re.fullmatch(r"[0-9]{1,9}", number) else None
