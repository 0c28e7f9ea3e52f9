"""Finish the records of dead processes and ship what has not reached MLflow, one run after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stages.flight.record import address, journal, recorder_process
from stages.flight.record.names import DEFAULT_EXPERIMENT
from stages.flight.record.secrets import mask
from stages.flight.runs.run import Run, from_folder


def sync(recorded: Sequence[Run], root: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Ship every closed run that has not arrived, oldest first; where nobody answers, no other run is tried.

    A run that has never reached its address goes to the one of MLFLOW_TRACKING_URI, if that is set.
    """
    waiting = [run for run in reversed(recorded) if not run.is_shipped and not run.is_live]
    uris = [_address(run, root) for run in waiting]  # all of them first: a recorder that is done starts the next
    failed: dict[str, str] = {}
    runs = []
    for number, (run, uri) in enumerate(zip(waiting, uris, strict=True), 1):
        problem = address.fault(uri) or failed.get(uri)
        if problem is None:
            tell(f"{number} of {len(waiting)}: {run.id} ({run.name}) to {mask(uri)}")
            problem = _ship(run, root)
            if problem and recorder_process.state(run.folder)["unreachable"]:
                failed[uri] = problem
        runs.append({"id": run.id, "address": mask(uri), "shipped": problem is None, "problem": problem})
    lost, silent = _close_lost(root, failed, tell)
    return {"runs": runs, "live": [run.id for run in recorded if run.is_live], "closed_as_lost": lost, "silent": silent}


def _address(run: Run, root: Path) -> str:
    """Where the run is to go; a change is written to its journal, so that its recorder knows."""
    uri = journal.address(journal.read_run(run.folder))
    chosen = address.tracking_uri(root)
    if run.mlflow_run_id is None and os.environ.get("MLFLOW_TRACKING_URI") and chosen != uri and not address.fault(chosen):
        journal.Journal(run.folder).write("address", tracking_uri=chosen)
        return chosen
    return uri


def _ship(run: Run, root: Path) -> str | None:
    recorder_process.ensure(run.folder, root)
    while recorder_process.is_alive(run.folder):
        recorder_process.wait_until(lambda: not recorder_process.is_alive(run.folder), recorder_process.CLOSING_TIMEOUT_S)
    now = from_folder(run.folder)
    if now.is_shipped:
        return None
    return now.problem or f"its recorder ended before it was done; see {run.folder / recorder_process.LOG_NAME}"


def _close_lost(root: Path, failed: dict[str, str], tell: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """On a server that others use too: the runs of machines that are gone."""
    uri = address.tracking_uri(root)
    if uri.startswith(address.SQLITE) or uri in failed or address.fault(uri):
        return [], []
    from stages.flight.record.mlflow_lost_runs import close_lost
    from stages.flight.record.mlflow_store import StoreError

    try:
        return close_lost(uri, os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT)
    except StoreError as error:
        tell(str(error))
        return [], []
