"""The LiteRT models: true to the original, small, int8 throughout where asked for, the same bytes each time; and what is said of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from stages import evaluate as stage
from stages.flight.record import filled_in
from stages.flight.record.journal import Journal
from stages.shared import files, lite, model, prepared
from stages.shared.params import ExportFormat
from tests.imports import ROOT

FORMATS: tuple[ExportFormat, ...] = ("float32", "float16", "int8")
CLASSES = ("blue", "green", "red", "white")
SIZE_PX = 32
PER_CLASS = 24


class Listener(Journal):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(None)
        self.said: list[str] = []
        self.values: dict[str, float] = {}

    def say(self, message: str) -> None:
        self.said.append(message)

    def metrics(self, stage: str, values: dict[str, float], step: int | None = None) -> None:
        self.values.update(values)


def write_split(folder: Path, seed: int, brightest: int = 256) -> None:
    """Coarse patterns with one colour the stronger, each class its own."""
    generator = np.random.default_rng(seed)
    colours = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]])
    labels = np.repeat(np.arange(4), PER_CLASS)
    patterns = generator.integers(20, brightest, (len(labels), 4, 4, 3)).repeat(SIZE_PX // 4, axis=1).repeat(SIZE_PX // 4, axis=2)
    folder.mkdir(parents=True)
    np.save(folder / "images-00000.npy", (patterns * (0.3 + 0.7 * colours[labels][:, None, None])).astype(np.uint8))
    np.save(folder / "labels.npy", labels)
    (folder / "paths.json").write_text(f"{[f'{i}.png' for i in range(len(labels))]}".replace("'", '"'))
    files.write_json(folder / "digest.json", {"sha256": ""})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lite") / "prepared"
    for seed, split in enumerate(("train", "test")):
        write_split(folder / split, seed)
    files.write_json(folder / "prepared.json", {"classes": CLASSES, "image_size_px": SIZE_PX})
    return folder


def build() -> Any:
    keras.utils.set_random_seed(0)
    return model.build_classifier(4, SIZE_PX, alpha=0.35, dropout=0.2, batchnorm_momentum=0.0, seed=0)


@pytest.fixture(scope="module")
def classifier(images: Path) -> Any:
    """Better than chance without the minute of a training: BatchNorm sees the images once, and least squares fit the head.

    Its random layers would make noise of everything; raised by 1, most units pass on what they get.
    """
    train = prepared.read(images, "train")
    pixels = train.gather(np.arange(len(train.labels))).astype(np.float32)
    made = build()
    for layer in made.get_layer("backbone").layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.beta.assign(np.ones(layer.beta.shape))
    made(pixels, training=True)
    pooled = keras.Model(made.input, made.get_layer("pool").output)
    features = keras.ops.convert_to_numpy(pooled(pixels))
    weights = np.linalg.lstsq(np.c_[features, np.ones(len(features))], 8 * np.eye(4)[train.labels], rcond=0.01)[0]
    made.get_layer("probabilities").set_weights([weights[:-1], weights[-1]])
    return made


@pytest.fixture(scope="module")
def models(classifier: Any, images: Path) -> dict[ExportFormat, bytes]:
    return lite.convert(classifier, FORMATS, prepared.read(images, "train"))


def result_of(classifier: Any, images: Path) -> stage.Evaluation:
    test = prepared.read(images, "test")
    return stage.evaluate(CLASSES, test.labels, stage.predict(classifier, test, 32), {})


def interpreter(content: bytes) -> Any:
    """Without XNNPACK, which hides the tensors that it takes over."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    made = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    made.allocate_tensors()
    return made


def types(content: bytes) -> set[str]:
    return {np.dtype(tensor["dtype"]).name for tensor in interpreter(content).get_tensor_details()}


@pytest.mark.parametrize(("name", "difference", "agreement"), [("float32", 1e-5, 1.0), ("float16", 0.01, 0.97), ("int8", 0.1, 0.8)])
def test_answers_are_those_of_keras(
    models: dict[ExportFormat, bytes], classifier: Any, images: Path, name: ExportFormat, difference: float, agreement: float
) -> None:
    result = result_of(classifier, images)
    assert result.metrics["accuracy"] > 0.5, "answers by chance would prove nothing"
    ran = lite.run(models[name], images, "test")
    assert ran is not None
    found, latency_ms = ran
    assert found.shape == result.probabilities.shape
    assert found.dtype == np.float32
    assert np.abs(found - result.probabilities).mean() < difference
    assert np.mean(found.argmax(axis=1) == result.predicted) >= agreement
    assert 0 < latency_ms < 100


