"""Evidence for the tests of the rules: a healthy run, and for each rule runs where it fires, nearly fires, and cannot look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from stages.shared.evidence import (
    Activations,
    AugmentEvidence,
    ClassResult,
    DataEvidence,
    Epoch,
    EvaluateEvidence,
    Evidence,
    Failure,
    FirstStep,
    Gradients,
    Inputs,
    NonFinite,
    Objective,
    Order,
    Probe,
    Setup,
    Step,
    Stop,
    TrainEvidence,
    Variants,
)

NAN, INF = float("nan"), float("inf")
CHANCE_LOSS = math.log(10)
QUESTIONS = ("A", "A_batch", "A_dropout", "A_augmented", "V", "V_batch")


def setup(**changes: Any) -> Setup:
    usual: dict[str, Any] = {
        "num_classes": 10,
        "num_train": 3200,
        "num_val": 600,
        "batch_size": 32,
        "steps_per_epoch": 100,
        "num_head_epochs": 5,
        "num_fine_tune_epochs": 2,
        "pretrained": True,
        "optimizer": "adam",
        "precision": "float32",
        "is_augmented": True,
    }
    return Setup(**{**usual, **changes})


def epochs(
    losses: list[float],
    val_losses: list[float] | None = None,
    accuracies: list[float] | None = None,
    val_accuracies: list[float] | None = None,
    *,
    phase: str = "head",
    rates: list[float] | None = None,
    num_steps: int = 100,
    has_validation: bool = True,
) -> tuple[Epoch, ...]:
    count = len(losses)
    found = zip(
        losses, val_losses or losses, accuracies or [0.85] * count, val_accuracies or [0.88] * count, rates or [3e-3] * count, strict=True
    )
    usual: dict[str, Any] = {"phase": phase, "num_steps": num_steps, "has_validation": has_validation}
    return tuple(
        Epoch(epoch=i, loss=loss, accuracy=known, val_loss=val, val_accuracy=right, learning_rate=rate, **usual)
        for i, (loss, val, known, right, rate) in enumerate(found)
    )


def steps(ratios: list[float], losses: list[float] | None = None, phase: str = "head", **changes: Any) -> tuple[Step, ...]:
    usual: dict[str, Any] = {"unchanged_share": 0.0, "norm_share": 1.0, **changes}
    seen = losses or [1.0] * len(ratios)
    return tuple(
        Step(phase=phase, epoch=i // 2, step=i, loss=loss, update_ratio=ratio, highest_ratio=2 * ratio, **usual)
        for i, (ratio, loss) in enumerate(zip(ratios, seen, strict=True))
    )


def probes(**changes: dict[str, Any]) -> tuple[Probe, ...]:
    """The answers at the end, all alike but for ``changes`` by name."""
    usual: dict[str, Any] = {
        "moment": "end",
        "epoch": 6,
        "loss": 0.3,
        "accuracy": 0.9,
        "num_images": 256,
        "matched_accuracy": 0.9,
        "largest_share": 0.12,
    }
    return tuple(Probe(**{**usual, "name": name, **changes.get(name, {})}) for name in {**dict.fromkeys(QUESTIONS), **changes})


def inputs(**changes: Any) -> Inputs:
    grey = (-0.4, -0.4, -0.4)
    spread = (0.6, 0.6, 0.6)
    usual: dict[str, Any] = {"expected_mean": grey, "expected_deviation": spread, "difference": 0.0}
    for name in ("train", "val"):
        usual |= {f"{name}_low": (-1.0,) * 3, f"{name}_high": (1.0,) * 3, f"{name}_mean": grey, f"{name}_deviation": spread}
    return Inputs(**{**usual, **changes})


def both_readings(mean: tuple[float, ...], deviation: tuple[float, ...]) -> Inputs:
    """Training and validation alike."""
    return inputs(train_mean=mean, train_deviation=deviation, val_mean=mean, val_deviation=deviation)


def objective(**changes: Any) -> tuple[Objective, ...]:
    usual = {"loss": 0.3, "recomputed_loss": 0.3, "penalty": 0.0, "output_low": 1e-6, "output_high": 0.99, "output_sum": 1.0}
    return (Objective(epoch=6, **{**usual, **changes}),)


def first_step(phase: str, num_trainable: int = 10_000) -> FirstStep:
    return FirstStep(phase=phase, loss=2.4, num_trainable=num_trainable)


HEAD_LOSSES, TUNED_LOSSES = [1.5, 0.9, 0.6, 0.5, 0.45], [0.44, 0.438]
TUNED = epochs(TUNED_LOSSES, phase="fine-tune", rates=[1e-5, 1e-5])
TUNED_STEPS = steps([5e-4] * 4, phase="fine-tune")


def train(**changes: Any) -> TrainEvidence:
    """A head and its fine-tuning that went well, with some parts replaced."""
    healthy_parts: dict[str, Any] = {
        "setup": setup(),
        "inputs": inputs(),
        "variants": Variants(num_compared=12, num_different=12),
        "first_steps": (first_step("head"), first_step("fine-tune", 400_000)),
        "orders": tuple(Order(epoch=i, distinct_labels=9.6, expected_distinct_labels=9.6) for i in range(2)),
        "epochs": (*epochs(HEAD_LOSSES), *TUNED),
        "steps": (*steps([1e-3] * 8), *TUNED_STEPS),
        "gradients": (Gradients(phase="head", epoch=0, norm=1.0, means=(1e-3,), zero_share=0.0),),
        "activations": (Activations(phase="head", epoch=0, at_zero=(0.5,), at_six=(0.0,), dead_units=(0.0,)),),
        "probes": probes(),
        "objectives": objective(),
    }
    return TrainEvidence(**{**healthy_parts, **changes})


def head_only(losses: list[float], ratios: list[float], **changes: Any) -> TrainEvidence:
    """One phase, with these losses and sizes of steps."""
    planned = setup(num_head_epochs=len(losses), num_fine_tune_epochs=0, **changes.pop("planned", {}))
    curves = changes.pop("curves", {})
    return train(setup=planned, epochs=epochs(losses, **curves), steps=steps(ratios), first_steps=(first_step("head"),), **changes)


def standing_still_from(epoch: int, rates: Sequence[float] = (0.0,) * 5) -> TrainEvidence:
    """Five epochs of a head, whose weights no step changes from some epoch on; the rate is seen as an epoch ends."""
    still = [step.model_copy(update={"unchanged_share": float(step.epoch >= epoch)}) for step in steps([1e-3] * 10)]
    found = head_only([1.5, 1.2, 1.1, 1.1, 1.1], [1e-3], curves={"rates": list(rates)})
    return found.model_copy(update={"steps": tuple(still)})


def classes(recall: float = 0.85, predicted: int = 10) -> tuple[ClassResult, ...]:
    common = (ClassResult(label=f"c{i}", num_images=60, recall=0.9, predicted=60) for i in range(9))
    return (*common, ClassResult(label="rare", num_images=10, recall=recall, predicted=predicted))


def evaluation(**changes: Any) -> EvaluateEvidence:
    good: dict[str, Any] = {
        "accuracy": 0.9,
        "accuracy_low": 0.87,
        "accuracy_high": 0.93,
        "macro_recall": 0.89,
        "macro_f1": 0.89,
        "classes": classes(),
        "missed_gates": (),
    }
    return EvaluateEvidence(**{**good, **changes})


def data(rare: int = 100, **changes: Any) -> DataEvidence:
    counts = {**{f"c{i}": 300 for i in range(9)}, "rare": rare}
    good: dict[str, Any] = {
        "passed": True,
        "num_ok": 4000,
        "num_quarantined": 3,
        "split_counts": {"train": counts, "val": {label: max(1, count // 5) for label, count in counts.items()}},
        "num_offenders": {"label-noise": 4, "near-split-overlap": 0, "split-overlap": 0},
        "failed_checks": (),
    }
    return DataEvidence(**{**good, **changes})


def augmentation(**changes: Any) -> AugmentEvidence:
    usual: dict[str, Any] = {
        "outcome": "fit",
        "mean_displacement": 0.04,
        "mean_share_outside": 0.01,
        "mean_brightness_change": 0.02,
        "mean_contrast_change": 0.02,
        "mean_share_erased": 0.0,
        "mean_share_mixed": 0.0,
        "too_strong": (),
        "balancing": "none",
    }
    return AugmentEvidence(**{**usual, **changes})


def healthy(**changes: Any) -> Evidence:
    """The evidence of a run without fault, with some parts replaced."""
    parts: dict[str, Any] = {"data": data(), "augment": augmentation(), "train": train(), "evaluate": evaluation()}
    return Evidence(**{**parts, **changes})


def failed(kind: str, cause: str = "the cause") -> Failure:
    return Failure(stage="train", kind=kind, cause=cause)


FALLING = [1.5, 0.8, 0.4, 0.2, 0.1, 0.05]
RISING = [1.0, 0.7, 0.8, 0.9, 1.0, 1.2]
STUCK = [2.29, 2.28, 2.28, 2.27, 2.27]
VIOLENT = [0.2, 5e-2, 2e-2, 2e-2]
ADAMS_FIRST_STEPS = [0.032, 0.02, 0.01, 5e-3, 3e-3, 2e-3, 2e-3]


def overfitted(losses: list[float] = FALLING, val_losses: list[float] = RISING, **changes: Any) -> TrainEvidence:
    known = {"A": {"accuracy": 0.99, "loss": 0.05}, "V": {"accuracy": 0.75, "loss": 1.2}, **changes}
    others = {name: {"accuracy": known["A"]["accuracy"]} for name in ("A_batch", "A_dropout")}
    answers = {**others, "A_augmented": {"accuracy": 0.9}, "V_batch": {"accuracy": known["V"]["accuracy"]}, **known}
    return train(
        setup=setup(num_head_epochs=6, num_fine_tune_epochs=0),
        epochs=epochs(losses, val_losses, val_accuracies=[0.72, 0.76, 0.76, 0.75, 0.75, 0.75]),
        steps=steps([1e-3] * 8),
        first_steps=(first_step("head"),),
        probes=probes(**answers),
    )


LATE = [1.5, 1.4, 1.3, 1.2, 1.1, 1.1]
NOT_BY_HEART = {"accuracy": 0.88, "loss": 0.4}
WEAK = augmentation(outcome="weak", mean_displacement=0.001)
WEAKLY_OVERFITTED = {"train": overfitted(A_augmented={"accuracy": 0.98}), "augment": WEAK}
DIVERGED_FINE_TUNING = train(
    epochs=(*epochs(STUCK), *epochs([2.4, 40.0], phase="fine-tune", rates=[1e-5] * 2)),
    steps=(*steps([1e-3] * 8), *steps([0.2, 0.2, 5e-2], phase="fine-tune")),
)


def broken_fine_tuning(after: float = 0.4, last: float = 0.5, loss: float = 1.6) -> TrainEvidence:
    tuned = epochs([loss, 0.9], [loss, 1.0], val_accuracies=[after, last], phase="fine-tune", rates=[1e-2] * 2)
    return train(epochs=(*epochs(HEAD_LOSSES), *tuned))


def non_finite(source: str = "", ratios: tuple[float, ...] = (1e-3,) * 4) -> TrainEvidence:
    where = NonFinite(phase="head", epoch=1, step=9, loss=NAN, source=source)
    return train(epochs=epochs([1.5]), steps=steps(list(ratios)), probes=(), objectives=(), non_finite=where)


def broken_at_once(ratios: list[float], loss: float) -> TrainEvidence:
    where = NonFinite(phase="head", epoch=0, step=9, loss=loss, source="")
    return train(epochs=(), steps=steps(ratios), probes=(), objectives=(), non_finite=where)


def stopped_after(val_losses: list[float]) -> TrainEvidence:
    """A head of 20 epochs that early stopping ended."""
    losses = [2.0 - 0.2 * i for i in range(len(val_losses))]
    stop = Stop(phase="head", epoch=len(losses) - 1, reason="early-stopping")
    planned = setup(num_head_epochs=20, num_fine_tune_epochs=0)
    return train(
        setup=planned, epochs=epochs(losses, val_losses), steps=steps([1e-3] * 8), first_steps=(first_step("head"),), stops=(stop,)
    )


def noisy(known: float, validated: float, loss: float = 0.9) -> TrainEvidence:
    of_training = {name: {"accuracy": known, "loss": loss} for name in ("A", "A_batch", "A_dropout", "A_augmented")}
    return train(probes=probes(**of_training, V={"accuracy": validated, "loss": 0.5}, V_batch={"accuracy": validated}))


def noisy_before(moment: str) -> TrainEvidence:
    """In the end the wrong labels were known by heart; not at some moment before."""
    before = (found.model_copy(update={"moment": moment}) for found in noisy(0.65, 0.85).probes)
    return train(probes=(*before, *probes()))


def rare(recall: float = 0.1, predicted: int = 2, images: int = 50) -> dict[str, Any]:
    return {"data": data(rare=images), "evaluate": evaluation(classes=classes(recall=recall, predicted=predicted))}


def over_augmented(augmented: float = 0.6, known: float = 0.9) -> dict[str, Any]:
    """Known well as they are, badly when augmented."""
    strong = augmentation(outcome="too strong", too_strong=(("augment.zoom", 0.25),), mean_share_outside=0.4)
    curves = {"accuracies": [0.6] * 5}
    found = head_only(
        [2.0, 1.7, 1.5, 1.4, 1.35],
        [1e-3] * 8,
        curves=curves,
        probes=probes(A={"accuracy": known}, A_augmented={"accuracy": augmented}, V={"accuracy": known}),
    )
    return {"train": found, "augment": strong}


GUESSING = {"accuracies": [0.15] * 5, "val_accuracies": [0.15] * 5}
SLOWLY: dict[str, Any] = {"losses": [2.30, 2.29, 2.28, 2.27, 2.26], "ratios": [1e-6] * 8}
MISSED = evaluation(missed_gates=("accuracy 0.750",))
FLAT = [0.9, 0.7, 0.62, 0.61, 0.61]
LIMITED = {"evaluate": evaluation(missed_gates=("accuracy 0.610",)), "train": head_only(FLAT, [1e-3] * 8)}
# Steadily, in ordinary steps, and with half of it left when the schedule ends.
FALLEN_IN_TIME = [1.5, 1.2, 1.1, 1.11, 1.12, 1.11, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1]  # the rate, after no gain for three epochs
STEADILY = [2.3, 2.1, 1.9, 1.75, 1.6, 1.5]
HALF_KNOWN = probes(**{name: {"accuracy": 0.6} for name in QUESTIONS})
BY_SGD: dict[str, Any] = {"planned": {"optimizer": "sgd"}, "probes": HALF_KNOWN}
RECOVERED: dict[str, Any] = {"losses": [5.0, 2.5, 1.5, 0.9, 0.5], "ratios": [2.0, 0.3, 1e-2, 5e-3]}
FALLS_IN_THE_END = [2.0, 1.6, 1.3]
NO_PROBE = {"train": train(probes=())}
NO_TRAIN = {"train": None}

FIRES: dict[str, list[Evidence]] = {
    "data-rejected": [healthy(data=data(passed=False, failed_checks=("class-set",)), train=None, evaluate=None)],
    "undecodable-image": [
        Evidence(data=data(), failure=Failure(stage="prepare", kind="exception", cause="UnreadableImageError: a.jpg cannot be decoded")),
        Evidence(data=data(), failure=Failure(stage="train", kind="exception", cause="OSError: image file is truncated (3 bytes)")),
    ],
    "out-of-memory": [healthy(failure=failed("out-of-memory"))],
    "interrupted": [healthy(failure=failed(kind)) for kind in ("killed", "terminated", "interrupted", "lost")],
    "data-exhausted": [
        healthy(train=train(epochs=(*epochs(HEAD_LOSSES[:4], num_steps=100), *TUNED))),
        healthy(train=train(epochs=(*epochs(HEAD_LOSSES, num_steps=40), *TUNED))),
        healthy(train=train(epochs=(*epochs(HEAD_LOSSES, [NAN] * 5, has_validation=False), *TUNED))),
    ],
    "leakage": [
        healthy(data=data(num_offenders={"near-split-overlap": 60})),
        healthy(data=data(num_offenders={"split-overlap": 60})),
    ],
    "bad-split": [
        healthy(data=data(split_counts={"train": {"a": 300, "b": 60}, "val": {"a": 2, "b": 100}})),
        healthy(data=data(split_counts={"train": {"a": 100, "b": 100, "c": 5}, "val": {"a": 100, "b": 100}})),
    ],
    "unshuffled-data": [healthy(train=train(orders=(Order(epoch=1, distinct_labels=1.2, expected_distinct_labels=9.6),)))],
    "wrong-input-range": [
        healthy(
            train=train(inputs=inputs(train_mean=(0.3,) * 3, train_deviation=(0.3,) * 3, val_mean=(0.3,) * 3, val_deviation=(0.3,) * 3))
        ),
        healthy(train=train(inputs=both_readings((76.0,) * 3, (77.0,) * 3))),
        healthy(train=train(inputs=both_readings((NAN,) * 3, (NAN,) * 3))),
    ],
    "preprocessing-mismatch": [
        healthy(train=train(inputs=inputs(difference=0.3), probes=probes(B={"accuracy": 0.2}, V={"accuracy": 0.2})))
    ],
    "loss-mismatch": [
        healthy(train=train(objectives=objective(output_low=1 / (math.e + 9), output_high=math.e / (math.e + 9)))),
        healthy(train=train(objectives=objective(output_low=-3.0, output_sum=-5.0))),
        healthy(train=train(objectives=objective(loss=1.46))),
        # Hardly anything was learned, and both ends of what a softmax of a softmax can say were reached.
        healthy(
            train=train(
                objectives=objective(output_low=1 / (math.e + 9), output_high=math.e / (math.e + 9)),
                probes=probes(**{name: {"accuracy": 0.2} for name in QUESTIONS}),
            )
        ),
        healthy(train=train(objectives=objective(loss=NAN))),
    ],
    "label-order-mismatch": [
        healthy(train=train(probes=probes(V={"accuracy": 0.05, "matched_accuracy": 0.88}, V_batch={"accuracy": 0.05}))),
    ],
    "non-finite-values": [
        healthy(train=non_finite(), evaluate=None),
        healthy(train=non_finite("input", (0.5, INF)), evaluate=None),
        healthy(train=non_finite("label"), evaluate=None),
    ],
    "nothing-trains": [
        healthy(
            train=standing_still_from(1, [3e-3] * 5).model_copy(
                update={"epochs": epochs([2.2] * 5, accuracies=[0.15] * 5, val_accuracies=[0.15] * 5)}
            )
        ),
        healthy(train=train(epochs=epochs(STUCK), steps=steps([0.0] * 8, unchanged_share=1.0), setup=setup(num_fine_tune_epochs=0))),
        healthy(
            train=train(epochs=(), steps=()),
            failure=failed("exception", "UntrainableError: the first steps changed no weight"),
            evaluate=None,
        ),
        healthy(train=train(first_steps=(first_step("head", 0),))),
    ],
    "destructive-fine-tuning": [
        healthy(train=broken_fine_tuning()),
        healthy(
            train=train(
                epochs=epochs(HEAD_LOSSES),
                steps=(*steps([1e-3] * 8), *steps([0.3], phase="fine-tune")),
                non_finite=NonFinite(phase="fine-tune", epoch=0, step=3, loss=NAN, source=""),
                probes=(),
                objectives=(),
            ),
            failure=failed("exception", "NonFiniteLossError: nan"),
        ),
    ],
    "learning-rate-too-high": [
        healthy(train=head_only([2.4, 40.0, 900.0], VIOLENT)),
        healthy(train=head_only(STUCK, VIOLENT)),
        healthy(
            train=train(
                epochs=(), steps=steps(VIOLENT), probes=(), non_finite=NonFinite(phase="head", epoch=0, step=9, loss=NAN, source="")
            )
        ),
        healthy(
            train=train(
                epochs=(), steps=steps([5e-2, NAN]), probes=(), non_finite=NonFinite(phase="head", epoch=0, step=9, loss=INF, source="")
            )
        ),
        healthy(train=head_only(**RECOVERED, curves={"val_losses": [5.1, 3.3, 3.4, 3.2, 2.8]})),  # learned, and far too sure of it
    ],
    "batchnorm-mismatch": [
        healthy(
            train=train(
                probes=probes(A={"accuracy": 0.2}, V={"accuracy": 0.2}, A_dropout={"accuracy": 0.2}, A_augmented={"accuracy": 0.2}),
            )
        )
    ],
    "learning-rate-collapsed": [
        healthy(train=head_only([1.5, 1.2, 1.1, 1.1, 1.1, 1.1], [1e-3] * 8, curves={"rates": [3e-3, 3e-4, 3e-6, 3e-8, 3e-9, 3e-9]})),
        healthy(train=standing_still_from(1)),
    ],
    "unsuitable-optimizer": [
        healthy(train=head_only(**SLOWLY, planned={"optimizer": "adadelta"}, curves=GUESSING)),
        healthy(train=head_only(STEADILY, [3e-3] * 8, planned={"optimizer": "sgd"}, probes=HALF_KNOWN, curves={"rates": [1e-3] * 6})),
    ],
    "learning-rate-too-low": [
        healthy(train=head_only(**SLOWLY, curves={**GUESSING, "rates": [1e-6] * 5})),
        healthy(train=head_only(**SLOWLY, planned={"optimizer": "sgd"}, curves={**GUESSING, "rates": [1e-6] * 5})),
    ],
    "over-regularised": [
        healthy(
            train=train(probes=probes(**{name: {"accuracy": 0.4 if name == "A_dropout" else 0.7} for name in QUESTIONS})), evaluate=MISSED
        ),
        healthy(train=train(probes=probes(A={"accuracy": 0.8, "loss": 0.6}, A_dropout={"accuracy": 0.75, "loss": 0.9})), evaluate=MISSED),
        healthy(train=train(steps=(*steps([1e-3] * 8, norm_share=0.2), *TUNED_STEPS)), evaluate=MISSED),
        healthy(train=train(objectives=objective(penalty=2.0)), evaluate=MISSED),
    ],
    "excessive-augmentation": [
        healthy(**over_augmented()),
        healthy(**over_augmented(augmented=0.12, known=0.12)),  # nothing could be learned from such images
    ],
    "label-noise": [
        healthy(train=noisy(0.65, 0.85)),
        healthy(train=noisy_before("phase end")),
        healthy(data=data(num_offenders={"label-noise": 300})),
    ],
    "class-imbalance": [healthy(**rare())],
    "frozen-augmentation": [healthy(train=train(variants=Variants(num_compared=12, num_different=0)))],
    "insufficient-augmentation": [healthy(**WEAKLY_OVERFITTED)],
    "overfitting": [
        healthy(train=overfitted()),
        healthy(train=overfitted(), augment=None),
        healthy(train=overfitted(val_losses=LATE), evaluate=MISSED),
        healthy(train=train(probes=probes(A={"accuracy": 0.8}, V={"accuracy": 0.66})), evaluate=MISSED),  # a gap, and nothing else
    ],
    "final-not-best": [
        healthy(train=head_only([0.9, 0.7, 0.6, 0.6, 0.9], [1e-3] * 8, curves={"val_accuracies": [0.8, 0.85, 0.9, 0.9, 0.7]})),
        healthy(train=head_only([0.9, 0.7, 0.5, 0.45, 1.0], [1e-3] * 8)),  # sure of its mistakes, and right as often
    ],
    "under-trained": [
        healthy(train=head_only(FALLS_IN_THE_END, [1e-3] * 6), evaluate=MISSED),
        healthy(train=head_only([1.9], [1e-3] * 4), evaluate=MISSED),
        healthy(train=head_only([1.9], [1e-3] * 4, curves={"rates": [0.0], "num_steps": 900}), evaluate=MISSED),
        # The schedule had come to its end, and the loss fell all the same.
        healthy(train=head_only(FALLS_IN_THE_END, [1e-3] * 6, curves={"rates": [3e-3, 1e-3, 1e-5]}), evaluate=MISSED),
        healthy(train=stopped_after([2.0, 1.6, 1.3, 1.35]), evaluate=MISSED),
        healthy(train=stopped_after([2.0, 1.6, 1.3, 1.35]), evaluate=None),
        # Validation is noisy, and training loss falls fast.
        healthy(train=head_only([2.1, 1.6, 1.3], [1e-3] * 6, curves={"val_losses": [2.0, 1.5, 1.55]}), evaluate=MISSED),
    ],
    "capacity-limited": [healthy(**LIMITED)],
}
NEAR_MISSES: dict[str, list[Evidence]] = {
    "data-rejected": [healthy(data=data(failed_checks=("near-duplicate",)))],
    "undecodable-image": [
        healthy(failure=failed("exception", "ValueError: no such thing")),
        healthy(failure=failed("killed", "image file is truncated")),
        healthy(),
    ],
    "out-of-memory": [healthy(failure=failed("killed")), healthy()],
    "interrupted": [healthy(failure=failed("exception")), healthy()],
    "data-exhausted": [
        healthy(train=train(epochs=(*epochs(HEAD_LOSSES[:4]), *TUNED), stops=(Stop(phase="head", epoch=3, reason="early-stopping"),))),
        healthy(train=train(epochs=epochs(HEAD_LOSSES[:2])), failure=failed("killed")),
        healthy(train=train(epochs=(*epochs(HEAD_LOSSES, [1.0, NAN, 0.9, 0.8, 0.7]), *TUNED))),
    ],
    "leakage": [healthy(data=data(num_offenders={"near-split-overlap": 5}))],
    "bad-split": [
        healthy(data=data(split_counts={"train": {"a": 100, "b": 100}, "val": {"a": 70, "b": 30}})),
        healthy(data=data(split_counts={"train": {"a": 100, "b": 100}, "val": {"a": 6, "b": 1}})),  # by chance, of seven
    ],
    "unshuffled-data": [
        healthy(train=train(orders=(Order(epoch=1, distinct_labels=6.0, expected_distinct_labels=9.6),))),
        healthy(train=train(orders=(Order(epoch=1, distinct_labels=1.0, expected_distinct_labels=1.0),))),  # batches of one image
    ],
    "wrong-input-range": [
        healthy(train=train(inputs=inputs(expected_mean=(0.9,) * 3, train_mean=(0.9,) * 3, val_mean=(0.9,) * 3))),  # pale pictures
        healthy(train=train(inputs=inputs(val_mean=(0.3,) * 3))),  # validation alone: another fault
    ],
    "preprocessing-mismatch": [healthy(train=train(inputs=inputs(difference=0.01)))],
    "loss-mismatch": [
        healthy(train=train(objectives=objective(loss=0.31))),
        healthy(
            train=train(objectives=objective(output_high=0.2), probes=probes(A={"accuracy": 0.3}, A_augmented={"accuracy": 0.3}))
        ),  # unsure, since it has not learned
    ],
    "label-order-mismatch": [
        healthy(train=train(probes=probes(V={"accuracy": 0.4, "matched_accuracy": 0.5}))),
        healthy(train=train(probes=probes(V={"accuracy": 0.1, "matched_accuracy": 0.36}))),  # no renaming mends it
        healthy(train=train(probes=probes(A={"accuracy": 0.12}, V={"accuracy": 0.1, "matched_accuracy": 0.4}))),  # nothing was learned
    ],
    "non-finite-values": [healthy(), healthy(train=non_finite(ratios=(0.2, 0.1)))],
    "nothing-trains": [
        healthy(train=train(steps=(*steps([1e-9] * 8, unchanged_share=0.9), *TUNED_STEPS))),
        healthy(train=train(steps=steps([0.0] * 3, unchanged_share=1.0))),  # half precision leaves out its first steps
        healthy(failure=failed("exception", "UntrainableError: the first batch reaches the backbone with values from 0 to 255")),
    ],
    "destructive-fine-tuning": [
        healthy(train=broken_fine_tuning(after=0.84)),
        healthy(train=broken_fine_tuning(loss=0.5)),
        healthy(train=broken_fine_tuning(last=0.92)),  # it came back, and better
    ],
    "learning-rate-too-high": [
        healthy(train=head_only(HEAD_LOSSES, VIOLENT)),  # large updates, but it learned
        healthy(train=head_only(STUCK, ADAMS_FIRST_STEPS)),
        healthy(train=head_only(STUCK, [9e-3] * 8)),  # did not learn, but with ordinary updates
        healthy(train=head_only(**RECOVERED, curves={"val_losses": [5.1, 2.3, 1.4, 1.0, 0.6]})),  # recovered from its first steps
        # Large over weights that decay has shrunk, not over what they were.
        healthy(train=train(epochs=epochs(STUCK), steps=steps([3e-2] * 8, norm_share=0.1), setup=setup(num_fine_tune_epochs=0))),
        healthy(train=head_only([2.2], [2e-2] * 4)),  # a single epoch, whose mean loss holds its beginning
    ],
    "batchnorm-mismatch": [
        healthy(train=train(probes=probes(A={"accuracy": 0.8}, V={"accuracy": 0.8}))),
        healthy(train=head_only([1.9], [1e-3] * 4, probes=probes(A={"accuracy": 0.4}, V={"accuracy": 0.4}))),  # after one epoch they lag
    ],
    "learning-rate-collapsed": [
        healthy(train=head_only([1.5, 1.2, 1.1, 1.1, 1.1], [1e-3] * 8, curves={"rates": [3e-3, 2e-3, 1e-3, 1e-4, 0.0]})),  # cosine
        healthy(train=head_only([1.5, 1.2, 1.1, 1.1, 1.1], [1e-3] * 8, curves={"rates": [3e-3, 3e-4, 3e-5, 3e-5, 3e-5]})),
        healthy(train=standing_still_from(4)),  # at the end alone
        healthy(train=standing_still_from(1, [3e-3] * 5)),  # not for want of a rate
        healthy(train=head_only(FALLEN_IN_TIME, [1e-3] * 8, curves={"rates": [1e-3] * 6 + [1e-7] * 6})),
    ],
    "unsuitable-optimizer": [
        healthy(train=head_only(**SLOWLY, curves=GUESSING)),  # Adam: its rate is to blame
        healthy(train=head_only(HEAD_LOSSES, [1e-3] * 8, planned={"optimizer": "sgd"})),
        healthy(train=head_only(STEADILY, [3e-3] * 8, planned={"optimizer": "sgd"}, curves={"rates": [1e-3] * 6})),  # and knows its images
        healthy(train=head_only([2.3, 1.5, 1.4, 1.42, 1.39, 1.4], [3e-3] * 8, **BY_SGD, curves={"rates": [1e-3] * 6})),  # flat
        healthy(train=head_only(STEADILY, [3e-3] * 8, **BY_SGD, curves={"rates": [1e-2] * 6})),  # the data are hard
    ],
    "learning-rate-too-low": [
        healthy(train=head_only(STUCK, [1.5e-3] * 8)),  # did not learn, with ordinary updates
        healthy(train=head_only([0.45, 0.44, 0.43], [1e-6] * 8)),  # small updates, but it learned
        healthy(train=head_only(**SLOWLY, planned={"optimizer": "adadelta"}, curves=GUESSING)),  # the optimizer is to blame
    ],
    "over-regularised": [
        healthy(train=train(probes=probes(A_dropout={"accuracy": 0.8}))),
        healthy(train=train(probes=probes(A={"accuracy": 0.8, "loss": 0.6}, A_dropout={"accuracy": 0.75, "loss": 0.75})), evaluate=MISSED),
        healthy(train=train(probes=probes(A={"accuracy": 0.8, "loss": 0.6}, A_dropout={"accuracy": 0.75, "loss": 0.9}))),  # good enough
        healthy(train=train(steps=(*steps([1e-3] * 8, norm_share=0.6), *TUNED_STEPS))),
    ],
    "excessive-augmentation": [
        healthy(**over_augmented(augmented=0.86)),
        healthy(train=train(probes=probes(A_augmented={"accuracy": 0.7}, V={"accuracy": 0.95}))),  # costs much, and all is known well
    ],
    "label-noise": [
        healthy(train=noisy(0.84, 0.9)),
        healthy(train=noisy(0.65, 0.85, loss=0.5)),  # as sure of its training images
        healthy(train=noisy_before("start")),
        healthy(data=data(num_offenders={"label-noise": 80})),
    ],
    "class-imbalance": [
        healthy(**rare(images=101)),  # 300 : 101
        healthy(**rare(recall=0.8)),
        healthy(**rare(predicted=10)),
    ],
    "frozen-augmentation": [
        healthy(train=train(variants=Variants(num_compared=12, num_different=4))),  # some look alike by chance
        healthy(train=train(variants=Variants(num_compared=12, num_different=0), setup=setup(is_augmented=False))),
    ],
    "insufficient-augmentation": [
        healthy(train=overfitted()),
        healthy(augment=WEAK),  # weak, and no harm
        healthy(augment=WEAK, train=overfitted(A_augmented={"accuracy": 0.9})),  # moves little, and the network feels it
    ],
    "overfitting": [
        healthy(train=overfitted(V={"accuracy": 0.9, "loss": 0.6})),  # gap 0.09
        healthy(
            train=overfitted(val_losses=[1.0, 0.7, 0.72, 0.73, 0.74, 0.76], A={"accuracy": 0.88, "loss": 0.4})
        ),  # rises by less than a tenth
        healthy(train=overfitted(val_losses=[1.2, 1.1, 1.0, 0.9, 0.7, 1.2], A=NOT_BY_HEART)),  # lowest near the end
        healthy(train=overfitted(val_losses=LATE)),  # nothing better was asked for
        healthy(**WEAKLY_OVERFITTED),  # another name for it
    ],
    "final-not-best": [
        healthy(train=head_only([0.9, 0.7, 0.6, 0.6, 0.9], [1e-3] * 8, curves={"val_accuracies": [0.8, 0.85, 0.9, 0.9, 0.87]})),
        healthy(train=head_only([0.9, 0.7, 0.6, 0.6, 0.62], [1e-3] * 8, curves={"val_accuracies": [0.8, 0.85, 0.9, 0.9, 0.7]})),
        healthy(train=head_only([0.9, 0.7, 0.5, 0.45, 0.8], [1e-3] * 8)),
    ],
    "under-trained": [
        healthy(train=head_only(FALLS_IN_THE_END, [1e-3] * 6)),  # and good enough
        healthy(train=head_only([0.9, 0.7, 0.6, 0.59, 0.58], [1e-3] * 8), evaluate=MISSED),
        healthy(train=head_only([0.9, 0.7, 0.6, 0.5, 0.51], [1e-3] * 8), evaluate=None),  # not the best
        healthy(train=head_only([2.1, 1.6, 1.3], [1e-3] * 6, curves={"val_losses": [2.0, 1.5, 1.55]})),  # and good enough
        healthy(train=head_only([1.9], [1e-3] * 4)),  # a single epoch, which was enough
        healthy(train=head_only([1.9], [1e-3] * 4, curves={"rates": [0.0], "num_steps": 900}), evaluate=None),  # whose rate has run down
        healthy(train=head_only(FALLS_IN_THE_END, [1e-3] * 6, curves={"rates": [3e-3, 1e-3, 1e-5]}), evaluate=None),  # the schedule's end
        healthy(train=stopped_after([2.0, 1.6, 1.3, 1.35, 1.34]), evaluate=None),  # patience of two
    ],
    "capacity-limited": [
        healthy(train=LIMITED["train"]),  # nothing better was asked for
        healthy(**{**LIMITED, "train": head_only([2.0, 1.5, 1.2, 1.0, 0.9], [1e-3] * 8)}),  # still falling
    ],
}
FEW_COMPARED = Variants(num_compared=7, num_different=0)
NOT_APPLICABLE: dict[str, list[Evidence]] = {
    "data-rejected": [healthy(data=None)],
    "data-exhausted": [healthy(**NO_TRAIN), healthy(train=train(epochs=()))],
    "leakage": [healthy(data=None), healthy(data=data(split_counts={}))],
    "bad-split": [healthy(data=None), healthy(data=data(split_counts={}))],
    "unshuffled-data": [healthy(**NO_TRAIN), healthy(train=train(orders=()))],
    "wrong-input-range": [healthy(**NO_TRAIN), healthy(train=train(inputs=None))],
    "preprocessing-mismatch": [healthy(**NO_TRAIN), healthy(train=train(inputs=None))],
    "loss-mismatch": [healthy(**NO_TRAIN), healthy(train=train(objectives=()))],
    "label-order-mismatch": [healthy(**NO_TRAIN), healthy(**NO_PROBE)],
    "non-finite-values": [healthy(**NO_TRAIN)],
    "nothing-trains": [healthy(**NO_TRAIN)],
    "destructive-fine-tuning": [healthy(**NO_TRAIN), healthy(train=head_only(HEAD_LOSSES, [1e-3] * 8))],
    "learning-rate-too-high": [healthy(**NO_TRAIN), healthy(train=train(steps=()))],
    "batchnorm-mismatch": [healthy(**NO_TRAIN), healthy(train=train(probes=probes()[:1]))],
    "learning-rate-collapsed": [healthy(**NO_TRAIN), healthy(train=head_only([1.0] * 3, [1e-3] * 8))],
    "unsuitable-optimizer": [healthy(**NO_TRAIN), healthy(train=head_only([1.0], [1e-3] * 8)), healthy(train=train(steps=()))],
    "learning-rate-too-low": [healthy(**NO_TRAIN), healthy(train=head_only([1.0], [1e-3] * 8)), healthy(train=train(steps=()))],
    "over-regularised": [healthy(**NO_TRAIN), healthy(**NO_PROBE)],
    "excessive-augmentation": [healthy(**NO_TRAIN), healthy(**NO_PROBE), healthy(augment=None)],
    "label-noise": [healthy(data=None), healthy(**NO_PROBE)],
    "class-imbalance": [healthy(data=None), healthy(evaluate=None), healthy(data=data(split_counts={}))],
    "frozen-augmentation": [
        healthy(**NO_TRAIN),
        healthy(train=train(variants=None)),
        healthy(train=train(variants=Variants(num_compared=0, num_different=0))),
    ],
    "insufficient-augmentation": [healthy(**NO_TRAIN), healthy(**NO_PROBE), healthy(train=overfitted(), augment=None)],
    "overfitting": [healthy(**NO_TRAIN), healthy(train=head_only([1.0] * 3, [1e-3] * 8)), healthy(train=train(probes=probes()[:1]))],
    "final-not-best": [healthy(**NO_TRAIN), healthy(train=head_only([1.0, 0.9], [1e-3] * 8)), healthy(**NO_PROBE)],
    "under-trained": [healthy(**NO_TRAIN), healthy(train=train(epochs=()))],
    "capacity-limited": [healthy(**NO_TRAIN), healthy(evaluate=None), healthy(**NO_PROBE)],
}
