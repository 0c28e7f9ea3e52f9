"""The probe and the other looks beside training: what they find, and that training does not notice them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from stages.shared import model, params
from stages.shared.errors import HopelessError
from stages.shared.evidence import Inputs, Objective, Part, Probe
from stages.shared.prepared import Prepared
from stages.shared.sampling import SamplingPlan
from stages.shared.training import batches as batches_module
from stages.shared.training import signals, stream
from stages.shared.training.batches import PlainBatches, TrainBatches
from stages.shared.training.collector import EvidenceLog, StopWhenHopeless
from stages.shared.training.probe import Prober
from stages.shared.training.recalibration import Recalibration
from tests.imports import ROOT
from tests.test_hopeless import UNTRAINED, training

SHIPPED = params.load(ROOT / "params.yaml")
SIZE_PX, NUM_IMAGES = 32, 48


@pytest.fixture
def classifier() -> Any:
    keras.utils.set_random_seed(0)
    built = model.build_classifier(2, SIZE_PX, alpha=0.35, dropout=0.5, batchnorm_momentum=0.9, seed=0)
    built.compile(keras.optimizers.Adam(1e-3), keras.losses.CategoricalCrossentropy(label_smoothing=0.1))
    built.optimizer.build(built.trainable_variables)
    return built


def images(seed: int = 0) -> Prepared:
    """Noise about a dark grey for cats and a bright one for dogs."""
    generator = np.random.default_rng(seed)
    labels = np.array([0, 1] * (NUM_IMAGES // 2))
    shard = generator.integers(0, 100, (NUM_IMAGES, SIZE_PX, SIZE_PX, 3)) + 120 * labels[:, None, None, None]
    return Prepared(("cat", "dog"), labels, tuple(map(str, range(NUM_IMAGES))), SIZE_PX, (shard.astype(np.uint8),), "")


def train_batches(batch_size: int = 8, **policy: Any) -> TrainBatches:
    changed = SHIPPED.augment.model_copy(update=policy)
    return TrainBatches(images(), SamplingPlan((24, 24), (1.0, 1.0)), changed, batch_size, seed=3)


def asked(classifier: Any, data: TrainBatches | None = None, moment: str = "end") -> tuple[dict[str, Probe], list[Part]]:
    parts: list[Part] = []
    Prober(classifier, data or train_batches(), PlainBatches(images(1), 8), parts.append).ask(moment, 3)
    return {part.name: part for part in parts if isinstance(part, Probe)}, parts


def everything(classifier: Any) -> list[NDArray[Any]]:
    """All variables: weights, BatchNorm's statistics, random generators, the optimizer's."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in (*classifier.variables, *classifier.optimizer.variables)]


def calibrated(classifier: Any) -> Any:
    """With BatchNorm's averages of the images: as built, they make every feature nearly 0."""
    recalibration = Recalibration(train_batches(), NUM_IMAGES)
    recalibration.set_model(classifier)
    recalibration.on_test_begin()
    return classifier


def separate(classifier: Any, features: NDArray[Any], labels: NDArray[np.int64]) -> None:
    """Have the head tell cats from dogs, by least squares."""
    with_one = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    weights = 10 * np.linalg.lstsq(with_one, 2.0 * labels - 1, rcond=None)[0]
    both_ways = np.stack([-weights, weights], axis=1)
    classifier.get_layer(model.ANSWER_LAYER).set_weights([both_ways[:-1], both_ways[-1]])


def test_nothing_of_the_training_changes_and_answers_stay_the_same(classifier: Any) -> None:
    before = everything(calibrated(classifier))
    data = train_batches()
    found, parts = asked(classifier, data)
    assert found["A_dropout"].loss != found["A"].loss
    signals.gradients(classifier, data.make(0, 0), "head", 0)
    signals.activations(classifier, data.make(0, 0)[0], "head", 0)
    assert all(np.array_equal(old, new) for old, new in zip(before, everything(classifier), strict=True))
    assert asked(classifier, data)[1] == parts