def test_each_format_is_smaller_than_the_one_before(models: dict[ExportFormat, bytes]) -> None:
    sizes = {name: len(content) for name, content in models.items()}
    assert list(sizes) == list(FORMATS)
    assert sizes["float16"] < 0.6 * sizes["float32"]
    assert sizes["int8"] < 0.8 * sizes["float16"]


def test_batchnorm_is_folded(models: dict[ExportFormat, bytes]) -> None:
    names = [operation["op_name"] for operation in interpreter(models["float32"])._get_ops_details()]
    assert set(names) == {"MUL", "ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "MEAN", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"}
    assert names.count("MUL") == 1, "the scaling of the input"


def test_int8_is_integer_throughout_and_takes_the_bytes_of_a_camera(models: dict[ExportFormat, bytes]) -> None:
    made = interpreter(models["int8"])
    (taken,), (given,) = made.get_input_details(), made.get_output_details()
    assert taken["shape"].tolist() == [1, SIZE_PX, SIZE_PX, 3]
    assert taken["dtype"] == np.uint8
    assert given["dtype"] == np.float32
    floats = [tensor["name"] for tensor in made.get_tensor_details() if tensor["dtype"] == np.float32]
    assert floats == [given["name"]]
    assert types(models["int8"]) == {"uint8", "int8", "int32", "float32"}, "int32 are the biases"


def test_types_of_the_others(models: dict[ExportFormat, bytes]) -> None:
    assert types(models["float32"]) == {"float32", "int32"}, "int32 are the axes of the mean"
    assert types(models["float16"]) == {"float16", "float32", "int32"}


def test_dull_images_leave_the_range_of_the_input_whole(classifier: Any, tmp_path: Path) -> None:
    write_split(tmp_path / "train", 0, brightest=90)
    files.write_json(tmp_path / "prepared.json", {"classes": CLASSES, "image_size_px": SIZE_PX})
    content = lite.convert(classifier, ["int8"], prepared.read(tmp_path, "train"))["int8"]
    assert interpreter(content).get_input_details()[0]["quantization"] == (1.0, 0)


def test_another_process_makes_the_same_bytes(models: dict[ExportFormat, bytes], classifier: Any, images: Path, tmp_path: Path) -> None:
    model.save(classifier, tmp_path / "model")
    code = (
        "import hashlib, pathlib, sys; from stages.shared import lite, model, prepared\n"
        "made = lite.convert(model.load(pathlib.Path(sys.argv[1])), sys.argv[3:], prepared.read(pathlib.Path(sys.argv[2]), 'train'))\n"
        "print(*(hashlib.sha256(content).hexdigest() for content in made.values()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model"), str(images), *FORMATS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hashlib.sha256(models[name]).hexdigest() for name in FORMATS]
    assert "UserWarning" not in done.stderr


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_leaves_no_trace(models: dict[ExportFormat, bytes], classifier: Any, images: Path, precision: str) -> None:
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(precision)
        mixed = build()
        mixed.set_weights(classifier.get_weights())
        assert mixed.get_layer("backbone").layers[1].compute_dtype != "float32"
        content = lite.convert(mixed, ["float32"], prepared.read(images, "train"))["float32"]
    finally:
        keras.config.set_dtype_policy(before)
    assert content == models["float32"]


