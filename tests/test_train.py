"""The training's parts: batches, augmentation on the device, freezing, optimizers, stable files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stages import train
from stages.shared import files, model, params
from stages.shared.augmentation import apply_to_image, draw, epoch_rows, plan_sampling, random_numbers
from stages.shared.training.batches import PlainBatches, TrainBatches
from stages.shared.errors import SourceError
from stages.shared.prepared import Prepared
from tests.imports import ROOT

SHIPPED = params.load(ROOT / "params.yaml")
SIZE_PX = 32


@pytest.fixture(scope="module")
def images() -> Prepared:
    generator = np.random.default_rng(0)
    labels = np.array([0] * 12 + [1] * 4)
    shard = generator.integers(0, 256, (16, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    return Prepared(("cat", "dog"), labels, tuple(f"{i}.png" for i in range(16)), SIZE_PX, (shard,))


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
    made = batches(images)
    seen: list[tuple[int, int]] = []
    original = made.__getitem__

    class Watched(TrainBatches):
        def __getitem__(self, index: int) -> Any:
            seen.append((self.epoch, index))
            return super().__getitem__(index)

    watched = Watched(images, made.plan, made.policy, made.batch_size, made.seed)
    inputs = {name: keras.Input(value.shape[1:], dtype=value.dtype, name=name) for name, value in original(0)[0].items()}
    output = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(keras.ops.cast(inputs["image"], "float32")))
    small = keras.Model(inputs, output)
    small.compile("sgd", "categorical_crossentropy")
    clock = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: watched.start_epoch(7 + epoch))
    small.fit(watched, epochs=3, shuffle=False, verbose=0, callbacks=[clock])
    in_epochs = [[index for epoch, index in seen if epoch == number] for number in (7, 8, 9)]
    assert in_epochs == [list(range(len(made)))] * 3
    orders = [epoch_rows(images.labels, made.plan, made.seed, epoch)[0].tolist() for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_the_device_warps_as_the_page_shows() -> None:
    """keras.ops.image.affine_transform and Pillow agree on a smooth picture, up to interpolation at the rim."""
    policy = SHIPPED.augment.model_copy(
        update={
            "rotation_degrees": 20.0,
            "width_shift": 0.2,
            "height_shift": 0.1,
            "shear": 0.2,
            "zoom": 0.2,
            "brightness": 0.1,
            "contrast": 0.2,
        }
    )
    axis = np.linspace(0, 3, 64)
    smooth = (127 + 100 * np.sin(axis)[:, None, None] * np.cos(2 * axis)[None, :, None] * np.ones(3)).astype(np.uint8)
    draws = draw(policy, random_numbers(policy.seed, 0, 8), 64)
    layer = model.Augmentation("nearest")
    warped = keras.ops.convert_to_numpy(layer(np.repeat(smooth[None], 8, axis=0), draws.transforms, draws.colours, training=True))
    for number in range(8):
        shown = apply_to_image(smooth, draws, number, "nearest")
        assert np.abs(warped[number] - shown).mean() < 1.5
    plain = keras.ops.convert_to_numpy(layer(smooth[None], draws.transforms[:1], draws.colours[:1], training=False))
    assert np.array_equal(plain[0], smooth)


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


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta"])
def test_optimizers(name: str) -> None:
    chosen = SHIPPED.train.model_copy(
        update={"optimizer": name, "schedule": "constant", "clip_norm": 0.5, "weight_decay": 1e-3, "momentum": 0.8}
    )
    optimizer = train._optimizer(chosen, 1e-2, num_steps=10)
    assert type(optimizer).__name__.lower() == name
    assert float(optimizer.learning_rate) == pytest.approx(1e-2)
    assert optimizer.global_clipnorm == 0.5
    if name in ("sgd", "rmsprop"):
        assert optimizer.momentum == 0.8
    batchnorm = keras.layers.BatchNormalization()
    batchnorm.build((None, 3))
    assert not optimizer._use_weight_decay(batchnorm.gamma)


def test_a_cosine_schedule_ends_at_zero() -> None:
    optimizer = train._optimizer(SHIPPED.train.model_copy(update={"schedule": "cosine"}), 1e-2, num_steps=10)
    optimizer.iterations.assign(10)
    assert float(optimizer.learning_rate) == pytest.approx(0, abs=1e-9)


def test_the_best_epoch_is_kept_over_both_phases(classifier: Any) -> None:
    best = train.BestWeights()
    best.set_model(classifier)
    original = classifier.get_weights()
    best.on_epoch_end(0, {"val_loss": 0.5})
    classifier.set_weights([weight + 1 for weight in original])
    best.on_epoch_end(0, {"val_loss": float("nan")})
    best.on_epoch_end(1, {"val_loss": 0.7})
    best.restore(classifier)
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
    rows = np.concatenate([made[index][0]["image"] for index in range(len(made))])
    assert np.array_equal(rows, images.gather(np.arange(16)))
