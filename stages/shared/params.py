"""``params.yaml`` as frozen, strict types: no defaults, no derived values, all faults reported at once."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.shared.errors import ParamsError

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
FractionOpen = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
PositiveCount = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]

ImagePolicy = Literal["quarantine", "report", "fail"]
ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # the widths of keras.applications.MobileNetV2 with published weights


def _known_alpha(value: float) -> float:
    if value not in ALPHAS:
        raise ValueError(f"expected one of {', '.join(map(str, ALPHAS))}")
    return value


Alpha = Annotated[float, AfterValidator(_known_alpha)]
GateMetric = Literal["accuracy", "macro_recall", "macro_f1", "expected_calibration_error"]
ExportFormat = Literal["float32", "float16", "int8"]


class Section(BaseModel):
    """A section of ``params.yaml``: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class IngestParams(Section):
    source: Annotated[str, Field(min_length=1)]
    backbone_weights: Annotated[str, Field(min_length=1)]


class PolicyParams(Section):
    """What happens to an image in which a check finds something."""

    empty: ImagePolicy
    not_an_image: ImagePolicy
    truncated: ImagePolicy
    unreadable: ImagePolicy
    decompression_bomb: ImagePolicy
    corrupt: ImagePolicy
    constant: ImagePolicy
    conflicting_labels: ImagePolicy
    exact_duplicate: ImagePolicy
    near_duplicate: ImagePolicy
    conflicting_near_duplicate: ImagePolicy
    label_noise: ImagePolicy
    wrong_extension: ImagePolicy
    unportable_format: ImagePolicy
    animated: ImagePolicy
    trailing_bytes: ImagePolicy
    sixteen_bit: ImagePolicy
    cmyk: ImagePolicy
    alpha: ImagePolicy
    palette: ImagePolicy
    exif_orientation: ImagePolicy
    grey_among_colour: ImagePolicy
    dark: ImagePolicy
    bright: ImagePolicy
    low_contrast: ImagePolicy
    blurry: ImagePolicy
    low_information: ImagePolicy
    odd_size: ImagePolicy
    odd_aspect: ImagePolicy


class LimitParams(Section):
    """Where a picture begins to be odd, if it is also unlike the rest of the data."""

    dark: Fraction
    bright: Fraction
    low_contrast: Fraction
    blurry: NonNegative
    low_information: Annotated[float, Field(ge=0, le=8)]
    odd_size: Annotated[float, Field(gt=1, allow_inf_nan=False)]
    odd_aspect: Annotated[float, Field(gt=0, lt=1)]


class ValidateParams(Section):
    val_fraction: FractionOpen
    test_fraction: FractionOpen
    seed: Seed
    min_images_per_class: PositiveCount
    max_class_ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    max_unreadable_fraction: Fraction
    near_duplicate_distance: Annotated[int, Field(ge=0, le=4)]
    max_property_difference: Fraction
    max_split_difference: Fraction
    max_label_noise_images: Count
    limits: LimitParams
    keep: list[str]
    policy: PolicyParams

    @model_validator(mode="after")
    def _leave_images_to_train_on(self) -> ValidateParams:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must stay below 1, so that images are left to train on")
        return self


class PrepareParams(Section):
    image_size_px: Annotated[int, Field(ge=32, le=512)]


# Of the augmentation: what changes an image.
CHANGES = (
    "rotation_degrees",
    "width_shift",
    "height_shift",
    "shear",
    "zoom",
    "horizontal_flip",
    "brightness",
    "contrast",
    "random_erasing",
    "mixup",
    "cutmix",
)


class AugmentParams(Section):
    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    width_shift: Fraction
    height_shift: Fraction
    shear: Fraction
    zoom: FractionBelowOne
    horizontal_flip: bool
    brightness: Fraction
    contrast: FractionBelowOne
    fill_mode: Literal["nearest", "constant", "reflect", "wrap"]
    random_erasing: Fraction
    mixup: NonNegative
    cutmix: NonNegative
    balancing: Literal["none", "class_weight", "oversample", "undersample"]
    seed: Seed

    @property
    def changes_images(self) -> bool:
        """Whether any change is on."""
        return any(getattr(self, name) for name in CHANGES)


