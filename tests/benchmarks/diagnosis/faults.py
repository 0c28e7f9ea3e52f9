"""The faulty units. A fault changes only what it needs; settings are such that a run is worse than its healthy twin (see ``harm``)."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.diagnosis.recipes import CIFAR, FASHION, LAST, OTHERS, SCRATCH, TRANSFER
from tests.benchmarks.diagnosis.unit import Case

S, T, BOTH = (SCRATCH,), (TRANSFER,), (SCRATCH, TRANSFER)
PHOTOS, FIRST_TWO = (CIFAR, OTHERS, LAST), (FASHION, CIFAR)

UNAUGMENTED: dict[str, Any] = {
    "augment.rotation_degrees": 0,
    "augment.width_shift": 0,
    "augment.height_shift": 0,
    "augment.zoom": 0,
    "augment.horizontal_flip": False,
    "augment.brightness": 0,
    "augment.contrast": 0,
}
# A sixteenth to a thirtieth of all images to train on: clothes are learned well from a tenth.
FEW: dict[str, Any] = {"validate.val_fraction": 0.15, "validate.test_fraction": 0.8, "train.batch_size": 16}
FEWER: dict[str, Any] = {"validate.val_fraction": 0.15, "validate.test_fraction": 0.79, "train.batch_size": 16}
FEWEST: dict[str, Any] = {"validate.val_fraction": 0.15, "validate.test_fraction": 0.815, "train.batch_size": 16}
TENTH: dict[str, Any] = {"validate.val_fraction": 0.2, "validate.test_fraction": 0.7, "train.batch_size": 16}
LAST_KEPT: dict[str, Any] = {"train.restore_best_weights": False}
HEAD_ALONE: dict[str, Any] = {"train.fine_tune_epochs": 0}
AMBITIOUS: dict[str, Any] = {"evaluate.gates": {"accuracy": {"min": 0.92}, "macro_f1": {"min": 0.92}}}
LONG: dict[str, Any] = LAST_KEPT | {"train.epochs": 80}
# Nothing but the shipped augmentation stands against it.
BY_HEART: dict[str, Any] = {"train.dropout": 0.0, "augment.horizontal_flip": False}
# The whole backbone for long, at a rate that does not fall. Photos alone: clothes it learns all the better so, even few of them.
DEEP: dict[str, Any] = (
    LAST_KEPT
    | TENTH
    | {"train.epochs": 2, "train.fine_tune_epochs": 14, "train.fine_tune_fraction": 1.0, "train.fine_tune_learning_rate": 3e-4}
    | {"train.schedule": "constant", "train.dropout": 0.0}
)
EXCESSIVE: dict[str, Any] = {
    "augment.rotation_degrees": 90,
    "augment.width_shift": 0.5,
    "augment.height_shift": 0.5,
    "augment.zoom": 0.6,
    "augment.brightness": 0.5,
    "augment.contrast": 0.8,
    "augment.random_erasing": 1.0,
}
STRONG: dict[str, Any] = {
    "augment.rotation_degrees": 60,
    "augment.width_shift": 0.3,
    "augment.height_shift": 0.3,
    "augment.shear": 0.3,
    "augment.zoom": 0.5,
    "augment.random_erasing": 0.7,
}
# What keeps few images from being learned by heart, if it really changes from epoch to epoch.
USEFUL: dict[str, Any] = {
    "augment.rotation_degrees": 12,
    "augment.width_shift": 0.12,
    "augment.height_shift": 0.12,
    "augment.zoom": 0.15,
    "augment.brightness": 0.15,
    "augment.contrast": 0.15,
    "augment.random_erasing": 0.25,
}
OVERFITTING, WEAK, FROZEN = "overfitting", "insufficient-augmentation", "frozen-augmentation"
TOO_LOW, UNSUITABLE, IMBALANCE = "learning-rate-too-low", "unsuitable-optimizer", "class-imbalance"


def rate(optimizer: str, value: float, **others: Any) -> dict[str, Any]:
    """An optimizer with its rate."""
    return {"train.optimizer": optimizer, "train.learning_rate": value, **{f"train.{name}": other for name, other in others.items()}}


def fine_tuning(value: float, fraction: float, **others: Any) -> dict[str, Any]:
    """A second phase."""
    chosen = {"train.fine_tune_learning_rate": value, "train.fine_tune_fraction": fraction}
    return chosen | {f"train.{name}": other for name, other in others.items()}


# As the last epoch begins, the rate becomes ten times what it was (the step is given).
RESTARTED: dict[str, Any] = LAST_KEPT | rate("adam", 3e-3, schedule="constant")
RESTARTED_LOW: dict[str, Any] = RESTARTED | {"train.learning_rate": 1e-3}
GENERALISATION = (
    Case(WEAK, "strong", "none-few-images", S, FEW | LONG | UNAUGMENTED),
    Case(WEAK, "mild", "none", S, FEWER | LONG | {"train.epochs": 50} | UNAUGMENTED),
    Case(WEAK, "mild", "none-all-images", S, LAST_KEPT | UNAUGMENTED | {"train.epochs": 30, "train.dropout": 0.0}, datasets=PHOTOS),
    Case(WEAK, "strong", "none-deep", T, DEEP | UNAUGMENTED, datasets=(CIFAR,)),
    Case(OVERFITTING, "strong", "few-images", S, FEWEST | LONG | BY_HEART, seeds=(0, 1), datasets=FIRST_TWO),
    Case(OVERFITTING, "strong", "a-tenth", S, TENTH | LONG | BY_HEART, datasets=(OTHERS, LAST)),
    Case(OVERFITTING, "strong", "deep", T, DEEP | USEFUL, datasets=(CIFAR,)),
    Case(FROZEN, "strong", "cached", S, FEW | LONG | USEFUL, ("frozen_augmentation", 0), seeds=(1,)),
    Case(FROZEN, "mild", "cached", T, DEEP | USEFUL, ("frozen_augmentation", 0), datasets=(CIFAR,)),
    Case("excessive-augmentation", "strong", "all", BOTH, EXCESSIVE),
    Case("excessive-augmentation", "mild", "all", BOTH, STRONG),
    Case("excessive-augmentation", "mild", "mixed", S, {"augment.mixup": 4.0, "augment.cutmix": 2.0, "augment.random_erasing": 1.0}),
)
OPTIMISATION = (
    Case("learning-rate-too-high", "strong", "adam", BOTH, rate("adam", 0.1)),
    Case("learning-rate-too-high", "strong", "sgd", S, rate("sgd", 3.0)),
    Case("learning-rate-too-high", "strong", "rmsprop", T, rate("rmsprop", 0.1)),
    Case("learning-rate-too-high", "mild", "constant", T, rate("adam", 0.03, schedule="constant") | HEAD_ALONE),
    Case("learning-rate-too-high", "mild", "constant", S, rate("rmsprop", 0.03, schedule="constant"), seeds=(1,)),
    Case(TOO_LOW, "strong", "adam", BOTH, rate("adam", 3e-6, fine_tune_epochs=0)),
    Case(TOO_LOW, "mild", "adam", BOTH, rate("adam", 3e-5, fine_tune_epochs=0), seeds=(1,)),
    Case(TOO_LOW, "strong", "sgd", S, rate("sgd", 1e-5)),
    Case(UNSUITABLE, "strong", "adadelta", BOTH, rate("adadelta", 1e-3, fine_tune_epochs=0)),
    Case(UNSUITABLE, "mild", "adagrad", S, rate("adagrad", 1e-3, fine_tune_epochs=0), seeds=(1,)),
    Case(UNSUITABLE, "mild", "sgd", S, rate("sgd", 1e-3, momentum=0.0), seeds=(2,)),
    Case("destructive-fine-tuning", "strong", "adam", T, fine_tuning(1e-2, 1.0, batchnorm_training=True), seeds=(0, 1)),
    Case("destructive-fine-tuning", "mild", "adam", T, fine_tuning(3e-3, 0.5)),
    Case("destructive-fine-tuning", "strong", "sgd", T, rate("sgd", 1e-2) | fine_tuning(0.3, 1.0)),
    Case("over-regularised", "strong", "dropout", S, {"train.dropout": 0.99}),
    Case("over-regularised", "strong", "dropout", T, {"train.dropout": 0.97} | HEAD_ALONE),
    Case("over-regularised", "mild", "dropout", S, {"train.dropout": 0.95}, seeds=(1,)),
    Case("over-regularised", "strong", "weight-decay", S, {"train.weight_decay": 10.0}),
    Case("over-regularised", "strong", "weight-decay", T, {"train.weight_decay": 100.0} | HEAD_ALONE),
    Case("under-trained", "strong", "one-epoch", S, {"train.epochs": 1, "train.schedule": "constant"}),
    Case("under-trained", "mild", "three-epochs", S, {"train.epochs": 3, "train.schedule": "constant"}, seeds=(1,)),
    Case("under-trained", "strong", "one-epoch", T, rate("adam", 3e-4, epochs=1, fine_tune_epochs=0, schedule="constant")),
    Case("under-trained", "mild", "impatient", S, {"train.early_stopping_patience": 0}),
    Case("learning-rate-collapsed", "strong", "early", S, injection=("rate_runs_out", 0.2)),
    Case("learning-rate-collapsed", "strong", "early", T, HEAD_ALONE, ("rate_runs_out", 0.2)),
    Case("final-not-best", "strong", "restart", S, RESTARTED, ("rate_restarts", 693), datasets=FIRST_TWO),
    Case("final-not-best", "mild", "restart", S, RESTARTED_LOW, ("rate_restarts", 693), seeds=(1,), datasets=FIRST_TWO),
    Case("final-not-best", "strong", "restart", S, RESTARTED, ("rate_restarts", 484), datasets=(OTHERS,)),
    Case("final-not-best", "mild", "restart", S, RESTARTED_LOW, ("rate_restarts", 484), seeds=(1,), datasets=(OTHERS,)),
    Case("final-not-best", "strong", "restart", T, RESTARTED | HEAD_ALONE, ("rate_restarts", 116), datasets=FIRST_TWO),
    Case("final-not-best", "strong", "restart", T, RESTARTED | HEAD_ALONE, ("rate_restarts", 88), datasets=(OTHERS,)),
    Case("final-not-best", "strong", "restart", S, RESTARTED, ("rate_restarts", 528), datasets=(LAST,)),
    Case("final-not-best", "mild", "restart", S, RESTARTED_LOW, ("rate_restarts", 528), seeds=(1,), datasets=(LAST,)),
    Case("final-not-best", "strong", "restart", T, RESTARTED | HEAD_ALONE, ("rate_restarts", 100), datasets=(LAST,)),
    Case("capacity-limited", "strong", "small-images", T, {"prepare.image_size_px": 32} | HEAD_ALONE | AMBITIOUS, seeds=(0, 1)),
    Case("nothing-trains", "strong", "rate-zero", S, rate("adam", 0.0)),
    Case("nothing-trains", "strong", "all-frozen", BOTH, injection=("everything_frozen", 0)),
    Case("batchnorm-mismatch", "strong", "momentum", S, {"train.batchnorm_momentum": 0.999}, seeds=(0, 1)),
    Case("batchnorm-mismatch", "mild", "momentum", S, {"train.batchnorm_momentum": 0.997}),
)
DATA = (
    Case(IMBALANCE, "strong", "everywhere", BOTH, {"augment.balancing": "none"}, ("thin_classes", 0.04)),
    Case(IMBALANCE, "mild", "everywhere", S, {"augment.balancing": "none"}, ("thin_classes", 0.08), seeds=(1,)),
    Case(IMBALANCE, "strong", "in-training", BOTH, {"augment.balancing": "none"}, ("thin_training", 0.03)),
    Case("label-noise", "strong", "flipped", BOTH, injection=("flip_labels", 0.4)),
    Case("label-noise", "mild", "flipped", BOTH, injection=("flip_labels", 0.2), seeds=(1,)),
    Case("label-order-mismatch", "strong", "all", BOTH, injection=("rename_validation_classes", 10)),
    Case("label-order-mismatch", "mild", "two", T, injection=("rename_validation_classes", 2), seeds=(1,)),
    Case("leakage", "strong", "copies", T, injection=("leak", 1.0)),
    Case("leakage", "mild", "copies", T, injection=("leak", 0.5), seeds=(1,)),
    Case("leakage", "strong", "copies-by-heart", S, UNAUGMENTED | {"train.epochs": 20, "train.dropout": 0.0}, ("leak", 1.0)),
    Case("data-rejected", "strong", "same-files", S, injection=("leak_bytes", 0.5)),
    Case("unshuffled-data", "strong", "by-class", BOTH, injection=("unshuffled", 1)),
    Case("unshuffled-data", "mild", "small-buffer", S, injection=("unshuffled", 150), seeds=(1,)),
    Case("bad-split", "strong", "tail", BOTH, injection=("tail_validation", 3)),
    Case("bad-split", "mild", "tail", BOTH, injection=("tail_validation", 40), seeds=(1,)),
    Case("data-rejected", "strong", "tail", T, injection=("tail_validation", 0)),
    Case("validation-too-small", "strong", "few", BOTH, {"validate.val_fraction": 0.008}),
    Case("data-rejected", "strong", "single-class", S, injection=("keep_classes", 1)),
    Case("data-rejected", "strong", "class-without-validation", T, injection=("no_validation_of_a_class", 0)),
    Case("data-rejected", "strong", "unreadable", S, injection=("break_files", 0.3)),
    Case("undecodable-image", "strong", "cut", BOTH, injection=("damage_after_validation", 0)),
    Case("undecodable-image", "strong", "no-image", S, injection=("exchange_after_validation", 0)),
)
CODE = (
    Case("wrong-input-range", "strong", "raw", BOTH, injection=("raw_pixels", 0)),
    Case("wrong-input-range", "mild", "unshifted", T, injection=("unshifted_input", 0)),
    Case("wrong-input-range", "strong", "twice", T, injection=("input_scaled_twice", 0)),
    Case("wrong-input-range", "mild", "torch", S, injection=("torch_input", 0)),
    Case("preprocessing-mismatch", "strong", "scaled", BOTH, injection=("validation_scaled", 0)),
    Case("preprocessing-mismatch", "strong", "inverted", S, injection=("validation_inverted", 0), seeds=(1,)),
    Case("preprocessing-mismatch", "mild", "cropped", BOTH, injection=("validation_cropped", 0.6), seeds=(1,)),
    Case("preprocessing-mismatch", "mild", "swapped", BOTH, injection=("validation_swapped", 0), datasets=PHOTOS),
    Case("loss-mismatch", "strong", "linear", BOTH, injection=("linear_head", 0)),
    Case("loss-mismatch", "strong", "twice", BOTH, injection=("softmax_twice", 0)),
    Case("non-finite-values", "strong", "image", BOTH, injection=("nan_in_image", 9)),
    Case("non-finite-values", "strong", "label", S, injection=("nan_in_label", 9)),
    Case("non-finite-values", "strong", "weight", S, injection=("infinite_weight", 3)),
    Case("data-exhausted", "strong", "few-batches", BOTH, injection=("data_end_early", 3)),
    Case("data-exhausted", "mild", "few-batches", S, injection=("data_end_early", 8), seeds=(1,)),
    Case("out-of-memory", "strong", "all-in-memory", BOTH, injection=("whole_set_in_memory", 5)),
    Case("out-of-memory", "strong", "batch", T, fine_tuning(1e-4, 1.0, batch_size=512), ("little_memory", 2.5)),
    Case("out-of-memory", "strong", "batch", S, {"train.batch_size": 2048}, ("little_memory", 1.5)),
    Case("interrupted", "strong", "killed", BOTH, injection=("killed", 100)),
    Case("interrupted", "mild", "terminated", S, injection=("terminated", 200), seeds=(1,)),
    Case("interrupted", "mild", "keyboard", T, injection=("interrupted", 60), seeds=(1,)),
)
FAULTS = (*GENERALISATION, *OPTIMISATION, *DATA, *CODE)
