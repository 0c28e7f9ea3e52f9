"""What others would say of the same runs: their published rules and thresholds, on the same evidence.

Each baseline lists its alarms, in its own order, as (its name for the symptom, the faults for which that is the right answer). The second
is generous: whatever the symptom's own documentation, or its suggested fixes, would lead a person to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from stages.shared.evidence import Inputs
from tests.benchmarks.diagnosis.result import Result

Alarm = tuple[str, frozenset[str]]
Baseline = Callable[[Result], list[Alarm]]

RATE = frozenset({"learning-rate-too-high", "learning-rate-too-low", "unsuitable-optimizer", "destructive-fine-tuning"})
HIGH = frozenset({"learning-rate-too-high", "destructive-fine-tuning"})
LOW = frozenset({"learning-rate-too-low", "unsuitable-optimizer", "nothing-trains", "under-trained", "learning-rate-collapsed"})
OVERFIT = frozenset({"overfitting", "insufficient-augmentation", "frozen-augmentation", "final-not-best"})
INPUT = frozenset({"wrong-input-range", "preprocessing-mismatch"})
NUMBERS = frozenset({"non-finite-values", "learning-rate-too-high", "destructive-fine-tuning"})
GRADIENTS = frozenset({"loss-mismatch", "nothing-trains", "learning-rate-too-low", "unsuitable-optimizer"})
VALIDATION = frozenset({"leakage", "bad-split", "preprocessing-mismatch"})


def constant(result: Result) -> list[Alarm]:
    """The same answer to every run: the commonest of the faults."""
    return [("learning rate", frozenset({"learning-rate-too-high"}))]


def umlaut(result: Result) -> list[Alarm]:
    """UMLAUT (Schoop et al. 2021), umlaut/heuristics.py: rate outside [1e-7, 1e-2], inputs outside [-1, 1], NaN, dropout above .5,
    validation accuracy above .95 or above training's by .05 (from epoch 3), one epoch of rising validation and falling training loss.
    """
    train = result.evidence.train
    if train is None:
        return []
    inputs, params = train.inputs, result.params["train"]
    rates = [params["learning_rate"], *([params["fine_tune_learning_rate"]] if params["fine_tune_epochs"] else [])]
    late = train.epochs[3:]
    found = {
        ("NaN in the loss", NUMBERS): train.non_finite is not None,
        ("input outside [-1, 1]", INPUT): inputs is not None and not _within(inputs),
        ("learning rate", RATE): any(not 1e-7 <= rate <= 1e-2 for rate in rates),
        ("overfitting", OVERFIT): any(b.val_loss > a.val_loss and b.loss <= a.loss for a, b in itertools.pairwise(train.epochs)),
        ("high validation accuracy", VALIDATION): any(e.val_accuracy > 0.95 or e.val_accuracy - e.accuracy > 0.05 for e in late),
        ("dropout", frozenset({"over-regularised"})): params["dropout"] > 0.5,
    }
    return [alarm for alarm, rings in found.items() if rings]


def _within(inputs: Inputs) -> bool:
    return min(inputs.train_low) >= -1.001 and max(inputs.train_high) <= 1.001


def sagemaker_debugger(result: Result) -> list[Alarm]:
    """Amazon SageMaker Debugger's built-in rules with their defaults: exploding tensor (NaN or infinite), vanishing gradient (mean below
    1e-7), unchanged tensors, update ratio (above 10 or below 1e-8), loss not decreasing (less than .1 % in 10 steps), dead ReLU (half of a
    layer active below 1 %), class imbalance (ratio above 10), input images (mean beyond .2), overfit ((validation - training) / training
    above .1).
    """
    train, data = result.evidence.train, result.evidence.data
    if train is None:
        return []
    counts = [count for count in data.train_counts.values() if count] if data else []
    losses = [step.loss for step in train.steps]
    far = [(a, b) for a, b in zip(losses, losses[2:], strict=False) if math.isfinite(a) and math.isfinite(b)]
    means = [abs(mean) for mean in (train.inputs.train_mean if train.inputs else ())]
    found = {
        ("exploding tensor", NUMBERS): train.non_finite is not None or any(not math.isfinite(g.norm) for g in train.gradients),
        ("vanishing gradient", GRADIENTS): any(mean < 1e-7 for gradients in train.gradients for mean in gradients.means),
        ("unchanged tensor", GRADIENTS): bool(train.steps) and all(step.unchanged_share == 1 for step in train.steps),
        ("update ratio", RATE): any(not 1e-8 <= step.update_ratio <= 10 for step in train.steps),
        ("loss not decreasing", RATE | LOW): any(b > 0.999 * a for a, b in far),
        ("dead ReLU", HIGH | LOW): any(share > 0.5 for activations in train.activations for share in activations.dead_units),
        ("class imbalance", frozenset({"class-imbalance"})): bool(counts) and max(counts) / min(counts) > 10,
        ("input images", INPUT): any(mean > 0.2 for mean in means),
        ("overfit", OVERFIT): any((e.val_loss - e.loss) / max(e.loss, 1e-9) > 0.1 for e in train.epochs),
    }
    return [alarm for alarm, rings in found.items() if rings]


def autotrainer(result: Result) -> list[Alarm]:
    """AutoTrainer (Zhang et al. 2021), its thresholds: vanishing (gradient of the first layer below 1e-3 of the last's, and below 1e-4),
    exploding (above 70 times), dying ReLU (zero gradients in .7), oscillating loss (swings of .03 accuracy in a fifth of the epochs), slow
    convergence (best gain of accuracy below .01, and accuracy below .6), loss above 1,000.
    """
    train = result.evidence.train
    if train is None:
        return []
    ratios = [(g.means[0] / max(g.means[-1], 1e-12), g.means[0]) for g in train.gradients if len(g.means) > 1]
    accuracies = [epoch.accuracy for epoch in train.epochs]
    gains = [b - a for a, b in itertools.pairwise(accuracies)]
    turns = sum(abs(b) >= 0.03 and a * b < 0 for a, b in itertools.pairwise(gains))
    slow = bool(gains) and max(gains) < 0.01 and max(accuracies) < 0.6
    found = {
        ("exploding gradient", NUMBERS | HIGH): train.non_finite is not None
        or any(not ratio <= 70 for ratio, _ in ratios)
        or any(not epoch.loss <= 1e3 for epoch in train.epochs),
        ("vanishing gradient", GRADIENTS): any(ratio < 1e-3 and first < 1e-4 for ratio, first in ratios),
        ("dying ReLU", GRADIENTS): any(gradients.zero_share >= 0.7 for gradients in train.gradients),
        ("oscillating loss", HIGH): bool(gains) and turns >= 0.2 * len(accuracies),
        ("slow convergence", LOW): slow,
    }
    return [alarm for alarm, rings in found.items() if rings]


BASELINES: dict[str, Baseline] = {
    "a constant answer": constant,
    "UMLAUT": umlaut,
    "SageMaker Debugger": sagemaker_debugger,
    "AutoTrainer": autotrainer,
}
