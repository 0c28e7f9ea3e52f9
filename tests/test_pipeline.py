"""The whole pipeline on the tiny profile: one run in MLflow, stable outs, and no stage run without need."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from stages.shared import prepared
from tests import tiny

STAGES = ("ingest", "validate", "prepare", "augment", "train", "evaluate", "diagnose")


@pytest.fixture(scope="module")
def recorded(trained: Path) -> Any:
    runs = tiny.mlflow_runs(trained)
    assert len(runs) == 1
    return runs[0]


def client(folder: Path) -> Any:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    return mlflow.MlflowClient()


def test_the_run_is_finished_and_named(trained: Path, recorded: Any) -> None:
    assert recorded.info.status == "FINISHED"
    tags = recorded.data.tags
    assert {tags[f"stage.{stage}"] for stage in STAGES} == {"ran"}
    assert tags["flight.id"] == next((trained / ".flight/runs").iterdir()).name
    assert tags["verdict"] == json.loads((trained / "reports/diagnose/verdict.json").read_text())["verdict"]
    assert tags["mlflow.note.content"].startswith(f"{tags['verdict']}: ")
    lock = YAML(typ="safe").load(trained / "dvc.lock")
    assert tags["data.version"] == lock["stages"]["ingest"]["outs"][1]["md5"]
    datasets = {item.dataset.name: item.dataset for item in recorded.inputs.dataset_inputs}
    assert datasets["tiny"].digest == tags["data.version"]
    assert json.loads(datasets["tiny train"].profile)["num_images"] == recorded.data.metrics["prepare/num_train"]
    assert set(datasets) == {"tiny", "tiny train", "tiny val", "tiny test"}
    assert recorded.info.run_name == "first run"
    assert tags["git.dirty"] == "false"


def test_params_metrics_and_curves(trained: Path, recorded: Any) -> None:
    assert recorded.data.params["train.epochs"] == "2"
    assert recorded.data.params["ingest.source"] == "data/sample/tiny.zip"
    metrics = json.loads((trained / "reports/evaluate/metrics.json").read_text())
    assert {name: recorded.data.metrics[f"evaluate/{name}"] for name in metrics} == metrics
    history = pd.read_csv(trained / "reports/train/history.csv")
    curve = client(trained).get_metric_history(recorded.info.run_id, "train/val_loss")
    assert [point.step for point in curve] == [0, 1]
    assert [point.value for point in curve] == pytest.approx(list(history["val_loss"]))


def test_reports_and_record_are_artifacts(trained: Path, recorded: Any) -> None:
    folder = Path(client(trained).download_artifacts(recorded.info.run_id, ""))
    for name in ("validate/index.html", "augment/index.html", "train/evidence.json", "evaluate/index.html", "diagnose/index.html"):
        assert (folder / "reports" / name).read_bytes() == (trained / "reports" / name).read_bytes()
    assert (folder / "record/dvc.lock").read_bytes() == (trained / "dvc.lock").read_bytes()
    environment = json.loads((folder / "record/environment.json").read_text())
    assert environment["packages"]["keras"].startswith("3.")
    assert environment["hardware"]["num_cpus"] >= 1


def test_what_a_person_sees_at_a_glance(trained: Path, recorded: Any) -> None:
    """Load of the machine, images, and the model as the champion, since its gates passed and it is the first."""
    assert recorded.data.metrics["system/stage_memory_usage_megabytes"] > 1
    assert "system/cpu_utilization_percentage" in recorded.data.metrics
    previews = {Path(item.path).name for item in client(trained).list_artifacts(recorded.info.run_id, "previews")}
    assert previews == {"training_images.png", "augmented_images.png", "worst_mistakes.png"}
    champion = client(trained).get_model_version_by_alias("flight-recorder", "champion")
    assert champion.run_id == recorded.info.run_id
    assert recorded.data.tags["champion"] == f"yes: version {champion.version}"
    assert "| train | ran |" in recorded.data.tags["mlflow.note.content"]


def test_a_worse_model_does_not_become_champion(clone: Path) -> None:
    """On the same test split by what was measured; a model that is better, or the same run again, is told from it."""
    tiny.commit(clone, "lock")
    tiny.run(clone, "python", "-m", "stages", "evaluate")
    tiny.wait_for_recorders(clone)
    tiny.set_params(clone, {"train.optimizer": "sgd", "train.learning_rate": 1e-9})
    tiny.run(clone, "dvc", "repro")
    tiny.wait_for_recorders(clone)
    worse, first = tiny.mlflow_runs(clone)
    champion = client(clone).get_model_version_by_alias("flight-recorder", "champion")
    assert champion.run_id == first.info.run_id
    assert worse.data.metrics["evaluate/macro_f1"] <= first.data.metrics["evaluate/macro_f1"]
    assert worse.data.tags["champion"].startswith("no: macro_f1")
    assert worse.info.run_name == "train.learning_rate=1e-09, train.optimizer=sgd"


def test_the_model_is_logged_and_answers_as_evaluated(trained: Path, recorded: Any) -> None:
    import mlflow.pyfunc

    client(trained)
    model_id = recorded.outputs.model_outputs[0].model_id
    model = mlflow.pyfunc.load_model(f"models:/{model_id}")
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 32, 32, 3)
    assert model.input_example is not None
    test = prepared.read(trained / "data/prepared", "test")
    rows = pd.read_csv(trained / "reports/evaluate/predictions.csv")
    answers = model.predict(test.gather(np.arange(len(test.labels))).astype(np.float32))
    assert [test.classes[answer] for answer in answers.argmax(axis=1)] == list(rows["predicted"])
    assert answers.max(axis=1) == pytest.approx(rows["probability"], abs=1e-4)


def test_the_code_is_captured(trained: Path, recorded: Any) -> None:
    ref = recorded.data.tags["code.ref"]
    assert tiny.run(trained, "git", "rev-parse", f"{ref}^").stdout == tiny.run(trained, "git", "rev-parse", "HEAD").stdout
    assert tiny.run(trained, "git", "status", "--porcelain").stdout.split() == ["??", "dvc.lock"]


def test_again_runs_no_stage_and_makes_no_run(clone: Path) -> None:
    done = tiny.run(clone, "dvc", "repro")
    assert "Data and pipelines are up to date." in done.stdout
    assert not (clone / ".flight").exists()


@pytest.mark.slow
def test_two_fresh_clones_give_the_same_lock(trained: Path, tmp_path: Path) -> None:
    """Every out, byte for byte; other paths, another time, another process. Of all but ``ingest`` a replay's test says the same."""
    other = tiny.make(tmp_path / "another place" / "clone")
    tiny.run(other, "dvc", "repro")
    tiny.wait_for_recorders(other)
    assert (other / "dvc.lock").read_text() == (trained / "dvc.lock").read_text()


