"""data/prepared, data/augmented, data/backbone → data/model, reports/train: MobileNetV2, first its head, then fine-tuned."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from pydantic import BaseModel

from stages.flight.record import journal
from stages.flight.record.keras_callback import JournalCallback
from stages.shared import devices, evidence, files, model, paths, prepared
from stages.shared.augmentation import SamplingPlan
from stages.shared.batches import PlainBatches, TrainBatches
from stages.shared.collector import EvidenceCollector, EvidenceSink, probe
from stages.shared.params import AugmentParams, TrainParams, load

HEAD, FINE_TUNE = "head", "fine-tune"


@dataclass(frozen=True)
class Fit:
    """A trained classifier and the evidence of its training."""

    classifier: Any
    evidence: evidence.TrainEvidence
    best_epoch: int


def train(
    batches: TrainBatches,
    val_set: prepared.Prepared,
    params: TrainParams,
    backbone: Path,
    sink: EvidenceSink,
    callbacks: Sequence[Any] = (),
) -> Fit:
    """Train the head (or the whole network when ``backbone`` holds no weights), then fine-tune.

    Raises:
        NonFiniteLossError: as soon as the loss is NaN or infinite.
    """
    parts: list[tuple[str, dict[str, Any]]] = []

    def keep(name: str, part: BaseModel) -> None:
        parts.append((name, part.model_dump(mode="json")))
        sink(name, part)

    classifier, pretrained = _build(batches.images, params, backbone)
    training = model.wrap_for_training(classifier, batches.policy.fill_mode)
    keep("setup", _setup(training, batches, val_set, params, pretrained=pretrained))
    collector, best = EvidenceCollector(keep), BestWeights()
    observers = [collector, best, *callbacks]
    validation = PlainBatches(val_set, params.batch_size)
    num_epochs = _fit(training, batches, validation, params, HEAD, 0, observers)
    if params.fine_tune_epochs:
        if pretrained:
            model.unfreeze(classifier, params.fine_tune_fraction, batchnorm_training=params.batchnorm_training)
        _fit(training, batches, validation, params, FINE_TUNE, num_epochs, observers)
    if params.restore_best_weights:
        best.restore(training)
    probe(training, batches, val_set, keep)
    found = evidence.from_parts(parts)
    assert found is not None  # noqa: S101  (setup was kept above)
    return Fit(classifier, found, best.epoch if params.restore_best_weights else len(found.epochs) - 1)


def _build(images: prepared.Prepared, params: TrainParams, backbone: Path) -> tuple[Any, bool]:
    """The classifier, its backbone frozen if it is pretrained; and whether it is."""
    classifier = model.build_classifier(
        len(images.classes),
        images.size_px,
        alpha=params.alpha,
        dropout=params.dropout,
        batchnorm_momentum=params.batchnorm_momentum,
        seed=params.seed,
    )
    pretrained = model.load_backbone(classifier, backbone)
    classifier.get_layer(model.BACKBONE_LAYER).trainable = not pretrained
    return classifier, pretrained


def _setup(training: Any, batches: TrainBatches, val_set: prepared.Prepared, params: TrainParams, *, pretrained: bool) -> evidence.Setup:
    return evidence.Setup(
        num_classes=len(batches.images.classes),
        num_train=batches.plan.num_draws,
        num_val=len(val_set.labels),
        batch_size=params.batch_size,
        steps_per_epoch=len(batches),
        pretrained=pretrained,
        num_trainable=int(sum(math.prod(variable.shape) for variable in training.trainable_variables)),
        optimizer=params.optimizer,
    )


def _fit(
    training: Any,
    batches: TrainBatches,
    validation: PlainBatches,
    params: TrainParams,
    phase: str,
    first_epoch: int,
    observers: Sequence[Any],
) -> int:
    """One phase: compiled anew, since a change of ``trainable`` counts from the next compilation on. Returns how many epochs it took."""
    epochs, rate = {
        HEAD: (params.epochs, params.learning_rate),
        FINE_TUNE: (params.fine_tune_epochs, params.fine_tune_learning_rate),
    }[phase]
    training.compile(
        optimizer=_optimizer(params, rate, epochs * len(batches)),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=params.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    clock = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.start_epoch(first_epoch + epoch))
    callbacks = [clock, *observers]
    for observer in observers:
        if isinstance(observer, EvidenceCollector):
            observer.phase = phase
    if params.schedule == "plateau":
        callbacks.append(keras.callbacks.ReduceLROnPlateau(factor=params.plateau_factor, patience=params.plateau_patience))
    if params.early_stopping_patience is not None:
        callbacks.append(keras.callbacks.EarlyStopping(patience=params.early_stopping_patience))
    verbose = 1 if sys.stdout.isatty() else 2
    history = training.fit(batches, validation_data=validation, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=verbose)
    return len(history.epoch)


def _optimizer(params: TrainParams, rate: float, num_steps: int) -> Any:
    optimizers: dict[str, tuple[Any, dict[str, Any]]] = {
        "adam": (keras.optimizers.Adam, {}),
        "adamw": (keras.optimizers.AdamW, {}),
        "sgd": (keras.optimizers.SGD, {"momentum": params.momentum}),
        "rmsprop": (keras.optimizers.RMSprop, {"momentum": params.momentum}),
        "adagrad": (keras.optimizers.Adagrad, {}),
        "adadelta": (keras.optimizers.Adadelta, {}),
    }
    make, options = optimizers[params.optimizer]
    schedule = keras.optimizers.schedules.CosineDecay(rate, num_steps) if params.schedule == "cosine" else rate
    optimizer = make(learning_rate=schedule, global_clipnorm=params.clip_norm, weight_decay=params.weight_decay or None, **options)
    if params.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


class BestWeights(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the lowest validation loss, over both phases."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = -1
        self._num_epochs = 0
        self._loss = float("inf")
        self._weights: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        loss = float((logs or {})["val_loss"])
        if loss < self._loss:
            self._loss, self.epoch, self._weights = loss, self._num_epochs, self.model.get_weights()
        self._num_epochs += 1

    def restore(self, training: Any) -> None:
        """Put the best weights back; if no validation loss was finite, the last remain."""
        if self._weights:
            training.set_weights(self._weights)


def write(fit: Fit, folder: Path, report: Path) -> dict[str, float]:
    """Model, curves, evidence and the chosen epoch's figures (returned)."""
    for path in (folder, report):
        shutil.rmtree(path, ignore_errors=True)
    model.save(fit.classifier, folder)
    epochs = [epoch.model_dump(mode="json") for epoch in fit.evidence.epochs]
    header = ["phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    files.write_csv(report / "history.csv", header, ([row[name] for name in header] for row in epochs))
    files.write_json(report / "evidence.json", fit.evidence.model_dump(mode="json"))
    metrics = {name: epochs[fit.best_epoch][name] for name in ("loss", "accuracy", "val_loss", "val_accuracy")}
    files.write_json(report / "metrics.json", {**metrics, "best_epoch": fit.best_epoch, "num_epochs": len(epochs)})
    return metrics


def main(log: journal.Journal) -> None:
    params = load(paths.PARAMS)
    log.write("setting", stage="train", values=devices.set_up(params.train))
    policy = AugmentParams.model_validate(files.read_json(paths.AUGMENTED / "policy.json"))
    plan = SamplingPlan(**{name: tuple(values) for name, values in files.read_json(paths.AUGMENTED / "sampling.json").items()})
    batches = TrainBatches(prepared.read(paths.PREPARED, "train"), plan, policy, params.train.batch_size, params.train.seed)
    val_set = prepared.read(paths.PREPARED, "val")

    def sink(name: str, part: BaseModel) -> None:
        log.write("evidence", part=name, values=part.model_dump(mode="json"))

    fit = train(batches, val_set, params.train, paths.BACKBONE, sink, callbacks=[JournalCallback(log, batches)])
    metrics = write(fit, paths.MODEL, paths.TRAIN_REPORT)
    log.metrics("train", {f"best_{name}": value for name, value in metrics.items()})


if __name__ == "__main__":
    journal.run_stage("train", main)
