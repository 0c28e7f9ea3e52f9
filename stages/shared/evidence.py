"""What a run leaves for its diagnosis: plain, versioned data without times or machines."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from stages.shared import files

VERSION = 1


def _read_number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _write_number(value: float) -> float | str:
    return value if abs(value) < float("inf") else str(value)


# JSON has no NaN and no infinity: they are written as the words "nan", "inf" and "-inf".
Number = Annotated[float, BeforeValidator(_read_number), PlainSerializer(_write_number, when_used="json")]


class Part(BaseModel):
    """A piece of evidence; unknown fields of a later version are left aside."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Setup(Part):
    """What the training set out to do; ``num_train`` counts the draws of an epoch."""

    num_classes: int
    num_train: int
    num_val: int
    batch_size: int
    steps_per_epoch: int
    pretrained: bool
    num_trainable: int
    optimizer: str


class Memory(Part):
    """What a step was estimated to need when that was more than was free, in bytes and images."""

    needed_bytes: int
    free_bytes: int
    largest_batch: int


class FirstStep(Part):
    """The first batch of a phase: the values at the backbone's input, and the loss before any change (untrained: about ln K)."""

    phase: str
    loss: Number
    untrained_loss: float
    input_low: float
    input_high: float
    input_mean: float
    input_deviation: float


class Epoch(Part):
    """One epoch; ``epoch`` counts from 0 within its phase (``head`` or ``fine-tune``)."""

    phase: str
    epoch: int
    loss: Number
    accuracy: Number
    val_loss: Number
    val_accuracy: Number
    learning_rate: Number


class Step(Part):
    """A sampled step: the batch's running loss, and the median over weights of |change| / |weight| in this step."""

    phase: str
    epoch: int
    step: int
    loss: Number
    update_ratio: Number


class Probe(Part):
    """The finished classifier on a fixed subset, treated in one way (names as in the diagnosis' probe table: A, A_augmented, V)."""

    name: str
    loss: Number
    accuracy: Number
    num_images: int


class NonFinite(Part):
    """Where the loss first was NaN or infinite."""

    phase: str
    epoch: int
    step: int
    loss: Number


class TrainEvidence(Part):
    """reports/train/evidence.json."""

    version: int = VERSION
    setup: Setup
    memory: Memory | None = None
    first_steps: tuple[FirstStep, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    steps: tuple[Step, ...] = ()
    probes: tuple[Probe, ...] = ()
    non_finite: NonFinite | None = None


class ClassResult(Part):
    """Test figures of one class; ``predicted`` counts how often the class was answered."""

    label: str
    num_images: int
    recall: float
    predicted: int


class EvaluateEvidence(Part):
    """What the test says: each figure with its 95 % interval."""

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    macro_recall: float
    macro_f1: float
    classes: tuple[ClassResult, ...]
    missed_gates: tuple[str, ...]


class DataEvidence(Part):
    """What validation says of the data; ``failed_checks`` are the critical ones."""

    passed: bool
    num_ok: int
    num_quarantined: int
    train_counts: dict[str, int]
    failed_checks: tuple[str, ...]


class AugmentEvidence(Part):
    """How strong the augmentation is."""

    mean_displacement: float
    mean_share_outside: float
    balancing: str


class Failure(Part):
    """How a run that failed ended."""

    stage: str
    kind: str
    cause: str


class Evidence(Part):
    """All of it; a part that is absent was not reached."""

    version: int = VERSION
    data: DataEvidence | None = None
    augment: AugmentEvidence | None = None
    train: TrainEvidence | None = None
    evaluate: EvaluateEvidence | None = None
    failure: Failure | None = None


def from_parts(parts: Iterable[tuple[str, dict[str, Any]]]) -> TrainEvidence | None:
    """Put together the parts (name, values) that the collector handed out, whole or cut off anywhere."""
    found: dict[str, list[Any]] = {"setup": [], "memory": [], "first_step": [], "epoch": [], "step": [], "probe": [], "non_finite": []}
    for name, values in parts:
        found.setdefault(name, []).append(values)
    if not found["setup"]:
        return None
    return TrainEvidence(
        setup=found["setup"][-1],
        memory=found["memory"][-1] if found["memory"] else None,
        first_steps=tuple(found["first_step"]),
        epochs=tuple(found["epoch"]),
        steps=tuple(found["step"]),
        probes=tuple(found["probe"]),
        non_finite=found["non_finite"][-1] if found["non_finite"] else None,
    )


def gather(reports: Path, train: TrainEvidence | None = None, failure: Failure | None = None) -> Evidence:
    """The evidence that lies in ``reports``; ``train`` and ``failure`` come from the journal where a stage left no report.

    A stage that was killed may leave half a report: what cannot be read counts as absent.
    """
    return Evidence(
        data=_read_part(_data, reports / "validate"),
        augment=_read_part(_augment, reports / "augment"),
        train=train or _read_part(_train, reports / "train"),
        evaluate=_read_part(_evaluate, reports / "evaluate"),
        failure=failure,
    )


PartType = TypeVar("PartType", bound=Part)


def _read_part(reader: Callable[[Path], PartType], folder: Path) -> PartType | None:
    try:
        return reader(folder)
    except (OSError, ValueError, KeyError):
        return None


def _data(folder: Path) -> DataEvidence:
    summary = files.read_json(folder / "summary.json")
    return DataEvidence(
        passed=summary["passed"],
        num_ok=summary["num_ok"],
        num_quarantined=summary["num_quarantined"],
        train_counts=summary["split_counts"].get("train", {}),
        failed_checks=tuple(check["name"] for check in summary["checks"] if not check["passed"] and check["severity"] == "critical"),
    )


def _augment(folder: Path) -> AugmentEvidence:
    summary = files.read_json(folder / "summary.json")
    return AugmentEvidence(**summary["strength"], balancing=summary["policy"]["balancing"])


def _train(folder: Path) -> TrainEvidence:
    return TrainEvidence.model_validate_json((folder / "evidence.json").read_text(encoding="utf-8"))


def _evaluate(folder: Path) -> EvaluateEvidence:
    with (folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
        classes = tuple(ClassResult.model_validate(row) for row in csv.DictReader(file))
    gates = files.read_json(folder / "gates.json")
    missed = tuple(f"{name} {gate['value']:.3f}" for name, gate in gates.items() if not gate["passed"])
    return EvaluateEvidence(**files.read_json(folder / "metrics.json"), classes=classes, missed_gates=missed)
