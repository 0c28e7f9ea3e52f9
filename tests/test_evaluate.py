"""Figures of the test split against scikit-learn, their intervals, the gates, and the report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn import metrics as reference

from stages import evaluate as stage
from stages.shared import scores
from stages.shared.errors import AnswersError
from stages.shared.params import Gate

CLASSES = ("cat", "dog", "owl", "pig")


def random_answers(seed: int, num_images: int, num_classes: int = 4) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Labels and probabilities that are right more often than not, with some classes rare."""
    generator = np.random.default_rng(seed)
    labels = np.minimum(generator.geometric(0.5, num_images) - 1, num_classes - 1).astype(np.int64)
    scattered = generator.normal(size=(num_images, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    raised = np.exp(2 * scattered)
    return labels, (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)


def answers(correct: NDArray[np.bool_], confidence: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Two classes: class 0 is answered with the given confidence; where that is wrong, the label is 1."""
    return np.where(correct, 0, 1).astype(np.int64), np.stack([confidence, 1 - confidence], axis=1).astype(np.float32)


# Figures


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_scikit_learn(seed: int) -> None:
    labels, probabilities = random_answers(seed, 300)
    predicted = probabilities.argmax(axis=1)
    found = scores.score(labels, probabilities)
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["macro_recall"] == pytest.approx(reference.recall_score(labels, predicted, average="macro"))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    np.testing.assert_array_equal(scores.confusion_matrix(labels, predicted, 4), reference.confusion_matrix(labels, predicted))


@pytest.mark.parametrize("changed", [lambda answers: answers - 2, lambda answers: 2 * answers])
def test_answers_that_are_no_probabilities_are_told(changed: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
    labels, probabilities = random_answers(0, 50)
    with pytest.raises(AnswersError, match=r"values from .* to .* that add up to .* Expected probabilities"):
        stage.evaluate(CLASSES, labels, changed(probabilities), {})


def test_classes_that_do_not_occur_are_left_out_of_the_means() -> None:
    labels, probabilities = random_answers(0, 300)
    labels = np.where(labels == 3, 2, labels)
    predicted = probabilities.argmax(axis=1)
    assert 3 in predicted
    found = scores.score(labels, probabilities)
    assert found["macro_recall"] == pytest.approx(reference.recall_score(labels, predicted, labels=[0, 1, 2], average="macro"))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, labels=[0, 1, 2], average="macro"))


def test_figures_a_class_equal_scikit_learn() -> None:
    labels, probabilities = random_answers(1, 300)
    predicted = probabilities.argmax(axis=1)
    rows = stage.evaluate(CLASSES, labels, probabilities, {}).per_class
    wanted = reference.precision_recall_fscore_support(labels, predicted)
    assert [row["label"] for row in rows] == list(CLASSES)
    for name, values in zip(("precision", "recall", "f1", "num_images"), wanted, strict=True):
        assert [row[name] for row in rows] == pytest.approx(list(values), abs=1e-6), name
    assert [row["predicted"] for row in rows] == np.bincount(predicted, minlength=4).tolist()


def test_all_right_and_all_wrong() -> None:
    labels = np.arange(4)
    right = scores.score(labels, np.eye(4, dtype=np.float32))
    assert right == {"accuracy": 1.0, "macro_recall": 1.0, "macro_f1": 1.0, "expected_calibration_error": 0.0}
    wrong = scores.score(labels, np.eye(4, dtype=np.float32)[[1, 2, 3, 0]])
    assert wrong == {"accuracy": 0.0, "macro_recall": 0.0, "macro_f1": 0.0, "expected_calibration_error": 1.0}


# Calibration


def test_calibration_error_is_zero_where_confidence_is_the_share_of_right_answers() -> None:
    confidence = np.repeat([0.55, 0.75, 0.95], 20)
    correct = np.tile(np.arange(20), 3) < np.repeat([11, 15, 19], 20)
    assert scores.score(*answers(correct, confidence))["expected_calibration_error"] == pytest.approx(0, abs=1e-6)


def test_calibration_error_of_a_case_by_hand() -> None:
    # Two bins of 15: confidence 0.95 with 6 of 10 right (gap 0.35), 0.55 with 5 of 5 right (gap 0.45).
    confidence = np.repeat([0.95, 0.55], (10, 5))
    correct = np.array([True] * 6 + [False] * 4 + [True] * 5)
    wanted = (10 * 0.35 + 5 * 0.45) / 15
    assert scores.score(*answers(correct, confidence))["expected_calibration_error"] == pytest.approx(wanted, abs=1e-6)


def test_gaps_within_a_bin_cancel_and_across_bins_do_not() -> None:
    correct = np.array([True, False])
    within = scores.score(*answers(correct, np.array([0.61, 0.65])))
    across = scores.score(*answers(correct, np.array([0.61, 0.99])))
    assert within["expected_calibration_error"] == pytest.approx(abs(1 - 0.61 - 0.65) / 2, abs=1e-6)
    assert across["expected_calibration_error"] == pytest.approx((0.39 + 0.99) / 2, abs=1e-6)


# Intervals


def test_intervals_contain_the_value_and_shrink_with_the_number_of_images() -> None:
    widths: dict[str, list[float]] = {"accuracy": [], "macro_recall": [], "macro_f1": []}
    for num_images in (60, 240, 960):
        labels, probabilities = random_answers(3, num_images)
        found = stage.evaluate(CLASSES, labels, probabilities, {}).metrics
        for name, seen in widths.items():
            assert found[f"{name}_low"] < found[name] < found[f"{name}_high"], (name, num_images)
            seen.append(found[f"{name}_high"] - found[f"{name}_low"])
    for name, seen in widths.items():
        assert seen[0] > 1.3 * seen[1] > 1.3**2 * seen[2], name


def test_interval_of_accuracy_is_as_wide_as_theory_says() -> None:
    correct = np.arange(400) < 300
    bounds = scores.interval(*answers(correct, np.full(400, 0.75)))["accuracy"]
    error = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert bounds == pytest.approx((0.75 - error, 0.75 + error), abs=0.01)


def test_intervals_are_the_same_each_time() -> None:
    answered = random_answers(4, 80)
    assert scores.interval(*answered) == scores.interval(*answered)


# Gates


def test_gates_are_judged_inclusively() -> None:
    correct = np.arange(100) < 75
    labels, probabilities = answers(correct, np.full(100, 0.8))
    for gate, passed in (
        (Gate(min=0.75), True),
        (Gate(min=0.76), False),
        (Gate(max=0.75), True),
        (Gate(max=0.74), False),
        (Gate(min=0), True),
    ):
        found = stage.evaluate(("right", "wrong"), labels, probabilities, {"accuracy": gate}).gates
        assert found == {"accuracy": {"value": 0.75, **gate.model_dump(exclude_none=True), "passed": passed}}


def test_each_gate_is_judged_by_its_own_figure() -> None:
    labels, probabilities = random_answers(5, 200)
    values = scores.score(labels, probabilities)
    found = stage.evaluate(CLASSES, labels, probabilities, {"macro_f1": Gate(min=0.99), "expected_calibration_error": Gate(max=0.9)}).gates
    assert list(found) == ["expected_calibration_error", "macro_f1"]
    assert {name: gate["passed"] for name, gate in found.items()} == {"expected_calibration_error": True, "macro_f1": False}
    assert all(gate["value"] == pytest.approx(values[name], abs=1e-6) for name, gate in found.items())
    assert stage.evaluate(CLASSES, labels, probabilities, {}).gates == {}


# Files


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_csv(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(content.decode().splitlines()))


def test_report_has_the_same_bytes_each_time_and_says_what_was_found(tmp_path: Path) -> None:
    labels, probabilities = random_answers(6, 40)
    image_paths = (*(f"cat/{number}.png" for number in range(39)), "cat/<img src=x onerror=alert(1)>, 1.png")
    labels[39], probabilities[39] = 0, (0.0, 1.0, 0.0, 0.0)
    for number, path in enumerate(image_paths):
        (tmp_path / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 5, 9)).save(tmp_path / "raw" / path)
    classes = ("cat", "dog", "owl", "<b>pig")
    for name in ("first", "second", "second"):
        result = stage.evaluate(classes, labels, probabilities, {"accuracy": Gate(min=0.99)})
        stage.write(result, [], image_paths, tmp_path / "raw", tmp_path / name)
    first = tree(tmp_path / "first")
    assert tree(tmp_path / "second") == first
    assert set(first) == {
        "confusion_matrix.csv",
        "exported.csv",
        "gates.json",
        "index.html",
        "metrics.json",
        "per_class.csv",
        "predictions.csv",
    }

    values = json.loads(first["metrics.json"])
    assert set(values) == {f"{name}{end}" for name in scores.METRICS for end in ("", "_low", "_high")}
    assert all(isinstance(value, float) for value in values.values())
    assert json.loads(first["gates.json"])["accuracy"]["passed"] is False
    rows = read_csv(first["predictions.csv"])
    assert [row["path"] for row in rows] == list(image_paths)
    right = sum(row["actual"] == row["predicted"] for row in rows)
    assert right / 40 == pytest.approx(values["accuracy"])
    confusion = read_csv(first["confusion_matrix.csv"])
    assert [[int(row[name]) for name in classes] for row in confusion] == reference.confusion_matrix(labels, result.predicted).tolist()
    html = first["index.html"].decode()
    assert "<img src=x" not in html
    assert "<b>pig" not in html
    assert "&lt;b&gt;pig" in html
    assert html.count("<figure>") == min(stage.NUM_WORST, 40 - right)
    assert "&lt;img src=x onerror" in html.split("<figure>")[1]


def test_worst_mistakes_come_first() -> None:
    confidence = np.array([0.6, 0.9, 0.7, 0.95, 0.9])
    correct = np.array([False, False, False, True, False])
    result = stage.evaluate(("right", "wrong"), *answers(correct, confidence), {})
    assert stage._worst_mistakes(result) == [1, 4, 2, 0]