class TrainParams(Section):
    alpha: Alpha
    dropout: FractionBelowOne
    weight_decay: NonNegative
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta"]
    momentum: FractionBelowOne
    learning_rate: NonNegative
    clip_norm: Positive | None
    gradient_accumulation_steps: PositiveCount
    schedule: Literal["constant", "plateau", "cosine"]
    warmup_epochs: Count
    plateau_patience: Count
    plateau_factor: Annotated[float, Field(gt=0, lt=1)]
    early_stopping_patience: Count | None
    batch_size: PositiveCount
    epochs: PositiveCount
    fine_tune_epochs: Count
    fine_tune_learning_rate: NonNegative
    fine_tune_fraction: Fraction
    batchnorm_momentum: FractionBelowOne
    batchnorm_training: bool
    batchnorm_recalibration_images: Count
    label_smoothing: FractionBelowOne
    restore_best_weights: bool
    stop_when_hopeless: bool
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16"]
    deterministic: bool
    seed: Seed

    @model_validator(mode="after")
    def _one_hand_on_the_rate(self) -> TrainParams:
        if self.schedule == "plateau" and self.warmup_epochs:
            raise ValueError("schedule plateau sets the rate itself: warmup_epochs must be 0, or the schedule constant or cosine")
        return self

    @model_validator(mode="after")
    def _warm_before_the_end(self) -> TrainParams:
        for name in ("epochs", "fine_tune_epochs"):
            if 0 < getattr(self, name) <= self.warmup_epochs:
                raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves none of {name} {getattr(self, name)}: it must be less")
        return self


class Gate(Section):
    min: Finite | None = None
    max: Finite | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Gate:
        if (self.min is None) == (self.max is None):
            raise ValueError("a gate is {min: number} or {max: number}")
        return self


class EvaluateParams(Section):
    gates: dict[GateMetric, Gate]
    export: list[ExportFormat]

    @field_validator("export")
    @classmethod
    def _each_once(cls, formats: list[ExportFormat]) -> list[ExportFormat]:
        if len(set(formats)) < len(formats):
            raise ValueError("expected each format once")
        return formats


class Params(Section):
    ingest: IngestParams
    validate_: Annotated[ValidateParams, Field(alias="validate")]
    prepare: PrepareParams
    augment: AugmentParams
    train: TrainParams
    evaluate: EvaluateParams


def load(path: Path) -> Params:
    """Read and check the whole file.

    Raises:
        ParamsError: naming each faulty key, its value and what is allowed, all at once.
    """
    return parse(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """The file's plain values by YAML 1.2, as DVC reads them (so ``1e-3`` is a number); duplicate keys are refused."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ParamsError(f"{path} cannot be read: {error}\nExpected YAML; `git diff {path}` shows your changes.") from error


def parse(values: Any, origin: str = "params.yaml") -> Params:
    """Check plain values, as read from ``origin``, against the types above."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        faults = [_fault(dict(entry)) for entry in error.errors()]
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    lines = "\n".join(f"  {fault}" for fault in faults)
    raise ParamsError(f"{origin} has {count}:\n{lines}\nCorrect them and type: dvc repro")


def _fault(entry: dict[str, Any]) -> str:
    location = [str(part) for part in entry["loc"]]
    key = ".".join(location) or "the file"
    match entry["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key{_nearest(location)}"
        case "missing":
            return f"{key}: missing; every key must be given"
        case "value_error":
            value = "" if isinstance(entry["input"], dict) else f" (value {entry['input']!r})"
            return f"{key}: {entry['ctx']['error']}{value}"
    expected = entry["msg"].replace("Input should be", "expected").replace("Input should have", "expected")
    return f"{key}: {entry['input']!r} is not allowed; {expected}"


def _nearest(location: list[str]) -> str:
    model: type[BaseModel] = Params
    for part in location[:-1]:
        annotation = _known_keys(model).get(part)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        model = annotation
    close = difflib.get_close_matches(location[-1], list(_known_keys(model)), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(_known_keys(model))}"


def _known_keys(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}
