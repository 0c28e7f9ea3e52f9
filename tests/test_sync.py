"""Addresses that cannot work, runs that wait for MLflow, runs of other machines, and which run made what."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from stages.flight.record import address, journal, recorder_process
from stages.flight.runs import run as runs
from tests import tiny

WRONG = "htp://mlflow.example:5000"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("http://localhost:5000", None),
        ("https://user:word@host/path", None),
        ("databricks", None),
        ("databricks://profile", None),
        ("postgresql://host/base", None),
        ("mysql://host/base", "No module named 'MySQLdb'"),
        ("postgresql+nothing://host/base", "nothing"),
        (WRONG, "begins with htp:"),
        ("http://", "names no host"),
        ("./mlruns", "sqlite:///mlflow.db"),
        ("file:///srv/mlruns", "sqlite:///mlflow.db"),
        ("sqlite:mlflow.db", "Expected: sqlite:///mlflow.db"),
        ("sqlite:////dev/null/mlflow.db", "/dev/null is not what it should be"),
        ("sqlite:////etc", "/etc is not what it should be"),
    ],
)
def test_an_address_is_judged_before_any_work(uri: str, told: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    fault = address.fault(uri)
    assert (fault is None) if told is None else (told in str(fault))


def test_a_wrong_address_is_told_and_mended(clone: Path) -> None:
    done = tiny.run(clone, "env", f"MLFLOW_TRACKING_URI={WRONG}", "python", "-m", "stages", "augment")
    tiny.wait_for_recorders(clone)
    assert f"MLFLOW_TRACKING_URI is {WRONG}" in done.stderr
    assert "flight sync" in done.stderr
    failed = tiny.run(clone, "flight", "sync", "--json", check=False)
    answer = json.loads(failed.stdout)
    assert failed.returncode == 1
    assert [(row["shipped"], row["address"]) for row in answer["runs"]] == [(False, WRONG)]
    assert "have not reached MLflow" in tiny.run(clone, "flight", "runs").stderr
    right = f"MLFLOW_TRACKING_URI=sqlite:///{clone / 'mlflow.db'}"
    assert "1 shipped, 0 left" in tiny.run(clone, "env", right, "flight", "sync").stdout
    assert [run.info.status for run in tiny.mlflow_runs(clone)] == ["FINISHED"]
    assert "0 shipped, 0 left" in tiny.run(clone, "flight", "sync").stdout
    assert tiny.run(clone, "flight", "runs").stderr == ""


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the opening of a record."""
    records, _ = journal.read(folder / journal.FILE_NAME)
    lines = [json.dumps({**records[0], **changes}), *(json.dumps(record) for record in records[1:] if record["type"] != "end")]
    (folder / journal.FILE_NAME).write_text("\n".join(lines) + "\n")


def test_another_machines_live_run_is_left_alone(clone: Path) -> None:
    """Its processes cannot be seen, so the recorder's sign of life decides."""
    tiny.run(clone, "python", "-m", "stages", "augment")
    tiny.wait_for_recorders(clone)
    folder = next(clone.glob(".flight/runs/[!.]*/"))
    rewrite(folder, host="another")
    (folder / recorder_process.STATE_NAME).unlink()
    for command in (("flight", "runs"), ("flight", "sync"), ("python", "-m", "stages", "augment")):
        tiny.run(clone, *command)
    tiny.wait_for_recorders(clone)
    assert runs.from_folder(folder).status == "RUNNING"
    silent = time.time() - recorder_process.LOST_AFTER_S - 60
    os.utime(folder / recorder_process.LOCK_NAME, (silent, silent))
    tiny.run(clone, "flight", "runs")
    tiny.wait_for_recorders(clone)
    assert runs.from_folder(folder).status == "FINISHED"  # its only stage had ended well


def test_on_a_shared_store_only_the_silent_are_closed(tmp_path: Path) -> None:
    import mlflow

    from stages.flight.record.mlflow_lost_runs import close_lost

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("shared")
    silences_s = {"live": 20.0, "slow": 3600.0, "lost": recorder_process.LOST_AFTER_S + 60}
    for name, silence_s in silences_s.items():
        client.create_run(experiment, run_name=name, tags={"heartbeat": str(int(time.time() - silence_s))})
    client.create_run(experiment, run_name="of another tool")
    assert close_lost(uri, "shared") == (["lost"], ["slow"])
    shown = {run.info.run_name: (run.info.status, run.data.tags.get("failure.kind")) for run in client.search_runs([experiment])}
    assert shown == {
        "live": ("RUNNING", None),
        "slow": ("RUNNING", None),
        "lost": ("KILLED", "lost"),
        "of another tool": ("RUNNING", None),
    }
    assert close_lost(uri, "no such experiment") == ([], [])


def test_which_run_made_what(clone: Path) -> None:
    tiny.run(clone, "python", "-m", "stages", "augment")
    tiny.wait_for_recorders(clone)
    made_by = next(clone.glob(".flight/runs/[!.]*/")).name
    rows = {row["stage"]: row for row in json.loads(tiny.run(clone, "flight", "which", "--json").stdout)}
    assert {stage: row["run_id"] for stage, row in rows.items() if row["run_id"]} == {"augment": made_by}
    assert all(row["changed_since"] == [] for row in rows.values())
    (clone / "data/model/architecture.json").write_text("{}")
    shown = tiny.run(clone, "flight", "which").stdout
    assert "changed since: data/model" in shown
    assert made_by in shown


def test_a_run_deleted_in_mlflow_is_not_shipped_again(clone: Path) -> None:
    import mlflow

    tiny.run(clone, "python", "-m", "stages", "augment")
    tiny.wait_for_recorders(clone)
    client = mlflow.MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    client.delete_run(tiny.mlflow_runs(clone)[0].info.run_id)
    folder = next(clone.glob(".flight/runs/[!.]*/"))
    recorder_process.remember(folder, complete=False, offset=0)
    assert "1 shipped" in tiny.run(clone, "flight", "sync").stdout
    assert "was deleted" in str(recorder_process.state(folder)["problem"])
    assert tiny.mlflow_runs(clone) == []


def test_one_bad_value_costs_only_itself(clone: Path) -> None:
    """MLflow refuses a whole batch for one invalid entity; here a name that an earlier write to the same run has fixed."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    asked = client.create_run(client.create_experiment("flight-recorder", (clone / "mlruns").as_uri())).info.run_id
    client.log_param(asked, "train.epochs", "other")
    tiny.run(clone, "env", f"FLIGHT_RUN_ID={asked}", "python", "-m", "stages", "augment")
    tiny.wait_for_recorders(clone)
    run = client.get_run(asked)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "other"
    assert run.data.params["train.alpha"]
    assert len(run.data.params) > 30