def changed_stages(folder: Path) -> set[str]:
    return set(json.loads(tiny.run(folder, "dvc", "status", "--json").stdout))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train.learning_rate": 1e-4}, {"train", "diagnose"}),  # evaluate follows, since the model changes
        ({"augment.rotation_degrees": 20}, {"augment", "diagnose"}),
        ({"evaluate.gates": {"accuracy": {"min": 0.5}}}, {"evaluate", "diagnose"}),
        ({"validate.seed": 3}, {"validate", "diagnose"}),
    ],
)
def test_a_param_reaches_its_stage_alone(clone: Path, values: dict[str, Any], expected: set[str]) -> None:
    tiny.set_params(clone, values)
    assert changed_stages(clone) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("stages/train.py", {"train"}),
        ("stages/shared/images.py", {"validate", "prepare", "augment", "train", "evaluate"}),
        ("stages/shared/pages/evaluate.html", {"evaluate"}),
        ("stages/shared/pages/diagnose.html", {"diagnose"}),
        ("stages/flight/cli.py", set()),
        ("stages/flight/record/recorder.py", set()),
    ],
)
def test_a_changed_file_reaches_its_stages_alone(clone: Path, file: str, expected: set[str]) -> None:
    path = clone / file
    path.write_text(path.read_text() + ("<!-- a remark -->\n" if file.endswith(".html") else "# a remark\n"))
    assert changed_stages(clone) == expected


def test_an_experiment_is_a_run_with_its_name(clone: Path) -> None:
    tiny.commit(clone, "lock")
    tiny.run(clone, "dvc", "exp", "run", "--name", "stricter", "-S", "evaluate.gates.accuracy.min=0.99")
    tiny.wait_for_recorders(clone)
    run = tiny.mlflow_runs(clone)[0]
    assert run.info.run_name == "stricter (first run)"
    assert run.data.tags["gates"] == "missed: accuracy"
    assert "accuracy" in tiny.run(clone, "dvc", "metrics", "diff", "--all").stdout
    rows = json.loads(tiny.run(clone, "flight", "runs", "--json").stdout)
    assert [row["name"] for row in rows] == [run.info.run_name]
    assert json.loads(tiny.run(clone, "flight", "why", "stricter", "--json", check=False).stdout)["run_id"] == rows[0]["id"]


def test_no_git_changes_by_recording(clone: Path) -> None:
    (clone / "notes.txt").write_text("not yet added\n")
    (clone / "staged.txt").write_text("added\n")
    tiny.run(clone, "git", "add", "staged.txt")
    before = tiny.run(clone, "git", "status", "--porcelain").stdout, tiny.run(clone, "git", "branch", "-a").stdout
    tiny.set_params(clone, {"train.epochs": 0})
    tiny.run(clone, "dvc", "repro", check=False)
    tiny.wait_for_recorders(clone)
    run = tiny.mlflow_runs(clone)[0]
    after = tiny.run(clone, "git", "status", "--porcelain").stdout, tiny.run(clone, "git", "branch", "-a").stdout
    assert after[0].replace(" M params.yaml\n", "") == before[0]
    assert after[1] == before[1]
    captured = tiny.run(clone, "git", "ls-tree", "--name-only", run.data.tags["code.ref"]).stdout.split()
    assert {"notes.txt", "staged.txt"} <= set(captured)
    shutil.rmtree(clone)
