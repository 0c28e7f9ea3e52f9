"""The training's parts: batches, augmentation on the device, freezing, optimizers, stable files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stages import train
from stages.shared import files, model, params
from stages.shared.augmentation import draw
from stages.shared.errors import SourceError
from stages.shared.params import TrainParams
from stages.shared.prepared import Prepared
from stages.shared.sampling import epoch_rows, plan_sampling
from stages.shared.training.batches import Batch, PlainBatches, TrainBatches
from stages.shared.training.optimizers import optimizer
from tests.imports import ROOT

SHIPPED = params.load(ROOT / "params.yaml")
SIZE_PX = 32


@pytest.fixture(scope="module")
def images() -> Prepared:
    generator = np.random.default_rng(0)
    labels = np.array([0] * 12 + [1] * 4)
    shard = generator.integers(0, 256, (16, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    return Prepared(("cat", "dog"), labels, tuple(f"{i}.png" for i in range(16)), SIZE_PX, (shard,), "")


@pytest.fixture(scope="module")
def classifier() -> Any:
    return model.build_classifier(2, SIZE_PX, alpha=0.35, dropout=0.2, batchnorm_momentum=0.9, seed=0)


def batches(images: Prepared, **policy: Any) -> TrainBatches:
    changed = SHIPPED.augment.model_copy(update=policy)
    return TrainBatches(images, plan_sampling(images.class_counts(), changed.balancing), changed, batch_size=5, seed=3)


def test_class_weights_reach_the_loss(images: Prepared) -> None:
    made = batches(images, balancing="class_weight")
    for index in range(len(made)):
        _, targets, weights = made[index]
        assert weights == pytest.approx(np.where(targets.argmax(axis=1) == 0, 16 / 24, 16 / 8))


def test_fit_sees_each_epoch_in_its_own_order(images: Prepared) -> None:
    """Keras asks for the batches of each epoch once, in order, and the epoch's number follows."""
    seen: list[tuple[int, int]] = []

    class Watched(TrainBatches):
        def __getitem__(self, index: int) -> Any:
            seen.append((self.epoch, self.first_step + index))
            return super().__getitem__(index)

    made = batches(images)
    watched = Watched(images, made.plan, made.policy, made.batch_size, made.seed)
    small = keras.Sequential([keras.Input((SIZE_PX, SIZE_PX, 3)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")])
    small.compile("sgd", "categorical_crossentropy")
    clock = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: watched.start(7 + epoch))
    small.fit(watched.for_fit(), epochs=3, shuffle=False, verbose=0, callbacks=[clock])
    in_epochs = [[index for epoch, index in seen if epoch == number] for number in (7, 8, 9)]
    assert in_epochs == [list(range(len(made)))] * 3
    orders = [epoch_rows(images.labels, made.plan, made.seed, epoch)[0].tolist() for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_a_batch_is_the_same_whoever_asks_for_it(images: Prepared) -> None:
    """Made ahead or alone, after a whole epoch or from the middle of one, asked for once or twice."""
    whole, late = batches(images, mixup=0.4), batches(images, mixup=0.4)
    whole.start(4)
    of_epoch = [whole[index] for index in range(len(whole))]
    late.start(4, first_step=2)
    assert len(late) == len(whole) - 2
    for index in (0, 0, 1):
        assert_same(late[index], of_epoch[2 + index])
    assert_same(batches(images, mixup=0.4).make(4, 3), of_epoch[3])


def test_each_class_keeps_its_weight_when_images_are_mixed(images: Prepared) -> None:
    """The loss is linear in the targets: that of a mixture is the sum of its parts', each by the weight of its class."""
    made = batches(images, mixup=0.4, balancing="class_weight")
    rows, draws, numbers = made._epoch(0)
    drawn = draw(made.policy, numbers[draws[:5]], SIZE_PX)
    _, targets, weights = made.make(0, 0)
    assert drawn.shares.std() > 0.1
    labels = images.labels[rows[:5]]
    for number, share in enumerate(drawn.shares):
        wanted = np.zeros(2)
        wanted[labels[number]] += share * (16 / 24, 16 / 8)[labels[number]]
        wanted[labels[4 - number]] += (1 - share) * (16 / 24, 16 / 8)[labels[4 - number]]
        assert weights[number] * targets[number] == pytest.approx(wanted)
        assert targets[number].sum() == pytest.approx(1)


def assert_same(found: Batch, expected: Batch) -> None:
    for part in range(3):
        np.testing.assert_array_equal(found[part], expected[part])


def test_batches_of_the_next_epoch_are_made_ahead(images: Prepared) -> None:
    made = batches(images)
    last = len(made) - 1
    made[last]
    assert (1, 0) in made._made
    plain = PlainBatches(images, 5)
    plain[last]
    assert (0, 0) in plain._made


def test_training_tells_how_long_it_waited_for_data(images: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    made = batches(images)
    make = made.make

    def slowly(epoch: int, step: int) -> Any:
        threading.Event().wait(0.3)
        return make(epoch, step)

    monkeypatch.setattr(made, "make", slowly)
    made[0]
    assert made.waited_s >= 0.05  # less than the making takes: on a busy machine it may have begun before the wait


def test_the_backbone_sees_its_input_range(classifier: Any) -> None:
    scaled = classifier.get_layer("input_range")(np.array([[[[0.0, 127.5, 255.0]]]], np.float32))
    assert keras.ops.convert_to_numpy(scaled).ravel().tolist() == [-1, 0, 1]


def test_batchnorm_momentum_is_set_everywhere(classifier: Any) -> None:
    layers = [layer for layer in classifier.get_layer("backbone").layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(layers) == 52
    assert {layer.momentum for layer in layers} == {0.9}


@pytest.mark.parametrize("batchnorm_training", [False, True])
def test_unfreezing_a_fraction(batchnorm_training: bool) -> None:
    built = model.build_classifier(2, SIZE_PX, alpha=0.35, dropout=0.2, batchnorm_momentum=0.9, seed=0)
    backbone = built.get_layer("backbone")
    backbone.trainable = False
    order = [weight.path for weight in built.weights]
    model.unfreeze(built, 0.3, batchnorm_training=batchnorm_training)
    trainable = [layer for layer in backbone.layers if layer.trainable]
    first = len(backbone.layers) - round(0.3 * len(backbone.layers))
    assert {backbone.layers.index(layer) for layer in trainable} <= set(range(first, len(backbone.layers)))
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in trainable) == batchnorm_training
    assert [weight.path for weight in built.weights] == order, "restoring the best weights relies on this order"


def changed(**values: Any) -> TrainParams:
    return SHIPPED.train.model_copy(update=values)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta"])
def test_optimizers(name: str) -> None:
    made = optimizer(
        changed(optimizer=name, schedule="constant", clip_norm=0.5, weight_decay=1e-3, momentum=0.8, gradient_accumulation_steps=3),
        1e-2,
        10,
        5,
    )
    assert type(made).__name__.lower() == name
    assert float(made.learning_rate) == pytest.approx(1e-2)
    assert made.global_clipnorm == 0.5
    assert made.gradient_accumulation_steps == 3
    if name in ("sgd", "rmsprop"):
        assert made.momentum == 0.8
    batchnorm = keras.layers.BatchNormalization()
    batchnorm.build((None, 3))
    assert not made._use_weight_decay(batchnorm.gamma)
    plain = optimizer(changed(optimizer=name, weight_decay=0.0, gradient_accumulation_steps=1), 1e-2, 10, 5)
    assert not plain.weight_decay
    assert plain.gradient_accumulation_steps is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"schedule": "constant", "warmup_epochs": 0}, [1, 1, 1, 1]),
        ({"schedule": "constant", "warmup_epochs": 1}, [0, 0.5, 1, 1]),
        ({"schedule": "cosine", "warmup_epochs": 0}, [1, (1 + np.cos(np.pi / 8)) / 2, 0.5, 0]),
        ({"schedule": "cosine", "warmup_epochs": 1}, [0, 0.5, (1 + np.cos(np.pi / 3)) / 2, 0]),
    ],
)
def test_schedules(values: dict[str, Any], expected: list[float]) -> None:
    """Rates at the steps 0, 1, 4 and 8 of 8, with 2 steps an epoch, as shares of the highest."""
    made = optimizer(changed(**values), 1e-2, num_steps=8, steps_per_epoch=2)
    found = []
    for step in (0, 1, 4, 8):
        made.iterations.assign(step)
        found.append(float(made.learning_rate) / 1e-2)
    assert found == pytest.approx(expected, abs=1e-6)


