"""params.yaml: shipped values, and every kind of fault named at once."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stages.shared.errors import ParamsError
from stages.shared.params import TrainParams, load, parse, read_yaml
from tests.tiny import ROOT

SHIPPED = ROOT / "params.yaml"


def changed(**values: Any) -> dict[str, Any]:
    """The shipped values with some replaced; ``train__epochs=2`` is ``train.epochs``."""
    content: dict[str, Any] = copy.deepcopy(read_yaml(SHIPPED))
    for key, value in values.items():
        *sections, name = key.split("__")
        section = content
        for part in sections:
            section = section[part]
        section[name] = value
    return content


def faults(values: Any) -> str:
    """The message that refuses ``values``."""
    with pytest.raises(ParamsError) as refusal:
        parse(values)
    return str(refusal.value)


def test_shipped_values_load() -> None:
    params = load(SHIPPED)
    assert params.ingest.source == "data/sample/fashion_mnist.zip"
    assert params.train.learning_rate == 3e-3
    assert params.train.clip_norm is None
    assert params.validate_.policy.empty == "quarantine"
    assert params.evaluate.gates["accuracy"].min == 0.8


def test_exponent_without_point_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = SHIPPED.read_text(encoding="utf-8")
    assert "learning_rate: 3e-3 " in text
    path.write_text(text.replace("learning_rate: 3e-3 ", "learning_rate: 1e-3 "), encoding="utf-8")
    assert load(path).train.learning_rate == 0.001


def test_values_are_frozen() -> None:
    params = load(SHIPPED)
    with pytest.raises(ValidationError):
        params.train.epochs = 3
    with pytest.raises(ValidationError):
        params.validate_.policy.empty = "report"
    assert params == load(SHIPPED)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = SHIPPED.read_text(encoding="utf-8")
    for old, new in (
        ("  dropout: 0.2 ", "  dropuot: 0.2 "),
        ("  epochs: 20 ", "  epochs: many "),
        ("  image_size_px: 48 ", "  image_size_px: 16 "),
        ("  optimizer: adam ", "  optimizer: adamm "),
        ("    accuracy: {min: 0.8}", "    accuracy: {min: 0.8, max: 0.9}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError) as refusal:
        load(path)
    message = str(refusal.value)
    assert f"{path} has 6 faults" in message
    lines = {line.strip().split(":")[0]: line for line in message.splitlines() if line.startswith("  ")}
    assert set(lines) == {
        "train.dropuot",
        "train.dropout",
        "train.epochs",
        "prepare.image_size_px",
        "train.optimizer",
        "evaluate.gates.accuracy",
    }
    assert "did you mean dropout?" in lines["train.dropuot"]
    assert "missing" in lines["train.dropout"]
    assert "'many'" in lines["train.epochs"]
    assert "integer" in lines["train.epochs"]
    assert "16" in lines["prepare.image_size_px"]
    assert "32" in lines["prepare.image_size_px"]
    assert "'adamm'" in lines["train.optimizer"]
    assert "adadelta" in lines["train.optimizer"]
    assert "min" in lines["evaluate.gates.accuracy"]
    assert "dvc repro" in message


@pytest.mark.parametrize("name", ["epochs", "fine_tune_epochs"])
def test_a_phase_is_longer_than_its_warm_up(name: str) -> None:
    train = load(SHIPPED).train.model_dump()
    chosen = {**train, "fine_tune_epochs": 4, "warmup_epochs": 3}
    TrainParams.model_validate(chosen)
    TrainParams.model_validate({**chosen, "fine_tune_epochs": 0})
    with pytest.raises(ValidationError, match=f"warmup_epochs 3 leaves none of {name} 3"):
        TrainParams.model_validate({**chosen, name: 3})


def test_duplicate_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.read_text(encoding="utf-8") + "    accuracy: {min: 0.1}\n", encoding="utf-8")
    with pytest.raises(ParamsError, match="accuracy"):
        load(path)


@pytest.mark.parametrize("content", [b"train: [1", b"\xff\xfe\x00", None])
def test_unreadable_file_is_explained(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ParamsError, match="cannot be read"):
        load(path)


@pytest.mark.parametrize("content", [None, [], "train", {}])
def test_file_of_another_shape_is_refused(content: Any) -> None:
    assert "fault" in faults(content)


@pytest.mark.parametrize("gate", [{}, {"min": 0.5, "max": 0.9}])
def test_gate_has_exactly_one_bound(gate: dict[str, float]) -> None:
    message = faults(changed(evaluate__gates={"accuracy": gate}))
    assert "evaluate.gates.accuracy" in message
    assert "{min: number} or {max: number}" in message


def test_gate_of_unknown_metric_names_the_known() -> None:
    message = faults(changed(evaluate__gates={"f1": {"min": 0.5}}))
    assert "evaluate.gates.f1" in message
    assert "macro_f1" in message


def test_fractions_must_leave_images_to_train_on() -> None:
    message = faults(changed(validate__val_fraction=0.5, validate__test_fraction=0.5))
    assert "val_fraction + test_fraction must stay below 1" in message
    assert parse(changed(validate__val_fraction=0.5, validate__test_fraction=0.49)).validate_.val_fraction == 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "key",
    [
        "validate__max_class_ratio",
        "validate__val_fraction",
        "augment__rotation_degrees",
        "augment__zoom",
        "train__alpha",
        "train__learning_rate",
        "train__clip_norm",
        "train__plateau_factor",
        "train__weight_decay",
    ],
)
def test_nan_and_infinity_are_refused(key: str, value: float) -> None:
    message = faults(changed(**{key: value}))
    assert key.replace("__", ".") in message
    assert str(value) in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gate_at_nan_or_infinity_is_refused(value: float) -> None:
    assert "evaluate.gates.accuracy.min" in faults(changed(evaluate__gates={"accuracy": {"min": value}}))


@pytest.mark.parametrize(
    "key", ["train__epochs", "train__learning_rate", "train__seed", "train__clip_norm", "augment__zoom", "validate__max_class_ratio"]
)
def test_bool_is_no_number(key: str) -> None:
    message = faults(changed(**{key: True}))
    assert f"{key.replace('__', '.')}: True is not allowed" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train__deterministic", 1),
        ("train__epochs", 2.0),
        ("train__epochs", "2"),
        ("train__epochs", 0),
        ("train__learning_rate", "0.1"),
        ("train__learning_rate", -1e-3),
        ("train__alpha", 0.4),
        ("train__dropout", 1.0),
        ("train__seed", 2**31),
        ("validate__near_duplicate_distance", 17),
        ("ingest__source", ""),
    ],
)
def test_no_silent_conversion_and_no_value_out_of_range(key: str, value: Any) -> None:
    message = faults(changed(**{key: value}))
    assert key.replace("__", ".") in message
    assert repr(value) in message


def test_null_switches_off_where_it_is_allowed() -> None:
    params = parse(changed(train__clip_norm=None, train__early_stopping_patience=None))
    assert params.train.clip_norm is None
    assert "train.epochs: None" in faults(changed(train__epochs=None))


@pytest.mark.parametrize("section", ["ingest", "validate", "prepare", "augment", "train", "evaluate"])
def test_a_missing_section_is_named(section: str) -> None:
    values = changed()
    del values[section]
    assert f"{section}: missing" in faults(values)


def test_every_parameter_has_a_comment() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    found = [number for number, line in enumerate(lines) if re.match(r"  \w+:", line)]
    assert len(found) == sum(len(section) for section in read_yaml(SHIPPED).values())
    bare = [lines[i].strip() for i in found if "# " not in lines[i] and not lines[i - 1].strip().startswith("# ")]
    assert bare == []


@pytest.mark.parametrize(
    ("formats", "told"),
    [(["int4"], "'int4' is not allowed"), (["int8", "float32", "int8"], "expected each format once"), ("int8", "'int8'")],
)
def test_formats_of_the_export(formats: Any, told: str) -> None:
    message = faults(changed(evaluate__export=formats))
    assert "evaluate.export" in message
    assert told in message
    assert parse(changed(evaluate__export=[])).evaluate.export == []
