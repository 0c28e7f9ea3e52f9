"""The diagnosis as files: verdict.json and its page, with the chart that shows the moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stages.shared import files, page
from stages.shared.evidence import FINE_TUNE, HEAD, Evidence, TrainEvidence
from stages.shared.rules import Verdict
from stages.shared.rules.pace import collapse
from stages.shared.rules.signals import best_epoch, epochs_of

Values = list[float | None]

# What each question of the probe looks at, and how.
PROBES = {
    "A": "training images as they are",
    "A_batch": "the same, BatchNorm by the statistics of the batch",
    "A_dropout": "the same, with dropout",
    "A_augmented": "the same, augmented",
    "B": "the same, read as validation reads them",
    "V": "validation images",
    "V_batch": "the same, BatchNorm by the statistics of the batch",
}


@dataclass(frozen=True)
class Chart:
    """Curves over epochs or sampled steps: (name, colour, values) each; ``marked`` is the moment that decides, with what it is."""

    label: str
    series: tuple[tuple[str, str, Values], ...]
    axis: str = "epoch"
    marked: int | None = None
    note: str = ""
    logarithmic: bool = False


def write(verdict: Verdict, evidence: Evidence, folder: Path) -> None:
    """The page, then verdict.json, so that who finds the verdict finds its page."""
    content = {
        "verdict": verdict,
        "evidence": evidence,
        "chart": decisive_chart(verdict, evidence),
        "charts": _curves(evidence.train) if evidence.train else (),
        "probes": _last_probes(evidence.train),
        "questions": PROBES,
    }
    files.write_text(folder / "index.html", page.render("diagnose.html", **content))
    files.write_json(folder / "verdict.json", verdict.model_dump(mode="json"))


def decisive_chart(verdict: Verdict, evidence: Evidence) -> Chart | None:
    """The curves in which the first finding shows, with its moment marked; None where curves do not show it."""
    train = evidence.train
    draw = CHARTS.get(verdict.verdict)
    return draw(train) if train is not None and draw is not None and (train.epochs or train.steps) else None


def _losses(train: TrainEvidence, marked: int | None = None, note: str = "") -> Chart:
    series = (
        ("training", "blue", _finite(epoch.loss for epoch in train.epochs)),
        ("validation", "orange", _finite(epoch.val_loss for epoch in train.epochs)),
    )
    return Chart("loss", series, marked=marked, note=note)


def _accuracies(train: TrainEvidence, marked: int | None = None, note: str = "") -> Chart:
    series = (
        ("training", "blue", _finite(epoch.accuracy for epoch in train.epochs)),
        ("validation", "orange", _finite(epoch.val_accuracy for epoch in train.epochs)),
    )
    return Chart("accuracy", series, marked=marked, note=note)


def _curves(train: TrainEvidence) -> tuple[Chart, ...]:
    return (_losses(train), _accuracies(train)) if train.epochs else ()


def _losses_from_best(train: TrainEvidence) -> Chart:
    """Where validation loss was lowest."""
    return (
        _losses(train, best_epoch([epoch.val_loss for epoch in train.epochs]), "lowest validation loss") if train.epochs else _ratios(train)
    )


def _losses_to_end(train: TrainEvidence) -> Chart:
    return _losses(train, max(0, len(train.epochs) - 1), "training ended")


def _accuracies_at_unfreeze(train: TrainEvidence) -> Chart:
    first = len(train.epochs) - len(epochs_of(train, FINE_TUNE))
    return _accuracies(train, min(first, len(train.epochs) - 1), "first epoch of fine-tuning")


def _accuracies_plain(train: TrainEvidence) -> Chart:
    return _accuracies(train)


def _ratios(train: TrainEvidence) -> Chart:
    """|change| / |weights| of the sampled steps, with the usual thousandth; the largest is marked."""
    ratios = [step.update_ratio for step in train.steps]
    values = _logarithms(ratios)
    known = [(value, i) for i, value in enumerate(values) if value is not None]
    usual: Values = [-3.0] * len(values)
    series = (("change of the weights in a step", "blue", values), ("usual", "soft", usual))
    where = max(known)[1] if known else None
    label = "size of a step: change of the weights over the weights, of sampled steps"
    return Chart(label, series, axis="sample", marked=where, note="largest step", logarithmic=True)


def _rates(train: TrainEvidence) -> Chart:
    """Where the rate has fallen; the losses where it was 0 before the first epoch ended."""
    rates = [epoch.learning_rate for epoch in train.epochs]
    phase, epoch = collapse(train) or (HEAD, 0)
    before = len(train.epochs) - len(epochs_of(train, FINE_TUNE)) if phase == FINE_TUNE else 0
    if not any(rates):
        return _losses(train, before + epoch, "no weight changes any more")
    return Chart("learning rate", (("learning rate", "blue", _finite(rates)),), marked=before + epoch, note="next to nothing")


CHARTS: dict[str, Callable[[TrainEvidence], Chart]] = {
    **dict.fromkeys(("overfitting", "insufficient-augmentation", "frozen-augmentation", "final-not-best"), _losses_from_best),
    **dict.fromkeys(("under-trained", "interrupted", "data-exhausted", "capacity-limited", "loss-mismatch"), _losses_to_end),
    **dict.fromkeys(
        ("learning-rate-too-high", "learning-rate-too-low", "unsuitable-optimizer", "nothing-trains", "non-finite-values"), _ratios
    ),
    "learning-rate-collapsed": _rates,
    "destructive-fine-tuning": _accuracies_at_unfreeze,
    **dict.fromkeys(
        (
            "preprocessing-mismatch",
            "wrong-input-range",
            "batchnorm-mismatch",
            "label-order-mismatch",
            "label-noise",
            "excessive-augmentation",
            "over-regularised",
            "unshuffled-data",
            "leakage",
            "bad-split",
        ),
        _accuracies_plain,
    ),
}


def _finite(values: Iterable[float]) -> Values:
    return [value if math.isfinite(value) else None for value in values]


def _logarithms(values: Iterable[float]) -> Values:
    return [math.log10(value) if math.isfinite(value) and value > 0 else None for value in values]


def _last_probes(train: TrainEvidence | None) -> list[tuple[str, float, float, int]]:
    """Of the last moment at which each question was put: name, accuracy, loss, number of images."""
    if train is None:
        return []
    last = {probe.name: probe for probe in train.probes if probe.moment != "kept"}
    return [(name, last[name].accuracy, last[name].loss, last[name].num_images) for name in PROBES if name in last]