def test_accumulated_gradients_are_those_of_one_large_batch() -> None:
    """Two steps on half batches change a weight as one on the whole, clipped alike."""
    small, whole = (
        optimizer(changed(optimizer="sgd", schedule="constant", clip_norm=1.0, gradient_accumulation_steps=n), 0.1, 9, 9) for n in (2, 1)
    )
    weights = [keras.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])]
    halves = [np.array([3.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32)]
    for half in halves:
        small.apply([keras.ops.convert_to_tensor(half)], [weights[0]])
    whole.apply([keras.ops.convert_to_tensor(sum(halves) / 2)], [weights[1]])
    assert np.allclose(keras.ops.convert_to_numpy(weights[0]), keras.ops.convert_to_numpy(weights[1]))
    assert not np.allclose(keras.ops.convert_to_numpy(weights[0]), [1, 2])


def test_the_best_epoch_is_kept_over_both_phases(classifier: Any) -> None:
    best = train.BestWeights()
    best.set_model(classifier)
    original = classifier.get_weights()
    best.on_epoch_end(0, {"val_loss": 0.5})
    classifier.set_weights([weight + 1 for weight in original])
    best.on_epoch_end(0, {"val_loss": float("nan")})
    best.on_epoch_end(1, {"val_loss": 0.7})
    best.put_back(classifier)
    assert best.epoch == 0
    assert all(np.array_equal(now, before) for now, before in zip(classifier.get_weights(), original, strict=True))


def test_saved_twice_gives_equal_bytes_and_loads(classifier: Any, images: Prepared, tmp_path: Path) -> None:
    for name in ("one", "two"):
        model.save(classifier, tmp_path / name)
    for name in (model.WEIGHTS_NAME, model.ARCHITECTURE_NAME):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    loaded = model.load(tmp_path / "one")
    some = images.gather(np.arange(3)).astype(np.float32)
    assert np.array_equal(keras.ops.convert_to_numpy(loaded(some)), keras.ops.convert_to_numpy(classifier(some)))


def test_backbone_weights_are_loaded_and_others_refused(classifier: Any, tmp_path: Path) -> None:
    files.write_json(tmp_path / "backbone.json", {"weights": ""})
    assert model.load_backbone(classifier, tmp_path) is False
    source = model.build_classifier(3, SIZE_PX, alpha=0.35, dropout=0.0, batchnorm_momentum=0.9, seed=9)
    source.get_layer("backbone").save_weights(tmp_path / "backbone.weights.h5")
    files.write_json(tmp_path / "backbone.json", {"weights": "backbone.weights.h5"})
    assert model.load_backbone(classifier, tmp_path) is True
    expected = source.get_layer("backbone").get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(classifier.get_layer("backbone").get_weights(), expected, strict=True))
    wide = model.build_classifier(2, SIZE_PX, alpha=0.5, dropout=0.0, batchnorm_momentum=0.9, seed=0)
    with pytest.raises(SourceError, match=r"train\.alpha"):
        model.load_backbone(wide, tmp_path)


def test_plain_batches_are_in_order(images: Prepared) -> None:
    made = PlainBatches(images, 5)
    rows = np.concatenate([made[index][0] for index in range(len(made))])
    assert np.array_equal(rows, images.gather(np.arange(16)))
