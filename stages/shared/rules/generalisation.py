"""Rules about trainings that learn, but not what they should."""

from __future__ import annotations

import math

from stages.shared.evidence import Evidence
from stages.shared.params import Params
from stages.shared.rules.outcome import Finding, Missing, change, rounded

MIN_GAP = 0.10
MIN_LOSS_RISE = 1.1
LATEST_MINIMUM = 0.6
MIN_CLASS_RATIO = 3
MIN_RECALL_GAP = 0.05
LOW_RECALL = 0.3
WEAK_DISPLACEMENT = 0.02


def class_imbalance(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """A rare class is hardly ever recognised, while the frequent ones carry the accuracy."""
    if evidence.data is None or evidence.evaluate is None or not any(evidence.data.train_counts.values()):
        return Missing("the class counts and the test")
    counts = {label: count for label, count in evidence.data.train_counts.items() if count}
    results = {result.label: result for result in evidence.evaluate.classes}
    largest, smallest = max(counts, key=lambda label: counts[label]), min(counts, key=lambda label: counts[label])
    ratio = counts[largest] / counts[smallest]
    gap = evidence.evaluate.accuracy - evidence.evaluate.macro_recall
    rare = results.get(smallest)
    if rare is None:
        return Missing("the test result of the rarest class")
    if ratio < MIN_CLASS_RATIO or gap < MIN_RECALL_GAP or rare.recall >= LOW_RECALL or rare.predicted >= rare.num_images:
        return None
    return Finding(
        fault="class-imbalance",
        score=0.85,
        severity="warning",
        evidence={
            "class_ratio": rounded(ratio),
            "recall_of_rarest": rare.recall,
            "accuracy": evidence.evaluate.accuracy,
            "rarest": smallest,
        },
        explanation=f"'{smallest}' has {counts[smallest]} training images, '{largest}' {counts[largest]}; only {rare.recall:.0%} of "
        f"'{smallest}' is recognised at an accuracy of {evidence.evaluate.accuracy:.0%}.",
        fix=(
            change(
                params,
                "augment.balancing",
                "oversample" if evidence.augment and evidence.augment.balancing == "class_weight" else "class_weight",
            ),
        ),
    )


def overfitting(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The training images are learned by heart: validation loss rises long before the end while training loss still falls."""
    train = evidence.train
    if train is None or len(train.epochs) < 4:
        return Missing("four epochs of training")
    probes = {probe.name: probe for probe in train.probes}
    if not {"A", "V"} <= probes.keys():
        return Missing("the probe at the end of training")
    losses = [epoch.val_loss for epoch in train.epochs]
    best = losses.index(min(losses))
    rise = losses[-1] / max(losses[best], 1e-9)
    gap = probes["A"].accuracy - probes["V"].accuracy
    still_falling = train.epochs[-1].loss < train.epochs[best].loss
    if gap < MIN_GAP or math.isnan(rise) or rise < MIN_LOSS_RISE or best + 1 > LATEST_MINIMUM * len(losses) or not still_falling:
        return None
    weak = evidence.augment is not None and evidence.augment.mean_displacement < WEAK_DISPLACEMENT
    stronger = (change(params, "augment.rotation_degrees", 15), change(params, "augment.zoom", 0.15)) if weak else ()
    return Finding(
        fault="overfitting",
        score=0.8,
        severity="warning",
        evidence={
            "gap": rounded(gap),
            "val_loss_rise": rounded(rise),
            "best_epoch": best,
            "accuracy_on_training": probes["A"].accuracy,
        },
        explanation=f"validation loss was lowest at epoch {best} of {len(losses)} and has risen {rise:.2f}-fold since, while training loss "
        f"still falls; accuracy on training images is {gap:.2f} above that on validation images.",
        fix=(*stronger, change(params, "train.dropout", 0.4), change(params, "train.early_stopping_patience", 3)),
    )