def test_no_format_loads_no_library() -> None:
    code = (
        "import sys; from stages import evaluate; from stages.shared import lite; assert lite.convert(None, [], None) == {}\n"
        "print({'tensorflow', 'ai_edge_litert', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_without_tensorflow_nothing_is_exported_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, classifier: Any, images: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    log = Listener()
    result = result_of(classifier, images)
    assert stage.export(classifier, FORMATS, result, images, log) == []
    assert len(log.said) == 1
    assert "KERAS_BACKEND=tensorflow dvc repro -f evaluate" in log.said[0]
    assert stage.export(classifier, [], result, images, log) == []
    assert len(log.said) == 1, "nobody asked for a model"
    stage.write_models([], CLASSES, tmp_path / "exported")
    assert list((tmp_path / "exported").iterdir()) == []


def test_a_model_on_which_litert_crashes_costs_no_run(classifier: Any, images: Path) -> None:
    """Weights as a training that diverged leaves them: LiteRT 2.3 aborts its process on their int8 model."""
    wild = build()
    wild.set_weights([100 * weights for weights in classifier.get_weights()])
    log = Listener()
    exported = stage.export(wild, FORMATS, result_of(wild, images), images, log)
    assert [found.format for found in exported][:2] == ["float32", "float16"]
    warnings = [message for message in log.said if message.startswith("warning: int8 not exported")]
    assert len(exported) + len(warnings) == 3


def test_what_is_written_and_told(classifier: Any, images: Path, tmp_path: Path) -> None:
    result, log = result_of(classifier, images), Listener()
    exported = stage.export(classifier, FORMATS, result, images, log)
    stage.write_models(exported, CLASSES, tmp_path / "exported")
    stage.write(result, exported, prepared.read(images, "test").image_paths, tmp_path, tmp_path / "report")
    stage.tell(result, log)
    assert sorted(path.name for path in (tmp_path / "exported").iterdir()) == [
        "float16.tflite",
        "float32.tflite",
        "int8.tflite",
        "labels.txt",
    ]
    assert (tmp_path / "exported/labels.txt").read_text() == "blue\ngreen\nred\nwhite\n"
    assert (tmp_path / "exported/int8.tflite").read_bytes() == exported[2].content
    rows = (tmp_path / "report/exported.csv").read_text().splitlines()
    assert rows[0] == "format,bytes,accuracy,accuracy_change,agreement,macro_f1"
    assert rows[1] == f"float32,{len(exported[0].content)},{result.metrics['accuracy']},0.0,1.0,{result.metrics['macro_f1']}"
    page = (tmp_path / "report/index.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in ("original", *FORMATS))
    assert [line.split(":")[0] for line in log.said if line.startswith("exported")] == [f"exported {name}" for name in FORMATS]

    latencies = {f"export/{name}/latency_ms" for name in FORMATS}
    assert latencies < set(log.values)
    again = Listener()
    filled_in.from_report("evaluate", tmp_path / "report", again)
    assert again.values == {name: value for name, value in log.values.items() if name not in latencies}


def answers(num_images: int, lost: int, gained: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Labels, and the probabilities of an original that is wrong in the last half and of a model that differs from it as given."""
    labels = np.zeros(num_images, np.int64)
    original = np.repeat([0, 1], num_images // 2)
    changed = original.copy()
    changed[:lost] = 1
    changed[num_images - gained :] = 0
    return labels, np.eye(2, dtype=np.float32)[original], np.eye(2, dtype=np.float32)[changed]


@pytest.mark.parametrize(
    ("num_images", "lost", "gained", "is_told"),
    [
        (1000, 30, 5, True),  # 2.5 points, P(30 or more of 35) < 0.001
        (1000, 18, 0, False),  # beyond chance, and less than 2 points
        (100, 4, 0, False),  # 4 points, and P = 1/16
        (100, 5, 0, True),  # P = 1/32
        (1000, 220, 195, False),  # 2.5 points, and P = 0.12
        (1000, 5, 40, False),
    ],
)
def test_a_loss_beyond_chance_is_told(num_images: int, lost: int, gained: int, is_told: bool) -> None:
    labels, original, changed = answers(num_images, lost, gained)
    found = lite.compare("int8", b"12345", labels, original, (changed, 1.0))
    assert found.figures["bytes"] == 5
    assert found.figures["accuracy"] == pytest.approx(0.5 + (gained - lost) / num_images)
    assert found.figures["accuracy_change"] == pytest.approx((gained - lost) / num_images)
    assert found.figures["agreement"] == pytest.approx(1 - (gained + lost) / num_images)
    assert (found.warning is not None) == is_told
    if found.warning:
        assert found.warning.startswith(f"int8 gets {lost} images wrong that the original gets right, and {gained} the other way round")
        assert found.warning.endswith("Ship float16 instead.")
