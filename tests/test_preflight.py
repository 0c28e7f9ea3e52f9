"""What cannot work ends before the first epoch, with the cause and the change to make; and BatchNorm's statistics anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from stages.shared import devices, model, params
from stages.shared.errors import TooLargeError, UntrainableError
from stages.shared.evidence import Evidence, Failure, FirstStep, Memory, Part, Step, TrainEvidence
from stages.shared.prepared import Prepared
from stages.shared.rules.crash import out_of_memory
from stages.shared.rules.outcome import Finding
from stages.shared.sampling import SamplingPlan
from stages.shared.training.batches import PlainBatches, TrainBatches
from stages.shared.training.collector import EvidenceCollector
from stages.shared.training.preflight import Preflight, check_accumulation, check_memory, check_rates, check_shares
from stages.shared.training.probe import Prober
from stages.shared.training.recalibration import Recalibration
from tests.rule_cases import setup

SHIPPED = params.load(Path(__file__).parent.parent / "params.yaml")
SIZE_PX = 32


@pytest.fixture
def classifier() -> Any:
    built = model.build_classifier(2, SIZE_PX, alpha=0.35, dropout=0.2, batchnorm_momentum=0.9, seed=0)
    built.compile("sgd", "categorical_crossentropy")
    built.optimizer.build(built.trainable_variables)
    return built


def batches(batch_size: int = 8, *, num_draws: int = 16, constant: bool = False) -> TrainBatches:
    shape = (16, SIZE_PX, SIZE_PX, 3)
    shard = np.full(shape, 90, np.uint8) if constant else np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = Prepared(("cat", "dog"), np.array([0, 1] * 8), tuple(map(str, range(16))), SIZE_PX, (shard,), "")
    policy = SHIPPED.augment.model_copy(update={"brightness": 0.0, "contrast": 0.0})
    plan = SamplingPlan((num_draws // 2, num_draws // 2), (1.0, 1.0))
    return TrainBatches(images, plan, policy, batch_size, seed=3)


def begun(classifier: Any, kept: list[Any], phase: str = "head", data: TrainBatches | None = None, **values: Any) -> Preflight:
    chosen = SHIPPED.train.model_copy(update=values)
    preflight = Preflight(data or batches(), chosen, phase, kept.append)
    preflight.set_model(classifier)
    preflight.set_params({"steps": 100, "epochs": 1})
    preflight.on_train_begin()
    return preflight


def step(preflight: Preflight, classifier: Any, *, moves: bool) -> None:
    if moves:
        weight = classifier.trainable_variables[-2]
        weight.assign(keras.ops.convert_to_numpy(weight) + 1e-3)
    preflight.on_train_batch_end(0, {"loss": 0.75})


def test_what_the_first_batch_shows_is_kept(classifier: Any) -> None:
    kept: list[Any] = []
    step(begun(classifier, kept), classifier, moves=True)
    (part,) = kept
    assert isinstance(part, FirstStep)
    assert part.loss == 0.75
    assert part.num_trainable == model.num_trainable(classifier) > 100_000


@pytest.mark.parametrize(
    ("phase", "values", "told"),
    [
        ("head", {"learning_rate": 1e-30}, r"changed no weight at train\.learning_rate 1e-30"),
        ("fine-tune", {"fine_tune_learning_rate": 1e-30}, r"changed no weight at train\.fine_tune_learning_rate 1e-30"),
    ],
)
def test_weights_that_do_not_move(classifier: Any, phase: str, values: dict[str, Any], told: str) -> None:
    preflight = begun(classifier, [], phase, **values)
    for _ in range(7):
        step(preflight, classifier, moves=False)
    with pytest.raises(UntrainableError, match=told):
        step(preflight, classifier, moves=False)


def test_one_batch_that_is_known_with_certainty_ends_nothing(classifier: Any) -> None:
    preflight = begun(classifier, [])
    for moves in (False,) * 6 + (True,) + (False,) * 9:
        step(preflight, classifier, moves=moves)


@pytest.mark.parametrize("name", ["learning_rate", "fine_tune_learning_rate"])
def test_rates_of_both_phases_are_looked_at_before_the_first(name: str) -> None:
    chosen = SHIPPED.train.model_copy(update={"fine_tune_epochs": 1})
    check_rates(chosen)
    with pytest.raises(UntrainableError, match=rf"train\.{name} is 0.*dvc exp run -S train\.{name}"):
        check_rates(chosen.model_copy(update={name: 0.0}))
    check_rates(SHIPPED.train.model_copy(update={"fine_tune_epochs": 0, "fine_tune_learning_rate": 0.0}))


def test_more_batches_averaged_than_there_are() -> None:
    chosen = SHIPPED.train.model_copy(update={"epochs": 4, "fine_tune_epochs": 2, "gradient_accumulation_steps": 16})
    check_accumulation(chosen, steps_per_epoch=8)
    check_accumulation(chosen.model_copy(update={"fine_tune_epochs": 0}), steps_per_epoch=4)
    with pytest.raises(UntrainableError, match=r"steps 16 averages more batches than the 14 of train\.fine_tune_epochs 2"):
        check_accumulation(chosen, steps_per_epoch=7)


@pytest.mark.parametrize(("values", "num_still"), [({"warmup_epochs": 1}, 8), ({"gradient_accumulation_steps": 4}, 31)])
def test_steps_that_cannot_move_the_weights_yet(classifier: Any, values: dict[str, Any], num_still: int) -> None:
    preflight = begun(classifier, [], **values)
    for _ in range(num_still):
        step(preflight, classifier, moves=False)
    with pytest.raises(UntrainableError):
        step(preflight, classifier, moves=False)


@pytest.mark.parametrize(
    ("num_devices", "batch_size", "split_sizes", "nearest"),
    [
        (2, 83, (250, 50), "82"),
        (3, 32, (250, 50), "33"),
        (2, 32, (97, 50), "30"),
        (4, 32, (96, 33), "28"),
        (3, 84, (250, 50), "45"),
        (3, 3, (7, 7), None),
    ],
)
def test_batches_that_devices_cannot_share(
    num_devices: int, batch_size: int, split_sizes: tuple[int, int], nearest: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_shares(batch_size, split_sizes)
    monkeypatch.setattr(devices, "num_replicas", lambda: num_devices)
    told = rf"train\.batch_size={nearest}$" if nearest else "CUDA_VISIBLE_DEVICES"
    with pytest.raises(UntrainableError, match=rf"{num_devices} devices cannot share batches.*{told}"):
        check_shares(batch_size, split_sizes)


def test_a_wrong_input_range(classifier: Any) -> None:
    classifier.get_layer("input_range").scale = 1.0
    with pytest.raises(UntrainableError, match=r"Expected pictures in \[-1, 1\]"):
        begun(classifier, [])


def test_images_without_content(classifier: Any) -> None:
    with pytest.raises(UntrainableError, match="standard deviation 0"):
        begun(classifier, [], data=batches(constant=True))


def test_a_batch_that_cannot_fit(classifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    check_memory(classifier, batches(), kept.append)
    check_memory(classifier, batches(10**8), kept.append)
    assert not kept, "no step has more images than an epoch"
    with pytest.raises(TooLargeError, match=r"train\.batch_size 100000000 needs at least .* GB at 32 px.*train\.batch_size \d+ fits"):
        check_memory(classifier, batches(10**8, num_draws=10**8), kept.append)
    (memory,) = kept
    assert memory.needed_bytes > memory.free_bytes > 0
    assert 16 < memory.largest_batch < 10**8
    monkeypatch.setattr(devices, "free_memory_bytes", lambda: 150_000_000)
    with pytest.raises(TooLargeError, match="not even one image fits"):
        check_memory(classifier, batches(), kept.append)
    monkeypatch.undo()
    classifier.get_layer(model.BACKBONE_LAYER).trainable = False
    frozen: list[Any] = []
    check_memory(classifier, batches(10**6, num_draws=10**6), frozen.append)
    assert not frozen, "a frozen backbone keeps nothing for the way back"


def test_the_fix_is_the_batch_that_fits() -> None:
    memory = Memory(needed_bytes=10**11, free_bytes=10**10, largest_batch=300)
    chosen = SHIPPED.model_copy(update={"train": SHIPPED.train.model_copy(update={"batch_size": 4096})})
    failure = Failure(stage="train", kind="out-of-memory", cause="too large")
    for found, num_train, expected in ((memory, 5000, 256), (None, 5000, 2048), (None, 400, 200)):
        train = TrainEvidence(setup=setup(batch_size=4096, num_train=num_train), memory=found)
        finding = out_of_memory(Evidence(train=train, failure=failure), chosen)
        assert isinstance(finding, Finding)
        assert finding.fix[0]["to"] == expected


def test_recalibration_gives_the_statistics_of_the_images(classifier: Any) -> None:
    data = batches(batch_size=6)  # 6, 6 and 4 images
    recalibration = Recalibration(data, num_images=16)
    recalibration.set_model(classifier)
    kernels = [np.array(keras.ops.convert_to_numpy(weight)) for weight in classifier.trainable_variables]
    recalibration.on_test_begin()
    first = model.batchnorm_layers(classifier)[0]
    images = np.concatenate([data.make(0, index)[0] for index in range(3)])
    scaled = classifier.get_layer("input_range")(images)
    convolved = keras.ops.convert_to_numpy(classifier.get_layer(model.BACKBONE_LAYER).get_layer("Conv1")(scaled))
    assert np.allclose(keras.ops.convert_to_numpy(first.moving_mean), convolved.mean(axis=(0, 1, 2)), atol=1e-4)
    assert np.allclose(keras.ops.convert_to_numpy(first.moving_variance), convolved.var(axis=(0, 1, 2)), rtol=1e-3)
    assert first.momentum == 0.9
    assert all(
        np.array_equal(old, keras.ops.convert_to_numpy(new)) for old, new in zip(kernels, classifier.trainable_variables, strict=True)
    )


def test_frozen_batchnorm_is_left_alone(classifier: Any) -> None:
    classifier.get_layer(model.BACKBONE_LAYER).trainable = False
    before = classifier.get_weights()
    recalibration = Recalibration(batches(), num_images=16)
    recalibration.set_model(classifier)
    recalibration.on_test_begin()
    assert all(np.array_equal(old, new) for old, new in zip(before, classifier.get_weights(), strict=True))


@pytest.mark.parametrize(("num_averaged", "num_steps"), [(1, 8), (4, 8), (3, 8), (4, 2)])
def test_only_steps_that_change_the_weights_are_sampled(classifier: Any, num_averaged: int, num_steps: int) -> None:
    """In the middle of every epoch, and after 0, 1, 2, 4 and so on of the changes."""
    parts: list[Part] = []
    data = batches(batch_size=16 // num_steps)
    prober = Prober(classifier, data, PlainBatches(data.images, 8), parts.append)
    collector = EvidenceCollector(parts.append, data, prober, num_averaged)
    collector.set_model(classifier)
    collector.enter("head")
    for number in range(4 * num_steps):
        epoch, batch = divmod(number, num_steps)
        collector.on_epoch_begin(epoch)
        collector.on_train_batch_begin(batch)
        if (number + 1) % num_averaged == 0:
            for weight in classifier.trainable_variables:
                weight.assign(keras.ops.convert_to_numpy(weight) + 1e-3)
        collector.on_train_batch_end(batch, {"loss": 0.5})
    kept = [part for part in parts if isinstance(part, Step)]
    sampled = [step.epoch * num_steps + step.step + 1 for step in kept]
    assert all(step.update_ratio > 0 for step in kept)
    assert {num_averaged * (1 + before) for before in (0, 1, 2, 4, 8, 16) if num_averaged * (1 + before) <= 4 * num_steps} <= set(sampled)
    if num_averaged <= num_steps // 2:
        assert {step.epoch for step in kept if step.step >= num_steps // 2} == set(range(4))
