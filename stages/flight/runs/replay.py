"""``flight replay``: a recorded run again, from its record alone, with proof that it is the same.

The user's workspace, index, branches and DVC cache are only read: the replay works in a temporary folder (see ``replay_workspace``) and
brings back its record, as a run of its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.flight.record import capture, journal, recorder_process
from stages.flight.record.git import content
from stages.flight.runs import moment_page, proof, replay_workspace, rerun
from stages.flight.runs.differences import Recorded, recorded
from stages.flight.runs.frozen_images import ReplayError
from stages.flight.runs.replay_ending import Ending
from stages.flight.runs.replay_workspace import Workspace
from stages.flight.runs.run import Run, from_folder
from stages.shared import files

Tell = Callable[[str], None]
MAX_NAMED = 5
JOURNAL = "stages/flight/record/journal.py"


def replay(run: Run, everyone: Sequence[Run], root: Path, tell: Tell, *, own_environment: bool, until: int | None) -> dict[str, Any]:
    """Run it again and compare; ``until`` stops the training before that step, which is counted from 0 over the whole training.

    Raises:
        ReplayError: if something is missing, before anything is run.
        CommandError: if DVC could not run any stage.
    """
    stages = _stages(run)
    if until is not None and "train" not in stages:
        raise ReplayError(f"run {run.id} did not come to its training, so there is no step to stop at. Type: flight replay {run.id}")
    if until is not None and not _can_stop(run, root):
        raise ReplayError(f"the code of run {run.id} is older than --until, and would train to its end. Type: flight replay {run.id}")
    original = recorded(run, root)
    _warn_of_files_left_out(run, tell)
    with tempfile.TemporaryDirectory(prefix="flight-replay-", ignore_cleanup_errors=True) as base:
        packages = _packages(original) if own_environment else None
        workspace = replay_workspace.make(run, root, Path(base), tell, packages=packages)
        for path in workspace.damaged:
            tell(f"{path} is not as recorded: its content in DVC's cache has changed")
        if not own_environment:
            level, because = proof.expected_level(run, proof.environment(original, recorded(run, root, capture.environment())))
            tell(f"to be expected here: {level}, since {because}")
        tell(f"replaying {run.id}: {', '.join(stages)}")
        variables = _variables(run, workspace, original.variables if own_environment else None, until)
        ending = Ending(run, workspace.folder, tell, strikes=until is None)
        record = rerun.run_stages(workspace.folder, stages, workspace.python, variables, workspace.base / rerun.LOG, ending.follow)
        if record is None:
            raise ReplayError(f"dvc has run none of the stages of {run.id}. Type: flight why {run.id}")
        log = journal.Journal(record)
        log.write("name", name=f"replay of {run.id}" + (f" until step {until}" if until is not None else ""))
        log.write("replay", of=run.id)
        folder = rerun.bring_home(record, workspace.folder, root)
    if until is not None:
        return _shown(run, folder, until, root)
    return _proved(original, recorded(from_folder(folder), root), everyone, workspace)


def _shown(run: Run, folder: Path, until: int, root: Path) -> dict[str, Any]:
    """The page of the moment at which the replay in ``folder`` was stopped."""
    page = moment_page.write(folder, until)
    recorder_process.ensure(folder, root)
    return {"original": run.id, "replay": folder.name, "until": until, "moment": str(page) if page else None}


def _proved(original: Recorded, again: Recorded, everyone: Sequence[Run], workspace: Workspace) -> dict[str, Any]:
    """Compare, and note in both records what that proves."""
    checks = proof.compare(original, again, workspace.damaged)
    answer = proof.answer(checks, proof.level(checks, original.run, again.run, everyone), original.run, again.run)
    files.write_json(again.run.folder / "replay.json", answer)
    journal.Journal(again.run.folder).write("replay", of=original.run.id, level=answer["level"])
    journal.Journal(original.run.folder).write("replay", by=again.run.id, level=answer["level"])
    for run in (original.run, again.run):
        recorder_process.ensure(run.folder, original.root)
    return answer


def is_proved(answer: dict[str, Any]) -> bool:
    """Whether the replay is what was to be expected; one up to a step proves nothing else."""
    return answer["moment"] is not None if "until" in answer else proof.is_proved(answer)


def _can_stop(run: Run, root: Path) -> bool:
    """Whether the captured code knows of ``--until``."""
    known = content(root, replay_workspace.find_code(run, root), JOURNAL)
    return known is not None and journal.UNTIL_VARIABLE.encode() in known


def _warn_of_files_left_out(run: Run, tell: Tell) -> None:
    """Untracked files that were too large to be captured, and repositories within the repository."""
    codes = [record["code"] for record in journal.read_run(run.folder) if record.get("part") == "workspace"]
    if names := [str(name) for code in codes for name in code.get("left_out", [])]:
        more = "…" if len(names) > MAX_NAMED else ""
        tell(f"not captured (too large, or a repository of their own), and absent now: {', '.join(names[:MAX_NAMED])}{more}")


def _packages(original: Recorded) -> dict[str, str]:
    if not original.packages:
        raise ReplayError(
            f"the packages of run {original.run.id} were not recorded. Type without --environment: flight replay {original.run.id}"
        )
    return {name: str(version) for name, version in original.packages.items()}


def _stages(run: Run) -> list[str]:
    if run.ended is None:
        raise ReplayError(f"run {run.id} has not ended. Type: flight runs")
    stages = proof.stages_of(run)
    if run.stages.get("ingest") == "failed" or not stages:
        raise ReplayError(
            f"run {run.id} did nothing after ingest, which is never replayed, since its source may have changed. Type: flight why {run.id}"
        )
    return stages


def _variables(run: Run, workspace: Workspace, settings: Mapping[str, Any] | None, until: int | None) -> dict[str, str]:
    """Of this process; with ``settings`` those that reach a training are as recorded, and no others of them are set."""
    kept = dict(os.environ)
    if settings is not None:
        kept = {name: value for name, value in kept.items() if name not in capture.RECORDED_VARIABLES}
        kept |= {name: str(value) for name, value in settings.items() if name in capture.RECORDED_VARIABLES}
    experiment = str(journal.read_run(run.folder)[0]["mlflow_experiment"])
    variables = rerun.environment(workspace.python, experiment, kept, workspace.base)
    return variables | ({journal.UNTIL_VARIABLE: str(until)} if until is not None else {})
