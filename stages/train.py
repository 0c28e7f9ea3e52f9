"""data/prepared, data/augmented, data/backbone → data/model, reports/train: MobileNetV2, first its head, then fine-tuned."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from stages.flight.record import journal
from stages.flight.record.keras_callback import JournalCallback
from stages.shared import devices, evidence, files, model, paths, prepared
from stages.shared.evidence import FINE_TUNE, HEAD, PHASES
from stages.shared.params import AugmentParams, TrainParams, load
from stages.shared.sampling import SamplingPlan
from stages.shared.training.batches import PlainBatches, TrainBatches
from stages.shared.training.checkpoints import Checkpoints
from stages.shared.training.collector import EvidenceCollector, EvidenceLog, StopWhenHopeless
from stages.shared.training.optimizers import optimizer
from stages.shared.training.preflight import Preflight, check_accumulation, check_memory, check_rates, check_shares
from stages.shared.training.probe import BRIEF, Prober
from stages.shared.training.recalibration import Recalibration
from stages.shared.training.resume import Checkpointer, EarlyStopping, Position, ReduceLearningRateOnPlateau, Stateful


@dataclass(frozen=True)
class Fit:
    """A trained classifier and the evidence of its training."""

    classifier: Any
    evidence: evidence.TrainEvidence
    best_epoch: int


@dataclass(frozen=True)
class Training:
    """What one training works with; ``checkpoints`` are its own, ``run`` names the run that writes them."""

    batches: TrainBatches
    validation: PlainBatches
    params: TrainParams
    backbone: Path
    checkpoints: Checkpoints
    run: str


def train(training: Training, log: EvidenceLog, recording: JournalCallback, told: Callable[[Position, str], None]) -> Fit:
    """Train the head (or the whole network when there are no backbone weights), then fine-tune; from where it was cut off, if it was.

    ``told`` hears from which position of which run it goes on.

    Raises:
        TooLargeError: if a step does not fit into memory.
        UntrainableError: if the first steps show that nothing can come of it.
        NonFiniteLossError: as soon as the loss is NaN or infinite.
        HopelessError: at the end of an epoch after which nothing can come of it, if it is to stop then.
    """
    params, batches = training.params, training.batches
    with devices.distribution():
        classifier, pretrained = _build(batches.images, params, training.backbone)
    log.keep(_setup(training, pretrained=pretrained))
    check_rates(params)
    check_accumulation(params, batches.num_steps)
    check_shares(params.batch_size, (batches.num_draws, training.validation.num_draws))
    _check_memory(classifier, training, log, pretrained=pretrained)
    prober = Prober(classifier, batches, training.validation, log.keep)
    collector, best = EvidenceCollector(log.keep, batches, prober, params.gradient_accumulation_steps), BestWeights()
    observers: dict[str, Stateful] = {"evidence": log, "collector": collector, "best": best, "recording": recording}
    checkpointer = Checkpointer(training.checkpoints, batches, observers, training.run)
    if cut_off := checkpointer.position:
        told(cut_off, checkpointer.origin)
    else:
        prober.look_at_inputs()
        prober.ask("start", 0, BRIEF)
    num_epochs = cut_off.first_epoch if cut_off else 0
    hopeless = [StopWhenHopeless(log, prober)] if params.stop_when_hopeless else []
    phases = [phase for phase in PHASES if _plan(params, phase)[0]]
    for phase in phases:
        if phase == FINE_TUNE and pretrained:
            model.unfreeze(classifier, params.fine_tune_fraction, batchnorm_training=params.batchnorm_training)
        if cut_off is None or PHASES.index(phase) >= PHASES.index(cut_off.phase):
            collector.enter(phase)
            is_new = cut_off is None or cut_off.phase != phase
            preflight = [Preflight(batches, params, phase, log.keep)] if is_new else []
            num_epochs = _fit(
                classifier, training, phase, num_epochs, [*preflight, collector, *hopeless, best, recording], checkpointer, log
            )
            if phase != phases[-1]:
                prober.ask("phase end", num_epochs - 1, BRIEF)
    prober.ask("end", num_epochs - 1)
    return _chosen(classifier, params, best, num_epochs, prober, log)


def _chosen(classifier: Any, params: TrainParams, best: BestWeights, num_epochs: int, prober: Prober, log: EvidenceLog) -> Fit:
    """The trained classifier with the weights to keep: the best epoch's or the last's."""
    if params.restore_best_weights and 0 <= best.epoch < num_epochs - 1:
        best.put_back(classifier)
        prober.ask("kept", best.epoch, BRIEF)
    found = log.evidence()
    assert found is not None  # noqa: S101  (setup was kept above)
    is_best = params.restore_best_weights and best.epoch >= 0  # which no epoch is if no validation loss was finite
    return Fit(classifier, found, best.epoch if is_best else len(found.epochs) - 1)


def _plan(params: TrainParams, phase: str) -> tuple[int, float]:
    """How many epochs a phase has at most, and its rate."""
    return {HEAD: (params.epochs, params.learning_rate), FINE_TUNE: (params.fine_tune_epochs, params.fine_tune_learning_rate)}[phase]


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


def _check_memory(classifier: Any, training: Training, log: EvidenceLog, *, pretrained: bool) -> None:
    """Of the phase that needs most: fine-tuning, if it follows a frozen backbone."""
    params = training.params
    if pretrained and params.fine_tune_epochs:
        model.unfreeze(classifier, params.fine_tune_fraction, batchnorm_training=params.batchnorm_training)
    check_memory(classifier, training.batches, log.keep)
    if pretrained:
        classifier.get_layer(model.BACKBONE_LAYER).trainable = False


def _setup(training: Training, *, pretrained: bool) -> evidence.Setup:
    return evidence.Setup(
        num_classes=len(training.batches.images.classes),
        num_train=training.batches.num_draws,
        num_val=training.validation.num_draws,
        batch_size=training.params.batch_size,
        steps_per_epoch=training.batches.num_steps,
        num_head_epochs=training.params.epochs,
        num_fine_tune_epochs=training.params.fine_tune_epochs,
        pretrained=pretrained,
        optimizer=training.params.optimizer,
        precision=keras.config.dtype_policy().compute_dtype,
        is_augmented=training.batches.policy.changes_images,
    )


def _fit(
    classifier: Any,
    training: Training,
    phase: str,
    first_epoch: int,
    observers: Sequence[Any],
    checkpointer: Checkpointer,
    log: EvidenceLog,
) -> int:
    """One phase: compiled anew, since a change of ``trainable`` counts from the next compilation on. Returns how many epochs there were."""
    params, batches = training.params, training.batches
    num_epochs, rate = _plan(params, phase)
    with devices.distribution():
        classifier.compile(
            optimizer=optimizer(params, rate, num_epochs * batches.num_steps, batches.num_steps),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=params.label_smoothing),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        )
        stopping = _stopping(params)
        position = checkpointer.enter(classifier, phase, first_epoch, stopping)
    callbacks = [*observers, *stopping.values(), checkpointer]
    if params.batchnorm_recalibration_images:
        callbacks.insert(0, Recalibration(batches, params.batchnorm_recalibration_images))
    validation = training.validation.for_fit()
    epoch, step, is_done = position.epoch, position.step, position.done
    while epoch < num_epochs and not is_done:
        batches.start(first_epoch + epoch, step)
        until = epoch + 1 if step else num_epochs  # what is left of an epoch that was cut off is a fit of its own
        clock = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.start(first_epoch + epoch, batches.first_step))
        history = classifier.fit(
            batches.for_fit(),
            validation_data=validation,
            initial_epoch=epoch,
            epochs=until,
            callbacks=[clock, *callbacks],
            shuffle=False,
            verbose=1 if sys.stdout.isatty() else 2,
        )
        epoch, step, is_done = history.epoch[-1] + 1, 0, classifier.stop_training
    if epoch < num_epochs:
        log.keep(evidence.Stop(phase=phase, epoch=epoch - 1, reason="early-stopping"))
    return first_epoch + epoch


def _stopping(params: TrainParams) -> dict[str, Any]:
    """Keras's callbacks that follow the validation loss of one phase."""
    made: dict[str, Any] = {}
    if params.schedule == "plateau":
        made["plateau"] = ReduceLearningRateOnPlateau(factor=params.plateau_factor, patience=params.plateau_patience)
    if params.early_stopping_patience is not None:
        made["early_stopping"] = EarlyStopping(patience=params.early_stopping_patience)
    return made


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

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "num_epochs": self._num_epochs, "loss": self._loss, "weights": self._weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.epoch, self._num_epochs, self._loss = state["epoch"], state["num_epochs"], state["loss"]
        self._weights = state["weights"]

    def put_back(self, classifier: Any) -> None:
        """Give the classifier the best weights; if no validation loss was finite, the last remain."""
        if self._weights:
            classifier.set_weights(self._weights)


