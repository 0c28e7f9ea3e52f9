"""However a run ends, MLflow says how, where and why, and nothing keeps running."""

from __future__ import annotations

import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages.flight.record.names import STAGES
from tests import strike, tiny

FILLED_IN = ("ingest", "validate", "prepare", "augment", "train", "evaluate")
SPEED = ("train/data_wait_share", "train/images_per_second")


def the_run(folder: Path) -> Any:
    """The only run of ``folder`` once it is shipped; nothing of the run may be left running."""
    tiny.wait_for_recorders(folder)
    assert tiny.left_running(folder) == []
    runs = tiny.mlflow_runs(folder)
    assert len(runs) == 1
    return runs[0]


def traceback_of(folder: Path, run: Any) -> str:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return Path(client.download_artifacts(run.info.run_id, "traceback.txt")).read_text()


def test_bad_data(clone: Path) -> None:
    tiny.set_params(clone, {"validate.policy.exact_duplicate": "fail"})
    with zipfile.ZipFile(clone / "data/sample/tiny.zip", "a") as archive:
        archive.writestr("bag/copy.png", archive.read(archive.namelist()[0]))
    done = tiny.run(clone, "dvc", "repro", check=False)
    run = the_run(clone)
    assert done.returncode != 0
    assert run.info.status == "FAILED"
    assert run.data.tags["failure.stage"] == "validate"
    assert run.data.tags["failure.kind"] == "rejected-data"
    assert run.data.tags["verdict"] == "data-rejected"
    assert run.data.tags["stage.ingest"] == "ran"
    assert run.data.tags["stage.train"] == "not-reached"
    assert "exact-duplicate" in run.data.tags["mlflow.note.content"]
    assert "RejectedDataError" in traceback_of(clone, run)
    assert "data-rejected:" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (clone / "reports/diagnose").exists(), "the verdict of an earlier run must not be read as this one's"
    kept = next(clone.glob(".flight/runs/[!.]*/reports/validate/summary.json"))
    assert '"passed": false' in kept.read_text()


def test_non_finite_loss(clone: Path) -> None:
    tiny.set_params(clone, {"train.optimizer": "sgd", "train.learning_rate": 1e20})
    done = tiny.run(clone, "dvc", "repro", check=False)
    run = the_run(clone)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure.stage"] == "train"
    assert run.data.tags["failure.kind"] == "exception"
    assert run.data.tags["verdict"] == "learning-rate-too-high"
    assert "NonFiniteLossError" in traceback_of(clone, run)
    assert "Try: dvc exp run -S train.learning_rate=" in done.stderr
    why = tiny.run(clone, "flight", "why", check=False)
    assert why.returncode == 1
    assert "learning-rate-too-high" in why.stdout


def test_exception(clone: Path) -> None:
    (clone / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n, and then nothing")
    tiny.set_params(clone, {"ingest.backbone_weights": "weights.h5"})
    tiny.run(clone, "dvc", "repro", check=False)
    run = the_run(clone)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure.stage"] == "validate"
    assert run.data.tags["failure.kind"] == "exception"
    assert run.data.tags["stage.ingest"] == "ran"
    assert run.data.tags["stage.prepare"] == "not-reached"
    assert "SourceError" in traceback_of(clone, run)


def test_faulty_params(clone: Path) -> None:
    tiny.set_params(clone, {"train.learning_rate": "fast", "train.epochs": 0})
    done = tiny.run(clone, "dvc", "repro", check=False)
    run = the_run(clone)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure.stage"] == "train"
    assert "train.learning_rate: 'fast'" in done.stderr
    assert "train.epochs: 0" in done.stderr


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGKILL, "killed"), (signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted"), (signal.SIGSEGV, "exception")],
)
def test_signal_to_the_stage(clone: Path, number: signal.Signals, kind: str) -> None:
    tiny.set_params(clone, {"train.seed": 7})
    dvc = tiny.start(clone, "dvc", "repro")
    started = tiny.wait_for_record(clone, type="stage-start", stage="train")
    receiver = "launcher" if number == signal.SIGINT else "process"  # Ctrl-C reaches the launcher, which passes it on
    os.kill(started[receiver]["pid"], number)
    dvc.communicate()
    run = the_run(clone)
    assert run.info.status == ("FAILED" if kind == "exception" else "KILLED")
    assert run.data.tags["failure.stage"] == "train"
    assert run.data.tags["failure.kind"] == kind
    assert number.name in run.data.tags["mlflow.note.content"]


