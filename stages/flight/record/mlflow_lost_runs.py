"""Runs of other machines, on a store that several share, that nobody will ever close."""

from __future__ import annotations

import time

import mlflow
from mlflow.entities import RunTag

from stages.flight.record import names, recorder_process
from stages.flight.record.mlflow_store import StoreError, reason_of
from stages.flight.record.secrets import mask


def close_lost(uri: str, experiment: str) -> tuple[list[str], list[str]]:
    """Mark as KILLED the runs of other machines that have shown no life for LOST_AFTER_S; returns their names, and those still waited for.

    Raises:
        StoreError: if MLflow does not answer.
    """
    try:
        client = mlflow.MlflowClient(uri)
        known = client.get_experiment_by_name(experiment)
        running = client.search_runs([known.experiment_id], "attributes.status = 'RUNNING'") if known else []
        closed, silent = [], []
        for run in running:
            beat = run.data.tags.get(names.TAG_HEARTBEAT, "")
            silence_s = time.time() - float(beat) if beat.isdigit() else 0.0
            if silence_s > recorder_process.LOST_AFTER_S:
                tags = {names.TAG_FAILURE_KIND: "lost", names.TAG_DESCRIPTION: f"lost: no sign of life since {time.ctime(float(beat))}"}
                client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
                client.set_terminated(run.info.run_id, "KILLED", int(beat) * 1000)
                closed.append(run.info.run_name)
            elif silence_s > 10 * recorder_process.HEARTBEAT_S:
                silent.append(run.info.run_name)
    except Exception as error:  # as in Store.ship
        raise StoreError(mask(f"{uri}: {type(error).__name__}: {reason_of(str(error))}")) from error
    return closed, silent
