"""How often a linear probe still knows the class of changed images, and what it makes of that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages import augment as stage
from stages.shared import excess, files, linear_probe, recognition
from stages.shared.prepared import Prepared
from stages.shared.strength import measure_strength
from tests.policies import SIZE_PX, STRONG, by_rows, policy, upright


def test_a_harmless_policy_keeps_classes_recognisable() -> None:
    result = stage.augment(upright(), policy(horizontal_flip=True, width_shift=0.1), by_rows)
    assert result.recognition == recognition.Recognition(1.0, 1.0, 40)
    assert result.outcome == "fit"


def test_the_probe_names_the_parameter_that_hides_the_classes() -> None:
    """Of a policy whose figures are all within their limits, half turns exchange the two classes."""
    chosen = policy(rotation_degrees=180.0, horizontal_flip=True, width_shift=0.05, brightness=0.1, fill_mode="reflect")
    assert stage.augment(upright(), chosen).outcome == "fit"
    result = stage.augment(upright(), chosen, by_rows)
    assert result.outcome == "too strong"
    assert result.recognition is not None
    assert result.recognition.accuracy_original == 1.0
    assert result.recognition.accuracy_changed < 0.8
    assert set(result.recognition.drops) == {"rotation_degrees", "horizontal_flip", "width_shift", "brightness"}
    assert result.recognition.drops["horizontal_flip"] == result.recognition.drops["width_shift"] == 0
    [warning] = result.warnings
    assert (warning.param, warning.value, warning.suggestion) == ("augment.rotation_degrees", 180.0, 30.0)
    assert warning.sentence.startswith("augment.rotation_degrees 180 is too strong: of the images that a linear probe knows it loses ")
    heeded = chosen.model_copy(update={"rotation_degrees": warning.suggestion})
    assert stage.augment(upright(), heeded, by_rows).warnings == ()


def test_mirroring_that_exchanges_classes_is_to_be_switched_off() -> None:
    sideways = upright()
    turned = Prepared(sideways.classes, sideways.labels, sideways.image_paths, SIZE_PX, (sideways.shards[0].transpose(0, 2, 1, 3),), "")
    result = stage.augment(turned, policy(horizontal_flip=True, brightness=0.05), lambda images: by_rows(images.transpose(0, 2, 1, 3)))
    [warning] = result.warnings
    assert (warning.param, warning.value, warning.suggestion) == ("augment.horizontal_flip", True, False)
    assert warning.sentence.startswith("augment.horizontal_flip true is too strong")
    assert excess.command(result.warnings) == "dvc exp run -S augment.horizontal_flip=false"


def test_a_drop_by_chance_is_none() -> None:
    """One of five images is lost: a large share, of few images."""
    train_set = upright(num_images=15)
    found = recognition.recognise(train_set, policy(rotation_degrees=180.0), by_rows)
    assert found is not None
    assert found.drop >= recognition.LARGE_DROP
    assert found.drops == {}


def test_a_class_of_too_few_images_is_not_asked_about() -> None:
    assert recognition.recognise(upright(num_images=10), STRONG, by_rows) is None
    one_class = upright(num_classes=1)
    assert recognition.recognise(one_class, STRONG, by_rows) is None


@pytest.mark.parametrize(("num_classes", "each", "fit", "ask"), [(2, 500, 200, 100), (7, 90, 57, 28), (100, 20, 14, 6), (30, 6, 4, 2)])
def test_the_probe_looks_at_few_images_evenly_over_classes(num_classes: int, each: int, fit: int, ask: int) -> None:
    labels = np.arange(num_classes * each) % num_classes
    fitted, asked = recognition.choose_rows(labels)
    assert not set(fitted) & set(asked)
    assert len(fitted) + len(asked) <= recognition.MAX_IMAGES
    for rows, wanted in ((fitted, fit), (asked, ask)):
        counts = np.bincount(labels[rows], minlength=num_classes)
        assert (counts > 0).sum() == min(num_classes, 30)
        assert counts[0] == counts[-1] == wanted
    assert fitted.max() > 0.8 * len(labels)  # from the whole split
    assert recognition.choose_rows(labels)[0].tolist() == fitted.tolist()


def test_features_come_from_a_pretrained_backbone_alone(tmp_path: Path) -> None:
    (tmp_path / "backbone.json").write_text('{"weights": ""}')
    assert linear_probe.pretrained_features(tmp_path, SIZE_PX, 0.35) is None
    assert stage.augment(upright(), STRONG).summary()["probe"] is None
    assert stage.augment(upright(), STRONG).summary()["drops_by_probe"] == {}


def test_a_real_backbone_is_probed(tmp_path: Path) -> None:
    """Random weights, frozen: their features are projections that tell stripes across from stripes along, and a quarter turn hides that."""
    import keras

    from stages.shared import model

    keras.utils.set_random_seed(0)
    network = model.build_classifier(2, 32, alpha=0.35, dropout=0.0, batchnorm_momentum=0.9, seed=0)
    network.get_layer(model.BACKBONE_LAYER).save_weights(tmp_path / "backbone.weights.h5")
    files.write_json(tmp_path / "backbone.json", {"weights": "backbone.weights.h5"})
    labels = np.arange(120) % 2
    images = np.random.default_rng(0).integers(0, 60, (120, 32, 32, 3), dtype=np.uint8)
    images[labels == 0, ::4] += 180
    images[labels == 1, :, ::4] += 180
    train_set = Prepared(("across", "along"), labels, ("",) * 120, 32, (images,), "")
    features = linear_probe.pretrained_features(tmp_path, 32, 0.35)
    assert features is not None
    mild = recognition.recognise(train_set, policy(horizontal_flip=True, brightness=0.05), features)
    assert mild == recognition.recognise(train_set, policy(horizontal_flip=True, brightness=0.05), features)
    assert mild is not None
    assert mild.accuracy_original == 1.0
    assert mild.accuracy_changed > 0.9
    [warning] = stage.augment(train_set, policy(rotation_degrees=180.0, brightness=0.05), features).warnings
    assert warning.param == "augment.rotation_degrees"


def test_what_the_probe_says_of_a_parameter_comes_before_its_limits() -> None:
    chosen = policy(zoom=0.9, random_erasing=1.0)
    found = recognition.Recognition(1.0, 0.6, 40, {"zoom": 0.4, "random_erasing": 0.0})
    by_limits = measure_strength(chosen, SIZE_PX, np.ones(256, np.int64))
    warnings = excess.find_excess(chosen, by_limits, found, lambda other: measure_strength(other, SIZE_PX, np.ones(256, np.int64)))
    assert [warning.param for warning in warnings] == ["augment.zoom", "augment.random_erasing"]
    assert ["linear probe" in warning.sentence for warning in warnings] == [True, False]
