"""The healthy units: the plain recipes, decoys that look sick to naive rules, and settings that are odd and harm nothing."""

from __future__ import annotations

from tests.benchmarks.diagnosis.faults import BOTH, HEAD_ALONE, LAST_KEPT, USEFUL, S, T, fine_tuning, rate
from tests.benchmarks.diagnosis.unit import HEAD_ONLY, HEALTHY, PLAIN, PLAIN_SEEDS, Case


def control(variant: str, recipes: tuple[str, ...], changes: dict[str, object], seeds: tuple[int, ...] = (0,)) -> Case:
    """A healthy unit with changed parameters."""
    return Case(HEALTHY, "control", variant, recipes, changes, seeds=seeds)


# As strong as a small network from random weights bears within a few epochs.
MODERATE: dict[str, object] = {
    "augment.rotation_degrees": 8,
    "augment.width_shift": 0.08,
    "augment.height_shift": 0.08,
    "augment.zoom": 0.1,
    "augment.brightness": 0.1,
    "augment.contrast": 0.1,
    "augment.random_erasing": 0.1,
}
TWINS = (control(PLAIN, BOTH, {}, seeds=PLAIN_SEEDS), control(HEAD_ONLY, T, HEAD_ALONE, seeds=PLAIN_SEEDS))
# Validation above training accuracy, noisy curves, single epochs that go wrong, a phase that begins anew.
DECOYS = (
    control("dropout", BOTH, {"train.dropout": 0.5}),
    control("strong-augmentation", S, MODERATE | {"train.epochs": 16}),
    control("strong-augmentation", T, USEFUL),
    control("small-batches", S, {"train.batch_size": 16, "train.epochs": 12, "train.learning_rate": 2e-3}),
    control("small-batches", T, rate("adam", 5e-4, batch_size=8, epochs=4, fine_tune_epochs=2, fine_tune_learning_rate=1e-5)),
    control("large-batches", S, {"train.batch_size": 128, "train.epochs": 16, "train.learning_rate": 6e-3}),
    control("label-smoothing", BOTH, {"train.label_smoothing": 0.05}, seeds=(1,)),
    control("mixup", S, {"augment.mixup": 0.2, "train.epochs": 16}),
    control(
        "early-stopping",
        S,
        rate("adam", 1e-3, schedule="constant", early_stopping_patience=5, epochs=20),
    ),
    control("long", T, {"train.epochs": 8}, seeds=(1,)),
    control("long", S, {"train.epochs": 24}, seeds=(1,)),
)
WELL_CHOSEN = (
    control("sgd", S, rate("sgd", 0.01, epochs=16)),
    control("sgd", T, rate("sgd", 3e-3) | fine_tuning(1e-4, 0.2)),
    control("rmsprop", BOTH, rate("rmsprop", 1e-3, momentum=0.0), seeds=(1,)),
    control("adamw", BOTH, {"train.optimizer": "adamw", "train.weight_decay": 1e-2}, seeds=(2,)),
    control("warmup", S, {"train.warmup_epochs": 2}),
    control("plateau", S, rate("adam", 3e-3, schedule="plateau", plateau_patience=2, plateau_factor=0.3, epochs=16)),
    control("constant-rate", S, rate("adam", 1e-3, schedule="constant", epochs=20), seeds=(1,)),
    control("constant-rate", T, rate("adam", 1e-3, schedule="constant"), seeds=(1,)),
    control("accumulation", S, {"train.batch_size": 16, "train.gradient_accumulation_steps": 2, "train.epochs": 18}),
    control("accumulation", T, {"train.batch_size": 16, "train.gradient_accumulation_steps": 2}),
    control("recalibration", S, {"train.batchnorm_momentum": 0.999, "train.batchnorm_recalibration_images": 500}),
    control("deeper", T, fine_tuning(3e-5, 0.5), seeds=(2,)),
    control("wider", S, {"train.alpha": 0.5}),
    Case(HEALTHY, "control", "weighted-classes", BOTH, {"augment.balancing": "class_weight"}, ("thin_training", 0.75), seeds=(1,)),
    Case(HEALTHY, "control", "two-classes", BOTH, {}, ("keep_classes", 2), seeds=(2,)),
)
ODD = (
    control("clipped", BOTH, {"train.clip_norm": 1.0, "train.deterministic": False}, seeds=(2,)),
    control("last-kept", S, LAST_KEPT, seeds=(2,)),
    control("oversampled", T, {"augment.balancing": "oversample", "train.stop_when_hopeless": False}),
    control("other-split", BOTH, {"validate.seed": 1}, seeds=(2,)),
    control("weight-decay", S, {"train.weight_decay": 1e-4, "augment.fill_mode": "reflect"}),
)
CONTROLS = (*TWINS, *DECOYS, *WELL_CHOSEN, *ODD)
