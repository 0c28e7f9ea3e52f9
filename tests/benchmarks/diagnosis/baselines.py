"""What others would say of the same runs: their published rules and thresholds, on the same evidence.

Each baseline lists its alarms, in the order below, as (its name for the symptom, the faults for which that is the right answer). The second
is generous: whatever the symptom's own documentation, or its suggested fixes, would lead a person to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from stages.shared.evidence import PHASES, Inputs, TrainEvidence
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
    validation accuracy above .95 or above training's by .05 (from epoch 3), one epoch of rising validation and falling training loss, a
    last layer without softmax under a loss that takes its outputs for probabilities.
    """
    train = result.evidence.train
    if train is None:
        return []
    inputs, params = train.inputs, result.params["train"]
    rates = [params["learning_rate"], *([params["fine_tune_learning_rate"]] if params["fine_tune_epochs"] else [])]
    late = train.epochs[3:]
    found = {
        ("NaN in the loss", NUMBERS): train.non_finite is not None,
        ("missing softmax", frozenset({"loss-mismatch"})): any(found.output_low < 0 for found in train.objectives),
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
    1e-7), unchanged tensors, update ratio (above 10 or below 1e-8), loss not decreasing (by less than .1 % in 10 steps), dead ReLU (half of
    a layer active below 1 %), class imbalance (ratio above 10, or .7 of a class mistaken), input images (mean beyond .2), overfit
    ((validation - training) / training above .1).
    """
    train, data, test = result.evidence.train, result.evidence.data, result.evidence.evaluate
    if train is None:
        return []
    counts = [count for count in data.train_counts.values() if count] if data else []
    is_uneven = bool(counts) and max(counts) / min(counts) > 10
    mistaken = [1 - found.recall for found in test.classes] if test else []
    means = [abs(mean) for mean in (train.inputs.train_mean if train.inputs else ())]
    found = {
        ("exploding tensor", NUMBERS): train.non_finite is not None or any(not math.isfinite(g.norm) for g in train.gradients),
        ("vanishing gradient", GRADIENTS): any(mean < 1e-7 for gradients in train.gradients for mean in gradients.means),
        ("unchanged tensor", GRADIENTS): bool(train.steps) and all(step.unchanged_share == 1 for step in train.steps),
        ("update ratio", RATE): any(not 1e-8 <= step.update_ratio <= 10 for step in train.steps),
        ("loss not decreasing", RATE | LOW): any(b > 0.999 * a for a, b in _ten_steps_apart(train)),
        ("dead ReLU", HIGH | LOW): any(share > 0.5 for activations in train.activations for share in activations.dead_units),
        ("class imbalance", frozenset({"class-imbalance"})): is_uneven or any(share > 0.7 for share in mistaken),
        ("input images", INPUT): any(mean > 0.2 for mean in means),
        ("overfit", OVERFIT): any((e.val_loss - e.loss) / max(e.loss, 1e-9) > 0.1 for e in train.epochs),
    }
    return [alarm for alarm, rings in found.items() if rings]


def _ten_steps_apart(train: TrainEvidence) -> list[tuple[float, float]]:
    """Losses of sampled steps of a phase, each with the last one that is ten steps older or more."""
    pairs = []
    for phase in PHASES:
        steps = [(step.epoch * train.setup.steps_per_epoch + step.step, step.loss) for step in train.steps if step.phase == phase]
        older = [[loss for before, loss in steps if before <= number - 10] for number, _ in steps]
        pairs += [(losses[-1], loss) for losses, (_, loss) in zip(older, steps, strict=True) if losses]
    return [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]


def autotrainer(result: Result) -> list[Alarm]:
    """AutoTrainer (Zhang et al. 2021), utils/monitor.py with its default thresholds: NaN or a validation loss above 1e5; in trainings whose
    accuracy stays below .7, or never gains .01 in an epoch, the first of dying ReLU (zero gradients in .7), exploding (gradient of the
    first layer 70 times the last's), vanishing (below 1e-3 of it, and below 1e-4) and slow convergence; in others an oscillating loss
    (maxima of accuracy .03 above minima, as many as a fifth of the epochs). Mean gradients stand for its norms.
    """
    train = result.evidence.train
    if train is None:
        return []
    curves = [[epoch.accuracy for epoch in train.epochs], [epoch.val_accuracy for epoch in train.epochs]]
    if train.non_finite is not None or any(not epoch.val_loss < 1e5 for epoch in train.epochs):
        return [("exploding gradient", NUMBERS | HIGH)]
    if not train.epochs:
        return []
    is_slow = all(max((b - a for a, b in itertools.pairwise(curve)), default=0.0) < 0.01 for curve in curves)
    if not (is_slow or min(map(max, curves)) < 0.7):
        return [("oscillating loss", HIGH)] if _oscillations(curves[0]) >= 0.2 * len(train.epochs) else []
    ratios = [(g.means[0] / max(g.means[-1], 1e-12), g.means[0]) for g in train.gradients if len(g.means) > 1]
    found = {
        ("dying ReLU", GRADIENTS): any(gradients.zero_share >= 0.7 for gradients in train.gradients),
        ("exploding gradient", NUMBERS | HIGH): any(ratio > 70 for ratio, _ in ratios),
        ("vanishing gradient", GRADIENTS): any(ratio < 1e-3 and first < 1e-4 for ratio, first in ratios),
        ("slow convergence", LOW): is_slow,
    }
    return [alarm for alarm, rings in found.items() if rings][:1]


def _oscillations(curve: list[float]) -> int:
    """How many of its local maxima lie .03 above the local minima of the same number."""
    inner = list(zip(curve, curve[1:], curve[2:], strict=False))
    maxima, minima = [b for a, b, c in inner if b >= max(a, c)], [b for a, b, c in inner if b <= min(a, c)]
    return sum(high - low >= 0.03 for high, low in zip(maxima, minima, strict=False))


BASELINES: dict[str, Baseline] = {
    "a constant answer": constant,
    "UMLAUT": umlaut,
    "SageMaker Debugger": sagemaker_debugger,
    "AutoTrainer": autotrainer,
}
