"""What a run leaves for its diagnosis: plain, versioned data without times or machines."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from stages.shared import files

VERSION = 2
PHASES = (HEAD, FINE_TUNE) = ("head", "fine-tune")  # of a training, in their order


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
    """What the training set out to do; ``num_train`` counts the draws of an epoch, ``precision`` is what layers compute in."""

    num_classes: int
    num_train: int
    num_val: int
    batch_size: int
    steps_per_epoch: int
    num_head_epochs: int
    num_fine_tune_epochs: int
    pretrained: bool
    optimizer: str
    precision: str
    is_augmented: bool


class Memory(Part):
    """What a step was estimated to need when that was more than was free, in bytes and images."""

    needed_bytes: int
    free_bytes: int
    largest_batch: int


class Inputs(Part):
    """The same training images at the backbone's input, by channel: as training and as validation read them, and scaled to [-1, 1].

    ``difference`` is the mean absolute difference between the two readings, at the backbone.
    """

    train_low: tuple[Number, ...]
    train_high: tuple[Number, ...]
    train_mean: tuple[Number, ...]
    train_deviation: tuple[Number, ...]
    val_low: tuple[Number, ...]
    val_high: tuple[Number, ...]
    val_mean: tuple[Number, ...]
    val_deviation: tuple[Number, ...]
    expected_mean: tuple[float, ...]
    expected_deviation: tuple[float, ...]
    difference: Number


class FirstStep(Part):
    """The first step of a phase: the loss before any change (untrained: about ln K), and how many numbers are trained."""

    phase: str
    loss: Number
    num_trainable: int


class Order(Part):
    """Of an epoch's stream: classes in a batch on average, and in batches of the same images in random order."""

    epoch: int
    distinct_labels: float
    expected_distinct_labels: float


class Variants(Part):
    """Images that the first batch of the training shares with batches of the next epoch, and how many looked different there."""

    num_compared: int
    num_different: int


class Epoch(Part):
    """One epoch; ``epoch`` counts from 0 within its phase. Without validation its figures are NaN."""

    phase: str
    epoch: int
    num_steps: int
    has_validation: bool
    loss: Number
    accuracy: Number
    val_loss: Number
    val_accuracy: Number
    learning_rate: Number


class Step(Part):
    """A sampled step: the epoch's loss so far, and |change| / |weights| of the kernels in this step.

    ``update_ratio`` is their median, ``highest_ratio`` the largest; ``unchanged_share`` counts kernels that did not move at all.
    ``norm_share`` is the median of |weights| over what it was when the phase began.
    """

    phase: str
    epoch: int
    step: int
    loss: Number
    update_ratio: Number
    highest_ratio: Number
    unchanged_share: float
    norm_share: Number


class Gradients(Part):
    """The gradients of one batch, over the kernels from the first layer to the last.

    ``means`` are mean absolute values by kernel; ``zero_share`` counts numbers that are exactly 0.
    """

    phase: str
    epoch: int
    norm: Number
    means: tuple[Number, ...]
    zero_share: Number


class Activations(Part):
    """ReLU6 outputs on one batch: by layer the share at 0 and at 6, and the share of its units that are hardly ever above 0."""

    phase: str
    epoch: int
    at_zero: tuple[float, ...]
    at_six: tuple[float, ...]
    dead_units: tuple[float, ...]


class Probe(Part):
    """The classifier on a fixed subset, treated in one way (names as in the diagnosis' probe table: A, A_batch, V and so on).

    ``moment`` is ``start``, ``between``, ``phase end``, ``end`` (the last weights) or ``kept`` (the chosen ones, if others); ``epoch``
    counts over both phases. ``matched_accuracy`` is that under the renaming of the classes that is best for the other half of the images,
    ``largest_share`` the share of the class answered most often.
    """

    moment: str
    epoch: int
    name: str
    loss: Number
    accuracy: float
    num_images: int
    matched_accuracy: float
    largest_share: float


class Objective(Part):
    """What training minimises, against cross-entropy computed anew from the same answers to validation images.

    ``penalty`` is what is added to the loss beside; the outputs' lowest, highest and (of a row) mean sum.
    """

    epoch: int
    loss: Number
    recomputed_loss: Number
    penalty: Number
    output_low: Number
    output_high: Number
    output_sum: Number


class NonFinite(Part):
    """Where the loss first was NaN or infinite; ``source`` is what of the batch was, too: ``input``, ``label``, ``weight`` or nothing."""

    phase: str
    epoch: int
    step: int
    loss: Number
    source: str


class Stop(Part):
    """A phase ended before its planned epochs: by ``early-stopping``."""

    phase: str
    epoch: int
    reason: str