def test_statistics_of_the_batch_tell_what_moving_averages_do_not(classifier: Any) -> None:
    data = train_batches(batch_size=NUM_IMAGES)
    with keras.StatelessScope():
        fresh = keras.ops.convert_to_numpy(model.BackboneInTraining(classifier)(data.images.gather(np.arange(NUM_IMAGES))))
    separate(classifier, fresh, data.images.labels)
    found, _ = asked(classifier, data)
    assert found["A"].accuracy < 0.7
    assert found["A_batch"].accuracy > 0.9
    assert abs(found["V_batch"].loss - found["V"].loss) > 0.5


def test_frozen_batchnorm_and_no_augmentation_are_not_asked_about(classifier: Any) -> None:
    classifier.get_layer(model.BACKBONE_LAYER).trainable = False
    off: dict[str, Any] = dict.fromkeys(("rotation_degrees", "width_shift", "height_shift", "zoom", "brightness", "contrast"), 0.0)
    found, _ = asked(classifier, train_batches(**off, horizontal_flip=False))
    assert set(found) == {"A", "A_dropout", "V"}


def test_renamed_classes_are_matched(classifier: Any) -> None:
    data = train_batches()
    images_ = data.images.gather(np.arange(NUM_IMAGES))
    pooled = keras.Model(classifier.input, classifier.get_layer(model.POOL_LAYER).output)
    separate(calibrated(classifier), keras.ops.convert_to_numpy(pooled(images_)), 1 - data.images.labels)
    found, _ = asked(classifier, data)
    assert found["A"].accuracy < 0.1
    assert found["A"].matched_accuracy > 0.9
    assert found["A"].largest_share == pytest.approx(0.5, abs=0.1)


def test_inputs_are_the_pictures_scaled(classifier: Any) -> None:
    parts: list[Part] = []
    Prober(classifier, train_batches(), PlainBatches(images(1), 8), parts.append).look_at_inputs()
    (found,) = parts
    assert isinstance(found, Inputs)
    assert found.train_mean == pytest.approx(found.expected_mean, abs=1e-4)
    assert found.train_deviation == pytest.approx(found.expected_deviation, abs=1e-4)
    assert found.difference == 0


def test_another_reading_of_validation_shows_in_the_inputs_and_in_b(classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module.PlainBatches, "read", lambda self, rows: 255 - self.images.gather(rows))
    parts: list[Part] = []
    prober = Prober(classifier, train_batches(), PlainBatches(images(1), 8), parts.append)
    assert prober.look_at_inputs().difference > 0.1
    prober.ask("end", 0)
    assert "B" in {part.name for part in parts if isinstance(part, Probe)}


def test_the_objective_is_cross_entropy_with_smoothing(classifier: Any) -> None:
    _, parts = asked(calibrated(classifier))
    (found,) = [part for part in parts if isinstance(part, Objective)]
    assert found.loss == pytest.approx(found.recomputed_loss, rel=1e-4)
    assert found.output_sum == pytest.approx(1)
    classifier.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    _, parts = asked(classifier)
    (found,) = [part for part in parts if isinstance(part, Objective)]
    assert abs(found.loss - found.recomputed_loss) > 0.05


