"""Whole runs that look sick to naive rules, and are healthy."""

from __future__ import annotations

from typing import Any

from stages.shared.evidence import ClassResult, Evidence, FirstStep, Order, Probe, Stop, TrainEvidence, Variants
from tests.rule_cases import (
    HEAD_LOSSES,
    QUESTIONS,
    TUNED_STEPS,
    augmentation,
    data,
    epochs,
    evaluation,
    head_only,
    healthy,
    inputs,
    objective,
    overfitted,
    probes,
    steps,
    train,
)


def two_classes(**changes: Any) -> TrainEvidence:
    """A short, unsure and right training of two classes."""
    found = head_only([0.66, 0.62, 0.59, 0.57, 0.565], [9e-4] * 8, planned={"num_classes": 2}, **changes)
    orders = (Order(epoch=0, distinct_labels=2.0, expected_distinct_labels=2.0),)
    return found.model_copy(update={"orders": orders, "first_steps": (FirstStep(phase="head", loss=0.7, num_trainable=10_000),)})


SETTLED = [1.5, 0.9, 0.62, 0.6, 0.595]
UNSURE = objective(output_low=0.3, output_high=0.7, loss=0.57, recomputed_loss=0.57)
PLATEAU = {"rates": [1e-3] * 3 + [1e-7] * 5}
KNOWN_BY_HEART = {name: {"accuracy": 0.97, "loss": 0.05} for name in ("A", "A_batch", "A_dropout", "A_augmented")}
CONVERGED = {name: {"accuracy": 0.99, "loss": 0.02} for name in QUESTIONS}
# Whole runs that look sick to naive rules.
HEALTHY: dict[str, Evidence] = {
    "validation-above-training": healthy(train=head_only(SETTLED, [1e-3] * 8, curves={"accuracies": [0.5, 0.6, 0.7, 0.75, 0.78]})),
    "unsure-of-two-classes": healthy(train=two_classes(objectives=UNSURE)),
    "fine-grained": healthy(
        train=head_only([1.6, 0.9, 0.72, 0.66, 0.655], [1e-3] * 8, probes=probes(**KNOWN_BY_HEART, V={"accuracy": 0.83, "loss": 0.655}))
    ),
    "stopped-in-time": healthy(
        train=overfitted().model_copy(
            update={
                "probes": (
                    *overfitted().probes,
                    *(Probe(**{**probe.model_dump(), "moment": "kept", "accuracy": 0.9}) for probe in probes()[:1]),
                    *(Probe(**{**probe.model_dump(), "moment": "kept", "accuracy": 0.88}) for probe in probes()[4:5]),
                ),
                "stops": (Stop(phase="head", epoch=5, reason="early-stopping"),),
            }
        )
    ),
    "converged-and-noisy": healthy(
        train=head_only(
            [0.3, 0.1, 0.05, 0.01, 0.009, 0.008, 0.008, 0.007],
            [6e-3] * 12,
            curves={"val_losses": [0.3, 0.1, 0.05, 0.02, 0.008, 0.018, 0.008, 0.018], "val_accuracies": [0.9, 0.95] + [0.99] * 6},
            probes=probes(**CONVERGED),
        )
    ),
    "converged-plateau": healthy(
        train=head_only(
            [0.3, 0.1, 0.05, 0.04, 0.04, 0.04, 0.04, 0.04],
            [1e-3] * 8,
            curves={"rates": [1e-3] * 3 + [1e-7] * 5},
            probes=probes(**CONVERGED),
        )
    ),
    "long-decay": healthy(train=train(steps=(*steps([1e-3] * 8, norm_share=0.45), *TUNED_STEPS), probes=probes(**CONVERGED))),
    "dropout-that-helps": healthy(train=train(probes=probes(**{**CONVERGED, "A_dropout": {"accuracy": 0.84}}))),
    "skipped-steps": healthy(train=train(steps=(*steps([0.0] * 10, unchanged_share=1.0), *TUNED_STEPS))),
    "levelled-validation": healthy(
        data=data(split_counts={"train": {"a": 1000, "b": 70}, "val": {"a": 100, "b": 100}}),
        evaluate=evaluation(classes=tuple(ClassResult(label=label, num_images=50, recall=0.9, predicted=50) for label in "ab")),
    ),
    "shaky-start-of-tuning": healthy(
        train=train(epochs=(*epochs(HEAD_LOSSES), *epochs([0.5, 0.44], [0.46, 0.44], val_accuracies=[0.84, 0.88], phase="fine-tune")))
    ),
    # The first steps of a new head grow with the number of its classes.
    "thousand-classes": healthy(
        train=head_only(
            [6.0, 4.9, 4.4, 4.1, 4.0],
            [0.14, 0.09, 0.05, 6e-3, 4e-3, 3e-3, 3e-3, 3e-3],
            planned={"num_classes": 1000},
            curves={"val_losses": [4.6, 4.0, 3.7, 3.6, 3.57], "accuracies": [0.2] * 5, "val_accuracies": [0.4] * 5},
            probes=probes(**{name: {"accuracy": 0.42, "loss": 3.4, "largest_share": 0.02} for name in QUESTIONS}),
        )
    ),
    # With the best epoch's weights kept, and as good as it has to be.
    "fine-grained-and-kept": healthy(
        train=overfitted().model_copy(
            update={"probes": (*overfitted().probes, *(probe.model_copy(update={"moment": "kept"}) for probe in overfitted().probes))}
        )
    ),
    "one-colour": healthy(
        train=train(
            inputs=inputs(
                **{f"{name}_mean": (-1.0, -1.0, -0.5) for name in ("train", "val", "expected")},
                **{f"{name}_deviation": (0.0, 0.0, 0.4) for name in ("train", "val", "expected")},
            )
        )
    ),
    "erasing-alone": healthy(
        train=train(variants=Variants(num_compared=16, num_different=1)),
        augment=augmentation(mean_displacement=0.0, mean_brightness_change=0.0, mean_contrast_change=0.0, mean_share_erased=0.01),
    ),
    "swings-on-few-images": healthy(
        train=head_only(
            [1.2, 0.8, 0.5, 0.4, 0.38, 0.36],
            [3e-2] * 12,
            planned={"num_val": 30},
            curves={"val_losses": [0.6, 0.5, 0.3, 0.6, 0.3, 0.6]},
        )
    ),
    "balanced-for-training": healthy(
        data=data(split_counts={"train": {"a": 500, "b": 500}, "val": {"a": 190, "b": 10}}),
        evaluate=evaluation(classes=tuple(ClassResult(label=label, num_images=50, recall=0.9, predicted=50) for label in "ab")),
    ),
    "dropout-against-a-gap": healthy(
        train=train(probes=probes(A={"accuracy": 0.87}, A_dropout={"accuracy": 0.73}, V={"accuracy": 0.76}, V_batch={"accuracy": 0.76}))
    ),
    "one-image-in-the-last-epoch": healthy(
        train=head_only(
            [0.4, 0.15, 0.09, 0.07, 0.06],
            [1e-3] * 8,
            planned={"num_classes": 2, "num_val": 120},
            curves={"val_losses": [0.25, 0.12, 0.07, 0.05, 0.125], "val_accuracies": [0.925, 0.967, 0.975, 0.983, 0.975]},
            probes=probes(**{name: {"accuracy": 0.98, "loss": 0.06} for name in QUESTIONS}),
        ).model_copy(update={"orders": ()})
    ),
    "still-getting-better": healthy(train=head_only([0.9, 0.75, 0.66, 0.6, 0.56], [1e-3] * 8)),
    "strong-augmentation-that-helps": healthy(
        train=head_only(
            [1.3, 0.95, 0.8, 0.7, 0.66],
            [1e-3] * 8,
            curves={"val_losses": [0.9, 0.6, 0.45, 0.41, 0.4], "accuracies": [0.55, 0.66, 0.72, 0.75, 0.77]},
            probes=probes(A={"accuracy": 0.89}, A_augmented={"accuracy": 0.78}, V={"accuracy": 0.88}),
        )
    ),
    "much-dropout-that-is-good-enough": healthy(
        train=train(probes=probes(A={"accuracy": 0.9, "loss": 0.35}, A_dropout={"accuracy": 0.74, "loss": 0.8}, V={"accuracy": 0.88}))
    ),
    "hard-data-at-the-usual-rate": healthy(
        train=head_only(
            [0.69, 0.67, 0.65, 0.64, 0.635],
            [4e-4] * 8,
            planned={"num_classes": 2},
            curves={"rates": [1e-3] * 5, "accuracies": [0.66] * 5, "val_accuracies": [0.66] * 5},
            probes=probes(**{name: {"accuracy": 0.66, "loss": 0.63} for name in QUESTIONS}),
        ).model_copy(update={"orders": ()})
    ),
    "two-classes-learned-and-unsure": healthy(
        train=two_classes(objectives=objective(output_low=0.27, output_high=0.73, loss=0.45, recomputed_loss=0.45))
    ),
    "one-epoch-of-much": healthy(train=head_only([0.9], [1e-3] * 4, curves={"num_steps": 37_500})),
}