class TrainEvidence(Part):
    """reports/train/evidence.json. Each field but ``version`` holds parts of one kind, in the order in which they came."""

    version: int = VERSION
    setup: Setup
    memory: Memory | None = None
    inputs: Inputs | None = None
    variants: Variants | None = None
    non_finite: NonFinite | None = None
    first_steps: tuple[FirstStep, ...] = ()
    orders: tuple[Order, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    steps: tuple[Step, ...] = ()
    gradients: tuple[Gradients, ...] = ()
    activations: tuple[Activations, ...] = ()
    probes: tuple[Probe, ...] = ()
    objectives: tuple[Objective, ...] = ()
    stops: tuple[Stop, ...] = ()


# The kinds of part, by the name under which they are in the journal, and the field that holds them.
ONE: dict[str, tuple[type[Part], str]] = {
    "setup": (Setup, "setup"),
    "memory": (Memory, "memory"),
    "inputs": (Inputs, "inputs"),
    "variants": (Variants, "variants"),
    "non_finite": (NonFinite, "non_finite"),
}
SEVERAL: dict[str, tuple[type[Part], str]] = {
    "first_step": (FirstStep, "first_steps"),
    "order": (Order, "orders"),
    "epoch": (Epoch, "epochs"),
    "step": (Step, "steps"),
    "gradients": (Gradients, "gradients"),
    "activations": (Activations, "activations"),
    "probe": (Probe, "probes"),
    "objective": (Objective, "objectives"),
    "stop": (Stop, "stops"),
}
KINDS = ONE | SEVERAL
EvidenceSink = Callable[[Part], None]


def name_of(part: Part) -> str:
    """The name of a part's kind: ``first_step``."""
    return next(name for name, (kind, _) in KINDS.items() if type(part) is kind)


def untrained_loss(train: TrainEvidence) -> float:
    """ln K, the loss of a classifier that gives each class the same share."""
    return math.log(train.setup.num_classes)


def skill(train: TrainEvidence, accuracy: float) -> float:
    """An accuracy on a scale from 0 (guessing) to 1."""
    chance = 1 / train.setup.num_classes
    return (accuracy - chance) / (1 - chance)


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
    """What validation says of the data; ``failed_checks`` are the critical ones.

    ``split_counts`` counts images by split and class, ``num_offenders`` what each check found.
    """

    passed: bool
    num_ok: int
    num_quarantined: int
    split_counts: dict[str, dict[str, int]]
    num_offenders: dict[str, int]
    failed_checks: tuple[str, ...]

    @property
    def train_counts(self) -> dict[str, int]:
        """Training images by class."""
        return self.split_counts.get("train", {})


class AugmentEvidence(Part):
    """How strong the augmentation is (see ``strength.Strength``), and what was found too strong in it: parameter and suggestion."""

    outcome: str
    mean_displacement: float
    mean_share_outside: float
    mean_brightness_change: float
    mean_contrast_change: float
    mean_share_erased: float
    mean_share_mixed: float
    too_strong: tuple[tuple[str, float | bool], ...]
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
    """Put together the parts (name, values) that the collector handed out, whole or cut off anywhere.

    A part that cannot be read (of another version, or damaged) is left aside; None without a setup.
    """
    found: dict[str, Any] = {field: [] for _, field in SEVERAL.values()}
    for name, values in parts:
        kind, field = KINDS.get(name, (None, ""))
        with contextlib.suppress(ValidationError):
            if kind is not None and name in SEVERAL:
                found[field].append(kind.model_validate(values))
            elif kind is not None:
                found[field] = kind.model_validate(values)
    return TrainEvidence(**found) if "setup" in found else None


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
        split_counts=summary["split_counts"],
        num_offenders={check["name"]: check["num_offenders"] for check in summary["checks"]},
        failed_checks=tuple(check["name"] for check in summary["checks"] if not check["passed"] and check["severity"] == "critical"),
    )


def _augment(folder: Path) -> AugmentEvidence:
    summary = files.read_json(folder / "summary.json")
    return AugmentEvidence(
        **summary["strength"],
        outcome=summary["outcome"],
        too_strong=tuple((warning["param"], warning["suggestion"]) for warning in summary["warnings"]),
        balancing=summary["policy"]["balancing"],
    )


def _train(folder: Path) -> TrainEvidence:
    return TrainEvidence.model_validate_json((folder / "evidence.json").read_text(encoding="utf-8"))


def _evaluate(folder: Path) -> EvaluateEvidence:
    with (folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
        classes = tuple(ClassResult.model_validate(row) for row in csv.DictReader(file))
    gates = files.read_json(folder / "gates.json")
    missed = tuple(f"{name} {gate['value']:.3f}" for name, gate in gates.items() if not gate["passed"])
    return EvaluateEvidence(**files.read_json(folder / "metrics.json"), classes=classes, missed_gates=missed)