def test_sigterm_to_dvc(clone: Path) -> None:
    tiny.set_params(clone, {"train.seed": 7})
    dvc = tiny.start(clone, "dvc", "repro")
    started = tiny.wait_for_record(clone, type="stage-start", stage="train")
    dvc.terminate()
    dvc.communicate()
    run = the_run(clone)
    assert not psutil.pid_exists(started["process"]["pid"])
    assert run.info.status == "KILLED"
    assert run.data.tags["failure.stage"] == "train"
    assert run.data.tags["failure.kind"] == "terminated"
    assert "dvc ended" in run.data.tags["mlflow.note.content"]


def test_sigkill_of_the_launcher(clone: Path) -> None:
    tiny.set_params(clone, {"train.seed": 7})
    dvc = tiny.start(clone, "dvc", "repro")
    started = tiny.wait_for_record(clone, type="stage-start", stage="train")
    os.kill(started["launcher"]["pid"], signal.SIGKILL)
    dvc.communicate()
    run = the_run(clone)
    assert run.info.status == "KILLED"
    assert run.data.tags["failure.stage"] == "train"
    assert run.data.tags["failure.kind"] == "killed"


def test_sigkill_of_the_recorder(clone: Path) -> None:
    """Its work is finished by the launcher of the next stage or the next command."""
    tiny.set_params(clone, {"validate.policy.exact_duplicate": "fail"})
    with zipfile.ZipFile(clone / "data/sample/tiny.zip", "a") as archive:
        archive.writestr("bag/copy.png", archive.read(archive.namelist()[0]))
    dvc = tiny.start(clone, "dvc", "repro")
    captured = tiny.wait_for_record(clone, type="capture", part="environment")
    os.kill(captured["pid"], signal.SIGKILL)
    dvc.communicate()
    tiny.run(clone, "flight", "runs")
    run = the_run(clone)
    assert run.info.status == "FAILED"
    assert run.data.tags["failure.stage"] == "validate"


def test_early_cut_off(clone: Path, trained: Path) -> None:
    """The last stage to execute is not the last of the pipeline: the run is complete all the same."""
    with (clone / "stages/validate.py").open("a") as file:
        file.write("# a remark\n")
    done = tiny.run(clone, "dvc", "repro")
    run = the_run(clone)
    assert "Stage 'diagnose' didn't change, skipping" in done.stdout
    assert run.info.status == "FINISHED"
    states = {name.removeprefix("stage."): state for name, state in run.data.tags.items() if name.startswith("stage.")}
    assert states.pop("validate") == "ran"
    assert set(states.values()) == {"cached"}
    assert run.data.tags["git.dirty"] == "true"
    original = {name: value for name, value in tiny.mlflow_runs(trained)[0].data.metrics.items() if name.split("/")[0] in FILLED_IN}
    for name in SPEED:
        assert original.pop(name) is not None
        assert name not in run.data.metrics, "a training that did not take place has no speed"
    assert {name: run.data.metrics.get(name) for name in original} == original, "what a stage measures, and what is filled in for it"
    verdict = next(clone.glob(".flight/runs/[!.]*/diagnosis/verdict.json"))
    assert verdict.read_text() == (clone / "reports/diagnose/verdict.json").read_text()


def test_a_dead_run_is_closed_from_its_own_record(clone: Path) -> None:
    """Everything dies at once; a later run succeeds; closing the first one then touches nothing of the later one."""
    tiny.set_params(clone, {"evaluate.gates.accuracy.min": 0.01})
    dvc = tiny.start(clone, "dvc", "repro")
    tiny.wait_for_record(clone, type="stage-start", stage="evaluate")
    for process in tiny.processes(clone):
        process.kill()
    dvc.communicate()
    first = next((clone / ".flight/runs").iterdir())
    tiny.set_params(clone, {"evaluate.gates.accuracy.min": 0.02})
    tiny.run(clone, "dvc", "repro")
    verdict = (clone / "reports/diagnose/verdict.json").read_text()
    tiny.wait_for_recorders(clone)
    tiny.run(clone, "flight", "runs")
    tiny.wait_for_recorders(clone)
    runs = {run.data.tags["flight.id"]: run for run in tiny.mlflow_runs(clone)}
    dead = runs.pop(first.name)
    assert (dead.info.status, dead.data.tags["failure.stage"], dead.data.tags["failure.kind"]) == ("KILLED", "evaluate", "lost")
    assert not (first / "reports/evaluate").exists()
    assert "evaluate/accuracy" not in dead.data.metrics
    assert [run.info.status for run in runs.values()] == ["FINISHED"]
    assert (clone / "reports/diagnose/verdict.json").read_text() == verdict