def write(fit: Fit, folder: Path, report: Path) -> dict[str, float]:
    """Model, curves, evidence and the chosen epoch's figures (returned)."""
    for path in (folder, report):
        shutil.rmtree(path, ignore_errors=True)
    model.save(fit.classifier, folder)
    epochs = [epoch.model_dump(mode="json") for epoch in fit.evidence.epochs]
    header = ["phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    files.write_csv(report / "history.csv", header, ([row[name] for name in header] for row in epochs))
    files.write_json(report / "evidence.json", fit.evidence.model_dump(mode="json"))
    chosen = fit.evidence.epochs[fit.best_epoch]
    metrics = {"loss": chosen.loss, "accuracy": chosen.accuracy, "val_loss": chosen.val_loss, "val_accuracy": chosen.val_accuracy}
    files.write_json(report / "metrics.json", {**metrics, "best_epoch": fit.best_epoch, "num_epochs": len(epochs)})
    return metrics


def _inputs(training_params: TrainParams, settings: dict[str, Any], split_digests: dict[str, str]) -> dict[str, Any]:
    """All that decides the bits of a training: data, plan, parameters, code, packages and devices."""
    modules = sorted(name for name in sys.modules if name.startswith("stages.shared") or name == JournalCallback.__module__)
    code = [Path(__file__), *(Path(str(sys.modules[name].__file__)) for name in modules)]
    return {
        "params": training_params.model_dump(),
        "settings": settings,
        "data": split_digests,
        "plan": {name: files.read_json(paths.AUGMENTED / name) for name in ("policy.json", "sampling.json")},
        "code": [hashlib.sha256(path.read_bytes()).hexdigest() for path in code],
        "backbone": [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths.BACKBONE.iterdir())],
        "packages": {name: importlib.metadata.version(name) for name in ("keras", "numpy", "opencv-python-headless", "scipy")},
    }


