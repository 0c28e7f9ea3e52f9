"""What made a training slow, as its journal tells it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.flight.record.journal import Journal, read
from stages.flight.runs import speed
from stages.shared.params import ALPHAS
from tests import tiny

SMALL = {"train.alpha": 0.35, "prepare.image_size_px": 48, "train.batch_size": 32, "ingest.backbone_weights": "none"}
NUM_TRAIN = 6_000


def findings(folder: Path, epochs: list[tuple[float, float]], params: dict[str, Any], **machine: Any) -> list[dict[str, Any]]:
    """Of a training whose epochs had the given images/s and shares of waiting; ``machine``: what it has, trained on, and gpu_percent."""
    log = Journal(folder)
    log.write("capture", part="environment", hardware={"num_usable_cpus": 4, "gpus": machine.get("has", machine.get("gpus", []))})
    log.write("setting", stage="train", values={"gpus": machine.get("gpus", [])})
    log.write("evidence", part="setup", values={"num_train": NUM_TRAIN})
    for number, (rate, share) in enumerate(epochs):
        log.write("evidence", part="epoch", values={"phase": "head", "epoch": number})
        if "gpu_percent" in machine:
            load = machine["gpu_percent"] if number else 100.0  # while the graph is traced, nothing is typical
            log.metrics("system", {"gpu_0_utilization_percentage": load, "gpu_1_utilization_percentage": 0.0}, step=number)
        log.metrics("train", {"images_per_second": rate, "data_wait_share": share}, step=number)
    return speed.findings(read(folder / "journal.jsonl")[0], {**SMALL, **params})


def test_a_training_that_waits_for_images(tmp_path: Path) -> None:
    found = findings(tmp_path, [(20.0, 0.0), (100.0, 0.5), (100.0, 0.7)], {"augment.mixup": 0.2, "augment.cutmix": 0.0})
    assert [(finding["fault"], finding["severity"], finding["score"]) for finding in found] == [("input-bound", "warning", 0.6)]
    assert found[0]["evidence"]["training_seconds"] == 120.0
    assert found[0]["evidence"]["waited_seconds"] == 72.0
    assert "60%" in found[0]["explanation"]
    assert "250.0 images/s" in found[0]["explanation"]
    cores, cheaper = (fix["action"] for fix in found[0]["fix"])
    assert "more cores than 4" in cores
    assert "48 px" in cheaper
    assert cheaper.endswith("augment.mixup=0.2")


@pytest.mark.parametrize(
    ("epochs", "why_not"),
    [
        ([(1.0, 0.9), (5000.0, 0.9)], "of the one that was slow, part was the tracing, and the other was short"),
        ([(100.0, 0.5)], "one epoch tells nothing"),
        ([(5.0, 0.2)] * 5, "neither waiting nor computing is all of it"),
        ([(50.0, 0.0)] * 5, "eight minutes on a CPU"),
        ([], "nothing was trained"),
    ],
)
def test_what_is_no_finding(tmp_path: Path, epochs: list[tuple[float, float]], why_not: str) -> None:
    assert findings(tmp_path, epochs, {}) == [], why_not


def test_epochs_whose_graph_was_traced_are_left_out(tmp_path: Path) -> None:
    """The first of a phase, and the one in which a training that was cut off went on."""
    log = Journal(tmp_path)
    log.write("setting", stage="train", values={"gpus": []})
    log.write("evidence", part="setup", values={"num_train": NUM_TRAIN})
    log.write("resumed", stage="train", run="earlier", phase="head", epoch=2, step=5)
    epochs = [("head", 0), ("head", 1), ("head", 2), ("fine-tune", 0), ("fine-tune", 1)]
    for number, (phase, epoch) in enumerate(epochs):
        log.write("evidence", part="epoch", values={"phase": phase, "epoch": epoch})
        log.metrics("train", {"images_per_second": 10.0, "data_wait_share": 0.5}, step=number)
    (found,) = speed.findings(read(tmp_path / "journal.jsonl")[0], SMALL)
    assert found["evidence"]["num_epochs"] == 2


@pytest.mark.parametrize(
    ("params", "machine", "fixes"),
    [
        ({}, {}, ["make run EXTRA=gpu"]),
        ({"prepare.image_size_px": 224}, {}, ["prepare.image_size_px=112"]),
        ({"prepare.image_size_px": 128, "train.alpha": 1.0}, {}, ["prepare.image_size_px=96", "train.alpha=0.75"]),
        ({"train.alpha": 1.4, "ingest.backbone_weights": "mine.weights.h5"}, {}, ["make run EXTRA=gpu"]),
        ({"train.alpha": 0.75}, {"has": [{"name": "T4"}]}, ["did not use", "train.alpha=0.5"]),
        ({}, {"gpus": ["T4"], "gpu_percent": 12.0}, ["train.batch_size=128"]),
        ({"train.batch_size": 256}, {"gpus": ["T4"], "gpu_percent": 12.0}, ["several runs"]),
    ],
)
def test_a_long_training_of_a_slow_processor(tmp_path: Path, params: dict[str, Any], machine: dict[str, Any], fixes: list[str]) -> None:
    (found,) = findings(tmp_path, [(10.0, 0.9), (20.0, 0.02), (20.0, 0.02), (20.0, 0.02)], params, **machine)
    assert found["fault"] == "compute-bound"
    assert "15.0 min" in found["explanation"]
    assert len(found["fix"]) == len(fixes)
    for fix, wanted in zip(found["fix"], fixes, strict=True):
        assert wanted in fix.get("command", fix.get("action"))
        assert set(fix) in ({"action"}, {"param", "from", "to", "command"})
    if machine.get("gpus"):
        assert found["evidence"]["gpu_utilization_percentage"] == machine["gpu_percent"]


@pytest.mark.parametrize(
    ("rate", "params", "machine"),
    [
        (20.0, {}, {"gpus": ["T4"], "gpu_percent": 90.0}),  # busy: it is what the model needs
        (20.0, {}, {"gpus": ["T4"]}),  # nobody looked
        (150.0, {"prepare.image_size_px": 224, "train.alpha": 1.0}, {}),  # as fast as a GPU
    ],
)
def test_a_long_training_that_is_as_fast_as_it_can(tmp_path: Path, rate: float, params: dict[str, Any], machine: dict[str, Any]) -> None:
    assert findings(tmp_path, [(rate, 0.0)] * 20, params, **machine) == []


def test_every_width_has_its_cost() -> None:
    assert set(speed.MULTIPLY_ADDS) == set(ALPHAS)


def test_why_tells_it_beside_the_verdict(trained: Path, tmp_path: Path) -> None:
    """A real record in which training was a lot slower."""
    shutil.copytree(trained / ".flight", tmp_path / ".flight", ignore=shutil.ignore_patterns("model", "scan", "checkpoints"))
    (path,) = tmp_path.glob(".flight/runs/*/journal.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for record in lines:
        if record["type"] == "metrics" and "images_per_second" in record["values"]:
            record["values"] |= {"images_per_second": 0.1, "data_wait_share": 0.0}
    path.write_text("".join(f"{json.dumps(record)}\n" for record in lines))
    verdict = json.loads((trained / "reports/diagnose/verdict.json").read_text())
    answer = json.loads(tiny.run(tmp_path, "flight", "why", "--json", check=False).stdout)
    assert {name: answer[name] for name in verdict} == verdict
    assert [finding["fault"] for finding in answer["speed"]] == ["compute-bound"]
    assert answer["speed"][0].keys() == {"fault", "score", "severity", "evidence", "explanation", "fix"}
    shown = tiny.run(tmp_path, "flight", "why", check=False).stdout
    assert f"speed, compute-bound: {answer['speed'][0]['explanation'][:60]}" in shown
    assert "make run EXTRA=gpu" in shown