@pytest.mark.parametrize(
    ("way", "stage", "delay_s"),
    [
        ("sys.exit(0)", "validate", 3),
        ("os._exit(0)", "augment", 0.1),
        ("address space", "validate", 2),
        ("memory of the group", "train", 6),
    ],
)
def test_endings_that_only_the_launcher_can_tell(clone: Path, tmp_path: Path, way: str, stage: str, delay_s: float) -> None:
    """An exit that looks like success, and the two ways of running out of memory."""
    if way == "memory of the group" and not strike.make_group():
        pytest.skip("control groups of version 1 cannot be made here")
    with (clone / f"stages/{stage}.py").open("a") as file:
        file.write("# a remark\n")
    folder, exit_code = strike.run(clone, tmp_path / "injection", stage, way, delay_s)
    assert folder is not None, "the stage was over too soon"
    run = the_run(clone)
    status, kinds = strike.EXPECTED[way]
    assert exit_code != 0
    assert (run.info.status, run.data.tags["failure.stage"]) == (status, stage)
    assert run.data.tags["failure.kind"] in kinds, run.data.tags["mlflow.note.content"]
    assert run.data.tags["stage.diagnose"] == "not-reached"


def test_two_experiments_of_a_queue(clone: Path) -> None:
    """Two workers at once: two complete, separate runs."""
    tiny.commit(clone, "lock")
    for minimum in ("0.91", "0.92"):
        tiny.run(clone, "dvc", "exp", "run", "--queue", "--name", f"gate-{minimum}", "-S", f"evaluate.gates.accuracy.min={minimum}")
    tiny.run(clone, "dvc", "queue", "start", "-j", "2")
    while any(state in tiny.run(clone, "dvc", "queue", "status").stdout for state in ("Queued", "Running")):
        tiny.run(clone, "dvc", "queue", "logs", "--follow", f"gate-{minimum}", check=False)
    tiny.wait_for_recorders(clone)
    runs = tiny.mlflow_runs(clone)
    assert {run.data.tags["dvc.experiment"] for run in runs} == {"gate-0.91", "gate-0.92"}
    for run in runs:
        assert run.info.status == "FINISHED"
        states = [run.data.tags[f"stage.{stage}"] for stage in STAGES]
        assert states == ["cached"] * 5 + ["ran"] * 2
        assert {f"{stage}/" for stage in FILLED_IN} <= {name.split("/")[0] + "/" for name in run.data.metrics}
        assert len(run.outputs.model_outputs) == 1


def test_dvc_killed_between_two_stages(clone: Path) -> None:
    tiny.set_params(clone, {"evaluate.gates.accuracy.min": 0.01})
    dvc = tiny.start(clone, "dvc", "repro")
    tiny.wait_for_record(clone, type="stage-end", stage="evaluate")
    dvc.kill()
    dvc.communicate()
    run = the_run(clone)
    assert run.info.status == "KILLED"
    assert run.data.tags["failure.kind"] in ("lost", "terminated")  # terminated, if diagnose had begun


def test_an_experiment_in_a_temporary_folder(clone: Path) -> None:
    """DVC deletes the folder before it ends; the record is complete all the same."""
    tiny.commit(clone, "lock")
    tiny.run(clone, "dvc", "exp", "run", "--temp", "--name", "elsewhere", "-S", "evaluate.gates.accuracy.min=0.99")
    run = the_run(clone)
    assert (run.info.run_name, run.info.status) == ("elsewhere (first run)", "FINISHED")
    states = {name.removeprefix("stage."): state for name, state in run.data.tags.items() if name.startswith("stage.")}
    assert states.pop("evaluate") == states.pop("diagnose") == "ran"
    assert set(states.values()) == {"cached"}
    assert run.data.tags["data.version"].endswith(".dir")
    assert "train/val_loss" in run.data.metrics
