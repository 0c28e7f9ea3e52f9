"""A server that hangs for a minute, and one that is down from start to end: in the end MLflow shows what it would have shown."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from stages.flight.record import journal, names
from tests import servers, tiny

pytestmark = pytest.mark.slow

OUTAGE_S = 60
# What belongs to one run alone.
OWN_TAGS = (names.TAG_FLIGHT_ID, names.TAG_HEARTBEAT, names.TAG_CODE_REF, names.TAG_CHAMPION)
# The machine's load differs from run to run, and the journal and the environment hold times.
OWN_METRICS, OWN_ARTIFACTS = "system/", ("record/journal.jsonl", "record/environment.json")


def everything(client: Any, experiment: str, folder: Path) -> dict[str, Any]:
    """All that MLflow holds of the only run of an experiment, but what belongs to that run alone."""
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    assert len(found) == 1
    run = found[0]
    curves = {
        key: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
        if not key.startswith(OWN_METRICS)
    }
    copy = Path(client.download_artifacts(run.info.run_id, "", str(folder)))
    files = {}
    for path in sorted(item for item in copy.rglob("*") if item.is_file()):
        name = path.relative_to(copy).as_posix()
        if name not in OWN_ARTIFACTS:
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert run.info.end_time > run.info.start_time
    return {
        "status": run.info.status,
        "name": run.info.run_name,
        "params": run.data.params,
        "metrics": curves,
        "system metrics": sorted(key for key in run.data.metrics if key.startswith(OWN_METRICS)),
        "tags": {key: value for key, value in run.data.tags.items() if key not in OWN_TAGS},
        "datasets": [(item.dataset.name, item.dataset.digest, item.dataset.profile) for item in run.inputs.dataset_inputs],
        "models": len(run.outputs.model_outputs),
        "artifacts": files,
    }


def seconds_of_training(clone: Path) -> float:
    records = journal.read_run(next(clone.glob(".flight/runs/[!.]*/")))
    return float(next(record["seconds"] for record in records if record["type"] == "stage-end" and record["stage"] == "train"))


def test_a_hanging_and_an_absent_server(trained: Path, tmp_path: Path) -> None:
    import mlflow

    port = servers.free_port()
    uri = f"http://127.0.0.1:{port}"
    clones = {name: tiny.copy(trained, tmp_path / name) for name in ("served", "hanging", "absent")}
    for clone in clones.values():
        tiny.set_params(clone, {"train.seed": 3, "train.epochs": 6})

    def environment(name: str) -> tuple[str, ...]:
        return ("env", f"MLFLOW_TRACKING_URI={uri}", f"MLFLOW_EXPERIMENT_NAME={name}")

    with servers.mlflow(tmp_path / "server", port) as server:
        tiny.run(clones["served"], *environment("served"), "dvc", "repro")
        tiny.wait_for_recorders(clones["served"])
        dvc = tiny.start(clones["hanging"], *environment("hanging"), "dvc", "repro")
        tiny.wait_for_record(clones["hanging"], type="stage-start", stage="train")
        os.killpg(server.pid, signal.SIGSTOP)
        time.sleep(OUTAGE_S)
        os.killpg(server.pid, signal.SIGCONT)
        told, _ = dvc.communicate()
        assert dvc.returncode == 0, told
        tiny.wait_for_recorders(clones["hanging"])
        tiny.run(clones["hanging"], *environment("hanging"), "flight", "sync")
    absent = tiny.run(clones["absent"], *environment("absent"), "dvc", "repro")
    assert "flight sync ships it later" in absent.stderr
    tiny.wait_for_recorders(clones["absent"])
    failed = tiny.run(clones["absent"], *environment("absent"), "flight", "sync", check=False)
    assert failed.returncode == 1
    assert "Connection refused" in failed.stdout
    with servers.mlflow(tmp_path / "server", port):
        assert "1 shipped, 0 left" in tiny.run(clones["absent"], *environment("absent"), "flight", "sync").stdout
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient(uri)
        shown = {name: everything(client, name, tmp_path / "copies" / name) for name in clones}
    durations = {name: seconds_of_training(clone) for name, clone in clones.items()}
    print(f"\nseconds of training: {durations}")  # noqa: T201
    for name in ("hanging", "absent"):
        for part, expected in shown["served"].items():
            assert shown[name][part] == expected, f"{name}: {part}"
    print(f"equal parts: {', '.join(shown['served'])}; {len(shown['served']['artifacts'])} artifacts")  # noqa: T201