def main(log: journal.Journal) -> None:
    params = load(paths.PARAMS).train
    settings = devices.set_up(params)
    log.write("setting", stage="train", values=settings)
    if hint := devices.hint(settings):
        log.say(hint)
    policy = AugmentParams.model_validate(files.read_json(paths.AUGMENTED / "policy.json"))
    plan = SamplingPlan(**{name: tuple(values) for name, values in files.read_json(paths.AUGMENTED / "sampling.json").items()})
    train_set, val_set = (prepared.read(paths.PREPARED, split) for split in ("train", "val"))
    batches = TrainBatches(train_set, plan, policy, params.batch_size, params.seed)
    checkpoints = Checkpoints(
        log.shared_folder / "checkpoints", _inputs(params, settings, {"train": train_set.digest, "val": val_set.digest})
    )
    if log.begins_anew:
        checkpoints.remove()

    def told(position: Position, run: str) -> None:
        log.write("resumed", stage="train", run=run, phase=position.phase, epoch=position.epoch, step=position.step)
        log.say(f"going on from epoch {position.epoch}, step {position.step} of the phase '{position.phase}', where run {run} was cut off")

    evidence_log = EvidenceLog(lambda name, values: log.write("evidence", part=name, values=values))
    training = Training(batches, PlainBatches(val_set, params.batch_size), params, paths.BACKBONE, checkpoints, log.run)
    fit = train(training, evidence_log, JournalCallback(log, batches), told)
    metrics = write(fit, paths.MODEL, paths.TRAIN_REPORT)
    log.metrics("train", {f"best_{name}": value for name, value in metrics.items()})
    checkpoints.remove()


if __name__ == "__main__":
    journal.run_stage("train", main)