def test_gradients_are_those_of_the_loss(classifier: Any) -> None:
    """Against the difference quotients of some of the head's weights."""
    batch = train_batches().make(0, 0)
    images_, targets, weights = batch
    found = signals.gradients(calibrated(classifier), batch, "head", 2)
    assert found.norm > 0
    assert found.zero_share < 0.5
    assert len(found.means) == len([weight for weight in classifier.trainable_variables if weight.ndim > 1])
    classifier.get_layer(model.BACKBONE_LAYER).trainable = False
    classifier.get_layer(model.DROPOUT_LAYER).rate = 0.0
    (mean,) = signals.gradients(classifier, batch, "head", 2).means
    pooled = keras.Model(classifier.input, classifier.get_layer(model.POOL_LAYER).output)
    features = keras.ops.convert_to_numpy(pooled(images_))
    head = classifier.get_layer(model.ANSWER_LAYER)
    kernel, bias = head.get_weights()

    def loss(moved: NDArray[Any]) -> float:
        head.set_weights([moved, bias])
        return float(classifier.loss(targets, head(features), weights))

    slopes = []
    for place in itertools.product(range(0, len(kernel), 16), (0, 1)):
        step = np.zeros_like(kernel)
        step[place] = 1e-1
        slopes.append(abs(loss(kernel + step) - loss(kernel - step)) / 2e-1)
    assert np.mean(slopes) == pytest.approx(mean, rel=0.2)


def test_activations_are_shares(classifier: Any) -> None:
    found = signals.activations(calibrated(classifier), train_batches().make(0, 0)[0], "head", 0)
    assert len(found.at_zero) == 35
    assert all(0 <= zero <= 1 and 0 <= six <= 1 for zero, six in zip(found.at_zero, found.at_six, strict=True))
    assert 0.2 < np.mean(found.at_zero) < 0.8


# The stream of batches


def test_shuffled_batches_hold_the_classes_mixed() -> None:
    found = stream.order(train_batches(), 0)
    assert found.distinct_labels == found.expected_distinct_labels == 2


def test_sorted_batches_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.argsort(images().labels, kind="stable")
    monkeypatch.setattr(batches_module, "epoch_rows", lambda *arguments: (rows, np.arange(NUM_IMAGES)))
    found = stream.order(train_batches(), 1)
    assert found.distinct_labels == 1
    assert found.expected_distinct_labels > 1.9


def test_an_image_looks_different_in_the_next_epoch() -> None:
    found = stream.variants(train_batches(), 0)
    assert found.num_compared >= 4
    assert found.num_different == found.num_compared


def test_variants_that_are_drawn_once_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn by image, and not anew by epoch."""
    data = train_batches(horizontal_flip=False)
    read, fixed = TrainBatches.read, np.random.default_rng(0).integers(0, 50, (NUM_IMAGES, 1, 1, 1), dtype=np.uint8)
    monkeypatch.setattr(TrainBatches, "read", lambda self, rows: read(self, rows) + fixed[rows])
    monkeypatch.setattr(batches_module, "change", lambda images, drawn, fill_mode: np.stack(images))
    found = stream.variants(data, 0)
    assert found.num_compared >= 4
    assert found.num_different == 0


def test_a_hopeless_training_is_asked_why_before_it_is_stopped(classifier: Any) -> None:
    log = EvidenceLog(lambda name, values: None)
    callback = StopWhenHopeless(log, Prober(classifier, train_batches(), PlainBatches(images(1), 8), log.keep))
    callback.on_epoch_end(0)
    found = training([UNTRAINED] * 4, ratio=0.3)
    for part in (found.setup, *found.steps, *found.epochs):
        log.keep(part)
    with pytest.raises(HopelessError, match=r"stuck.*dvc exp run -S train\.stop_when_hopeless=false"):
        callback.on_epoch_end(3)
    known = log.evidence()
    assert known is not None
    assert {(probe.moment, probe.epoch) for probe in known.probes} == {("end", 3)}
    assert len(known.objectives) == 1


def test_norms_do_not_depend_on_the_kernels_that_blas_chooses() -> None:
    """OpenBLAS sums in another order on another processor, and shows it in the last digits of a float32."""
    code = (
        "import numpy as np; from stages.shared.training.collector import _norms\n"
        "array = np.random.default_rng(0).normal(size=(400, 1000)).astype(np.float32)\n"
        "print(_norms([array]))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "OPENBLAS_CORETYPE": core},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for core in ("Haswell", "Prescott")
    ]
    assert told[0].stdout == told[1].stdout
