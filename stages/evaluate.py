"""data/model, data/prepared (test, train) → reports/evaluate, data/exported: figures with confidence intervals, gates, models for phones.

Without Keras's TensorFlow backend, which the conversion needs, nothing is exported.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.flight.record import journal
from stages.shared import files, lite, page, paths, prepared
from stages.shared.errors import AnswersError
from stages.shared.params import ExportFormat, Gate, GateMetric, load
from stages.shared.scores import METRICS, confusion_matrix, interval, score
from stages.shared.thumbnails import thumbnails

NUM_WORST = 24
MAX_SUM_ERROR = 0.01  # of probabilities in half precision


@dataclass(frozen=True)
class Evaluation:
    """Probabilities (n, num_classes) and labels (n,) of the test split, and what follows from them."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    metrics: dict[str, float]
    per_class: list[dict[str, Any]]
    confusion: NDArray[np.int64]
    gates: dict[str, dict[str, Any]]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The likeliest class of each image."""
        return np.asarray(self.probabilities.argmax(axis=1))


def evaluate(
    classes: tuple[str, ...], labels: NDArray[np.int64], probabilities: NDArray[np.float32], gates: Mapping[GateMetric, Gate]
) -> Evaluation:
    """All figures of a test; 95 % intervals are percentiles of a seeded bootstrap over images.

    Raises:
        AnswersError: if the answers are no probabilities.
    """
    lowest, sums = float(probabilities.min()), probabilities.sum(axis=1)
    if lowest < 0 or np.abs(sums - 1).max() > MAX_SUM_ERROR:
        raise AnswersError(
            f"the classifier answers with values from {lowest:.3g} to {probabilities.max():.3g} that add up to {sums.mean():.3g} an image. "
            "Expected probabilities: end the model with softmax (stages/shared/model.py), and type: dvc repro"
        )
    values = score(labels, probabilities)
    metrics: dict[str, float] = {}
    bounds = interval(labels, probabilities)
    for name in METRICS:
        low, high = bounds[name]
        metrics.update({name: round(values[name], 6), f"{name}_low": round(low, 6), f"{name}_high": round(high, 6)})
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), len(classes))
    return Evaluation(classes, labels, probabilities, metrics, _per_class(classes, confusion), confusion, _judge_gates(gates, values))


def _per_class(classes: tuple[str, ...], confusion: NDArray[np.int64]) -> list[dict[str, Any]]:
    hits, actual, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall, precision = hits / np.maximum(actual, 1), hits / np.maximum(predicted, 1)
    f1 = 2 * hits / np.maximum(actual + predicted, 1)
    return [
        {
            "label": label,
            "num_images": int(actual[i]),
            "predicted": int(predicted[i]),
            "recall": round(float(recall[i]), 6),
            "precision": round(float(precision[i]), 6),
            "f1": round(float(f1[i]), 6),
        }
        for i, label in enumerate(classes)
    ]


def _judge_gates(gates: Mapping[GateMetric, Gate], values: dict[str, float]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "value": round(values[name], 6),
            **gate.model_dump(exclude_none=True),
            "passed": (gate.min is None or values[name] >= gate.min) and (gate.max is None or values[name] <= gate.max),
        }
        for name, gate in sorted(gates.items())
    }


def predict(classifier: Any, images: prepared.Prepared, batch_size: int) -> NDArray[np.float32]:
    """Class probabilities of every image, (n, num_classes) float32."""
    import keras

    batches = [np.arange(start, min(start + batch_size, len(images.labels))) for start in range(0, len(images.labels), batch_size)]
    found = [classifier.predict_on_batch(images.gather(rows).astype(np.float32)) for rows in batches]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in found]).astype(np.float32)


def export(classifier: Any, formats: Sequence[ExportFormat], result: Evaluation, images: Path, log: journal.Journal) -> list[lite.Exported]:
    """The classifier as LiteRT models, each run on the test split and told of; a sentence for what cannot be converted or run."""
    import keras

    if formats and keras.backend.backend() != "tensorflow":
        log.say(
            f"nothing exported: Keras computes on {keras.backend.backend()}, and LiteRT's converter needs it on tensorflow. "
            "Type: KERAS_BACKEND=tensorflow dvc repro -f evaluate"
        )
        return []
    exported = []
    for name, content in lite.convert(classifier, formats, prepared.read(images, "train")).items():
        ran = lite.run(content, images, "test")
        if ran is None:
            log.say(f"warning: {name} not exported: LiteRT crashes on it, as it does if the weights have become extreme")
        else:
            exported.append(lite.compare(name, content, result.labels, result.probabilities, ran))
            _tell_exported(exported[-1], log)
    return exported


def _tell_exported(model: lite.Exported, log: journal.Journal) -> None:
    found = {**model.figures, "latency_ms": model.latency_ms}
    log.metrics("evaluate", {f"export/{model.format}/{name}": found[name] for name in ("accuracy", "bytes", "latency_ms")})
    log.say(
        f"exported {model.format}: {found['bytes'] / 1e6:.2f} MB, accuracy {found['accuracy']:.3f} ({found['accuracy_change']:+.3f}), "
        f"{found['latency_ms']:.2g} ms an image on one thread"
    )
    if model.warning:
        log.say(f"warning: {model.warning}")


def write_models(exported: Sequence[lite.Exported], classes: Sequence[str], folder: Path) -> None:
    """A .tflite file for each format, and labels.txt with the class of each output; an empty folder if there is none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for model in exported:
        (folder / f"{model.format}.tflite").write_bytes(model.content)
    if exported:
        files.write_text(folder / "labels.txt", "".join(f"{label}\n" for label in classes))


