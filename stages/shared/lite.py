"""The classifier as LiteRT (TensorFlow Lite) models for phones: converted, run on the CPU, timed, and compared with the original.

Each takes one image (1, size_px, size_px, 3), RGB from 0 to 255, and gives class probabilities (1, num_classes) float32. float32 and
float16 take the image as float32. int8 takes it as uint8 with scale 1 and zero point 0: a camera's bytes go in unchanged. The batch of 1
is fixed, since the accelerators of phones want fixed shapes.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.shared.params import ExportFormat
from stages.shared.prepared import Prepared, read
from stages.shared.scores import score

CALIBRATION_IMAGES = 200  # TensorFlow's guide to quantisation advises 100 to 500
NUM_UNTIMED, NUM_TIMED = 5, 50
FIGURES = ("bytes", "accuracy", "accuracy_change", "agreement", "macro_f1")
# A smaller loss is the price of the size. A larger one is told, unless it comes by chance in more than one of 20 test splits.
TOLERATED_LOSS, TOLERATED_CHANCE = 0.02, 0.05


def convert(classifier: Any, formats: Sequence[ExportFormat], train: Prepared) -> dict[ExportFormat, bytes]:
    """The bytes of a .tflite file for each format; the same bytes each time. Needs Keras on TensorFlow.

    float16 stores the weights in half the bytes, and computes as the phone likes. int8 has weights and activations in 8 bits; their
    ranges are those that images of the training split, evenly chosen, take.
    """
    if not formats:
        return {}
    import tensorflow as tf

    plain = _in_float32(classifier)
    shape = tf.TensorSpec((1, *plain.input_shape[1:]), tf.float32, name="image")
    function = tf.function(lambda image: plain(image, training=False), input_signature=[shape])
    traced = function.get_concrete_function()
    return {name: _convert(function, traced, name, train) for name in formats}


def _in_float32(classifier: Any) -> Any:
    """A copy that computes in float32: a graph of mixed precision would keep its casts."""
    import keras

    architecture = classifier.to_json().replace("mixed_float16", "float32").replace("mixed_bfloat16", "float32")
    copy = keras.models.model_from_json(architecture)
    copy.set_weights(classifier.get_weights())
    return copy


def _convert(function: Any, traced: Any, name: ExportFormat, train: Prepared) -> bytes:
    import tensorflow as tf

    # Given the function as owner of the variables, the converter freezes the graph in memory, which takes a second. By way of a
    # SavedModel, as with from_keras_model and Keras's export(format="litert"), the same model takes eight.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], function)
    if name != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if name == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif name == "int8":
        converter.representative_dataset = lambda: _calibration(train)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
    with warnings.catch_warnings():
        # meant for another kind of quantisation
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected", UserWarning)
        return bytes(converter.convert())


def _calibration(train: Prepared) -> Iterator[list[NDArray[np.float32]]]:
    """Evenly chosen images; rows are in the order of paths, so every class has its share."""
    num_images = min(CALIBRATION_IMAGES, len(train.labels))
    for number, row in enumerate(np.linspace(0, len(train.labels) - 1, num_images).round().astype(np.int64)):
        image = train.gather(row[None])
        if number == 0:
            image[0, 0, :2] = [[0], [255]]  # two pixels, so that the input's range is 0 to 255 also where all images are dull
        yield [image.astype(np.float32)]


def run(content: bytes, prepared: Path, split: str) -> tuple[NDArray[np.float32], float] | None:
    """Class probabilities of a split's images, (n, num_classes) float32, and the milliseconds that one image takes on one thread.

    In a process of its own: LiteRT 2.3 aborts on int8 models with extreme ranges, as a training that diverged leaves them. None then.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_be_quiet) as pool:
        try:
            return pool.submit(_run, content, prepared, split).result()
        except BrokenProcessPool:
            return None


def _be_quiet() -> None:
    """LiteRT's notes have no level that could be set, and its errors are exceptions, which reach the parent."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _run(content: bytes, prepared: Path, split: str) -> tuple[NDArray[np.float32], float]:
    """One image at a time, as on a phone, by as many interpreters as there are cores: the answers depend on neither."""
    images = read(prepared, split)
    latency_ms = _latency_ms(content, images.gather(np.arange(1)))
    parts = np.array_split(np.arange(len(images.labels)), os.cpu_count() or 1)
    with ThreadPoolExecutor(len(parts)) as pool:
        return np.concatenate(list(pool.map(lambda rows: _answers(content, images, rows), parts))), latency_ms


def _answers(content: bytes, images: Prepared, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    answer = _interpreter(content)
    found = np.empty((len(rows), len(images.classes)), np.float32)
    for position in range(len(rows)):
        found[position] = answer(images.gather(rows[position : position + 1]))
    return found


def _latency_ms(content: bytes, image: NDArray[np.uint8]) -> float:
    """The median of some times."""
    answer, seconds = _interpreter(content), []
    for _ in range(NUM_UNTIMED + NUM_TIMED):
        start = time.perf_counter()
        answer(image)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds[NUM_UNTIMED:]))


def _interpreter(content: bytes) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """A function from an image (1, size_px, size_px, 3) to probabilities (1, num_classes), on one thread."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()

    def answer(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        interpreter.set_tensor(taken["index"], image.astype(taken["dtype"]))
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(given["index"]), np.float32)

    return answer


@dataclass(frozen=True)
class Exported:
    """A LiteRT model, its FIGURES on the test split, and what to do if it is worse than the original."""

    format: ExportFormat
    content: bytes
    figures: dict[str, float]
    latency_ms: float  # differs from run to run, so that no out may hold it
    warning: str | None


def compare(
    name: ExportFormat,
    content: bytes,
    labels: NDArray[np.int64],
    original: NDArray[np.float32],
    ran: tuple[NDArray[np.float32], float],
) -> Exported:
    """Figures from labels (n,), the original's probabilities (n, num_classes), and what ``run`` found.

    Whether a loss may be chance is judged by the images that one of them alone gets right (McNemar's test, 1947, in its exact form).
    """
    probabilities, latency_ms = ran
    expected, answered = original.argmax(axis=1), probabilities.argmax(axis=1)
    lost = int(np.sum((expected == labels) & (answered != labels)))
    gained = int(np.sum((expected != labels) & (answered == labels)))
    change = (gained - lost) / len(labels)
    found = score(labels, probabilities)
    figures = {
        "bytes": len(content),
        "accuracy": round(found["accuracy"], 6),
        "accuracy_change": round(change, 6),
        "agreement": round(float(np.mean(expected == answered)), 6),
        "macro_f1": round(found["macro_f1"], 6),
    }
    warning = _warning(name, lost, gained) if change < -TOLERATED_LOSS else None
    return Exported(name, content, figures, latency_ms, warning)


def _warning(name: ExportFormat, lost: int, gained: int) -> str | None:
    from scipy.stats import binomtest

    if binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue >= TOLERATED_CHANCE:
        return None
    instead = {"int8": "float16", "float16": "float32"}.get(name)
    advice = f"Ship {instead} instead" if instead else "Ship none of them: the conversion is at fault"
    return f"{name} gets {lost} images wrong that the original gets right, and {gained} the other way round: more than chance. {advice}."