def write(result: Evaluation, exported: Sequence[lite.Exported], image_paths: tuple[str, ...], raw: Path, report: Path) -> None:
    """metrics.json, the tables, gates.json, and the page."""
    shutil.rmtree(report, ignore_errors=True)
    files.write_json(report / "metrics.json", result.metrics)
    files.write_json(report / "gates.json", result.gates)
    files.write_csv(report / "per_class.csv", list(result.per_class[0]), (list(row.values()) for row in result.per_class))
    table = ([label, *map(int, row)] for label, row in zip(result.classes, result.confusion, strict=True))
    files.write_csv(report / "confusion_matrix.csv", ["actual \\ predicted", *result.classes], table)
    models = ([model.format, *(model.figures[name] for name in lite.FIGURES)] for model in exported)
    files.write_csv(report / "exported.csv", ["format", *lite.FIGURES], models)
    predicted, confidence = result.predicted, result.probabilities.max(axis=1)
    names = [[result.classes[number] for number in numbers] for numbers in (result.labels, predicted)]
    rows = zip(image_paths, *names, (f"{value:.6f}" for value in confidence), strict=True)
    files.write_csv(report / "predictions.csv", ["path", "actual", "predicted", "probability"], rows)
    worst = _worst_mistakes(result)
    pictures = thumbnails(raw, [image_paths[row] for row in worst])
    mistakes = [
        {
            "path": image_paths[row],
            "actual": names[0][row],
            "predicted": names[1][row],
            "probability": float(confidence[row]),
        }
        for row in worst
    ]
    content = {"result": result, "exported": exported, "confusion": result.confusion.tolist(), "mistakes": mistakes, "pictures": pictures}
    files.write_text(report / "index.html", page.render("evaluate.html", **content))


def _worst_mistakes(result: Evaluation) -> list[int]:
    """Wrong answers given with the most confidence first."""
    wrong = np.flatnonzero(result.predicted != result.labels)
    confidence = result.probabilities.max(axis=1)[wrong]
    return [int(row) for row in wrong[np.lexsort((wrong, -confidence))][:NUM_WORST]]


def tell(result: Evaluation, log: journal.Journal) -> None:
    """All figures to the journal, and the main ones to the person."""
    metrics = result.metrics
    log.metrics("evaluate", metrics)
    log.metrics("evaluate", {f"recall/{row['label']}": row["recall"] for row in result.per_class})
    log.say(f"test accuracy {metrics['accuracy']:.3f} ({metrics['accuracy_low']:.3f} to {metrics['accuracy_high']:.3f})")
    for name, gate in result.gates.items():
        if not gate["passed"]:
            wanted = f"at least {gate['min']}" if "min" in gate else f"at most {gate['max']}"
            log.say(f"gate missed: {name} is {gate['value']:.3f}, wanted {wanted}")


def main(log: journal.Journal) -> None:
    from stages.shared import devices, model

    params = load(paths.PARAMS)
    log.write("setting", stage="evaluate", values=devices.set_up(params.train))
    images = prepared.read(paths.PREPARED, "test")
    classifier = model.load(paths.MODEL)
    result = evaluate(images.classes, images.labels, predict(classifier, images, params.train.batch_size), params.evaluate.gates)
    tell(result, log)
    exported = export(classifier, params.evaluate.export, result, paths.PREPARED, log)
    write_models(exported, images.classes, paths.EXPORTED)
    write(result, exported, images.image_paths, paths.RAW, paths.EVALUATE_REPORT)


if __name__ == "__main__":
    journal.run_stage("evaluate", main)
