"""The augmentation policy, the balancing, and their report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from stages import augment as stage
from stages.shared.augmentation import (
    Draws,
    apply_to_image,
    draw,
    epoch_rows,
    measure_strength,
    plan_sampling,
    random_numbers,
    unchanged,
    variants,
)
from stages.shared.params import AugmentParams, load
from stages.shared.prepared import Prepared
from tests.tiny import ROOT

SIZE_PX = 9
IDENTITY = {
    "rotation_degrees": 0.0,
    "width_shift": 0.0,
    "height_shift": 0.0,
    "shear": 0.0,
    "zoom": 0.0,
    "horizontal_flip": False,
    "brightness": 0.0,
    "contrast": 0.0,
}


def policy(**changes: Any) -> AugmentParams:
    """A policy that changes nothing but what is named."""
    return load(ROOT / "params.yaml").augment.model_copy(update={**IDENTITY, **changes})


STRONG = policy(
    rotation_degrees=20.0,
    width_shift=0.1,
    height_shift=0.1,
    shear=0.1,
    zoom=0.2,
    horizontal_flip=True,
    brightness=0.2,
    contrast=0.2,
)


def draws_of(chosen: AugmentParams, num_draws: int = 50, epoch: int = 0, size_px: int = SIZE_PX) -> Draws:
    return draw(chosen, random_numbers(chosen.seed, epoch, num_draws), size_px)


def as_lists(draws: Draws) -> tuple[Any, Any]:
    return draws.transforms.tolist(), draws.colours.tolist()


def source_of(draws: Draws, number: int, x: float, y: float) -> tuple[float, float]:
    """Where the output pixel (x, y) comes from, by the definition of the transform."""
    a, b, c, d, e, f = draws.transforms[number, :6].astype(float)
    return a * x + b * y + c, d * x + e * y + f


# Draws


def test_draws_depend_neither_on_batch_nor_on_order() -> None:
    whole = draws_of(STRONG)
    order = np.random.default_rng(0).permutation(50)
    for chosen in (order, order[:7], order[7:8], np.array([3, 3])):
        part = draw(STRONG, random_numbers(STRONG.seed, 0, 50)[chosen], SIZE_PX)
        np.testing.assert_array_equal(part.transforms, whole.transforms[chosen])
        np.testing.assert_array_equal(part.colours, whole.colours[chosen])


def test_draws_change_with_epoch_and_seed_and_between_images() -> None:
    first = as_lists(draws_of(STRONG))
    assert as_lists(draws_of(STRONG)) == first
    assert as_lists(draws_of(STRONG, epoch=1)) != first
    assert as_lists(draws_of(STRONG.model_copy(update={"seed": 1}))) != first
    assert len(np.unique(draws_of(STRONG).transforms, axis=0)) == 50


def test_the_identity_policy_changes_nothing() -> None:
    draws = draws_of(policy())
    assert as_lists(draws) == as_lists(unchanged(50))
    image = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    np.testing.assert_array_equal(apply_to_image(image, draws, 0, "nearest"), image)


def test_draws_stay_within_the_policy_and_use_its_range() -> None:
    shifts = draws_of(policy(width_shift=0.2), 500).transforms[:, 2] / SIZE_PX
    assert -0.2 <= shifts.min() < -0.19
    assert 0.19 < shifts.max() <= 0.2
    turns = np.rad2deg(np.arcsin(draws_of(policy(rotation_degrees=30.0), 500).transforms[:, 3]))
    assert -30.001 <= turns.min() < -29
    assert 29 < turns.max() <= 30.001
    zooms = draws_of(policy(zoom=0.3), 500).transforms
    for column in (0, 4):
        assert 0.7 <= zooms[:, column].min() < 0.71
        assert 1.29 < zooms[:, column].max() <= 1.3
    assert (zooms[:, [1, 3]] == 0).all()
    colours = draws_of(policy(brightness=0.1, contrast=0.4), 500).colours
    assert 0.6 <= colours[:, 0].min() < 0.61
    assert 25 < colours[:, 1].max() <= 25.5
    assert (draws_of(policy(horizontal_flip=True), 500).transforms[:, 0] == -1).mean() == pytest.approx(0.5, abs=0.1)


def test_the_centre_stays_in_place_unless_shifted() -> None:
    draws = draws_of(STRONG.model_copy(update={"width_shift": 0.0, "height_shift": 0.0}))
    centre = (SIZE_PX - 1) / 2
    for number in range(50):
        assert source_of(draws, number, centre, centre) == pytest.approx((centre, centre), abs=1e-4)


# Pixels


def by_hand(**values: float) -> Draws:
    """One draw with the given entries a to f, else the identity."""
    plain = unchanged(1)
    for name, value in values.items():
        plain.transforms[0, "abcdef".index(name)] = value
    return plain


def marked(x: int, y: int) -> NDArray[np.uint8]:
    image = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
    image[y, x] = 255
    return image


def mark_in(image: NDArray[np.uint8]) -> tuple[int, int]:
    y, x = np.unravel_index(int(image[:, :, 0].argmax()), image.shape[:2])
    assert image[y, x].min() > 200
    return int(x), int(y)


def test_a_shift_moves_a_pixel_by_the_known_amount() -> None:
    # The output at x comes from x + 2: the picture moves two to the left; and three down.
    image = apply_to_image(marked(4, 1), by_hand(c=2, f=-3), 0, "constant")
    assert mark_in(image) == (2, 4)
    assert int(image.astype(int).sum()) == 3 * 255


def test_a_flip_mirrors_left_and_right() -> None:
    draws = draws_of(policy(horizontal_flip=True))
    image = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    flipped = draws.transforms[:, 0] < 0
    assert 0 < flipped.sum() < 50
    for number in range(10):
        wanted = image[:, ::-1] if flipped[number] else image
        np.testing.assert_array_equal(apply_to_image(image, draws, number, "nearest"), wanted)


def test_a_quarter_turn_moves_a_pixel_to_where_it_belongs() -> None:
    # (x, y) comes from (y, 8 - x): the pixel at (7, 4) is asked for by x = 4, y = 7.
    image = apply_to_image(marked(7, 4), by_hand(a=0, b=1, c=0, d=-1, e=0, f=SIZE_PX - 1), 0, "constant")
    assert mark_in(image) == (4, 7)
    assert int(image.astype(int).sum()) == 3 * 255


def test_a_drawn_rotation_turns_by_its_angle() -> None:
    size_px = 41
    draws = draws_of(policy(rotation_degrees=30.0), size_px=size_px)
    number = int(np.abs(draws.transforms[:, 3]).argmax())
    angle = float(np.arcsin(draws.transforms[number, 3]))
    assert abs(np.rad2deg(angle)) > 20
    image = np.zeros((size_px, size_px, 3), np.uint8)
    image[19:22, 34:37] = 255  # a block 15 pixels right of the centre
    turned = apply_to_image(image, draws, number, "constant")[:, :, 0].astype(float)
    y, x = np.indices(turned.shape)
    found = float((x * turned).sum() / turned.sum()) - 20, float((y * turned).sum() / turned.sum()) - 20
    assert found == pytest.approx((15 * np.cos(angle), -15 * np.sin(angle)), abs=0.2)


@pytest.mark.parametrize(
    ("fill_mode", "padding"), [("nearest", "edge"), ("constant", "constant"), ("reflect", "symmetric"), ("wrap", "wrap")]
)
def test_apply_equals_a_direct_inverse_mapping(fill_mode: str, padding: str) -> None:
    """Bilinear interpolation at the place that each output pixel comes from, spelled out."""
    image = np.random.default_rng(1).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    padded = np.pad(image, ((SIZE_PX,), (SIZE_PX,), (0,)), mode=padding).astype(float)  # type: ignore[call-overload]
    draws = draws_of(STRONG)
    for number in range(12):
        contrast, added = draws.colours[number].astype(float)
        wanted = np.empty((SIZE_PX, SIZE_PX, 3))
        for y in range(SIZE_PX):
            for x in range(SIZE_PX):
                from_x, from_y = (value + SIZE_PX for value in source_of(draws, number, x, y))
                left, top = int(from_x), int(from_y)
                right_share, bottom_share = from_x - left, from_y - top
                upper = padded[top, left] * (1 - right_share) + padded[top, left + 1] * right_share
                lower = padded[top + 1, left] * (1 - right_share) + padded[top + 1, left + 1] * right_share
                wanted[y, x] = upper * (1 - bottom_share) + lower * bottom_share
        wanted = np.clip((wanted - 127.5) * contrast + 127.5 + added, 0, 255)
        found = apply_to_image(image, draws, number, fill_mode).astype(float)
        assert np.abs(found - wanted).max() < 2.5, (number, fill_mode)  # grey levels are cut off twice


def test_brightness_and_contrast_are_in_grey_levels() -> None:
    image = np.full((SIZE_PX, SIZE_PX, 3), 100, np.uint8)
    plain = unchanged(1)
    brighter = Draws(plain.transforms, np.array([[1, 30]], np.float32))
    flatter = Draws(plain.transforms, np.array([[0, 0.5]], np.float32))
    assert (apply_to_image(image, brighter, 0, "nearest") == 130).all()
    assert (apply_to_image(image, flatter, 0, "nearest") == 128).all()
    assert (apply_to_image(image, Draws(plain.transforms, np.array([[1, 900]], np.float32)), 0, "nearest") == 255).all()


# Balancing

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (40, 7, 15)))
COUNTS = np.array([40, 7, 15])


def test_without_balancing_an_epoch_is_a_permutation() -> None:
    plan = plan_sampling(COUNTS, "none")
    assert plan.class_weights == (1.0, 1.0, 1.0)
    rows, draws = epoch_rows(LABELS, plan, 0, 0)
    assert sorted(rows) == list(range(62))
    assert sorted(draws) == list(range(62))
    assert rows.tolist() != sorted(rows)
    assert epoch_rows(LABELS, plan, 0, 0)[0].tolist() == rows.tolist()
    assert epoch_rows(LABELS, plan, 0, 1)[0].tolist() != rows.tolist()
    assert epoch_rows(LABELS, plan, 1, 0)[0].tolist() != rows.tolist()


@pytest.mark.parametrize(("balancing", "each"), [("oversample", 40), ("undersample", 7)])
def test_resampling_draws_each_class_equally_often(balancing: str, each: int) -> None:
    plan = plan_sampling(COUNTS, balancing)
    assert plan.draws_per_class == (each, each, each)
    assert plan.class_weights == (1.0, 1.0, 1.0)
    for epoch in range(3):
        rows, draws = epoch_rows(LABELS, plan, 0, epoch)
        assert np.bincount(LABELS[rows]).tolist() == [each] * 3
        assert sorted(draws) == list(range(3 * each))
        for label in range(3):
            times = np.bincount(rows, minlength=62)[label == LABELS]
            assert times.max() - times.min() <= 1


@pytest.mark.parametrize("balancing", ["oversample", "undersample"])
def test_who_is_drawn_once_more_changes_with_the_epoch(balancing: str) -> None:
    plan = plan_sampling(COUNTS, balancing)
    times = {tuple(np.bincount(epoch_rows(LABELS, plan, 0, epoch)[0], minlength=62)) for epoch in range(4)}
    assert len(times) == 4


def test_class_weights_equal_scikit_learn() -> None:
    plan = plan_sampling(COUNTS, "class_weight")
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert plan.class_weights == pytest.approx(tuple(wanted))
    assert plan.draws_per_class == (40, 7, 15)
    assert sum(np.array(plan.class_weights) * COUNTS) == pytest.approx(62)


# Strength and report


def test_strength_is_zero_for_the_identity_and_for_mirroring() -> None:
    assert set(asdict(measure_strength(policy(), 32)).values()) == {0.0}
    assert set(asdict(measure_strength(policy(horizontal_flip=True), 32)).values()) == {0.0}


@pytest.mark.parametrize(
    ("key", "measure"),
    [
        ("rotation_degrees", "mean_displacement"),
        ("width_shift", "mean_displacement"),
        ("height_shift", "mean_share_outside"),
        ("shear", "max_displacement"),
        ("zoom", "mean_displacement"),
        ("brightness", "mean_brightness_change"),
        ("contrast", "mean_contrast_change"),
    ],
)
def test_strength_grows_with_the_policy(key: str, measure: str) -> None:
    factor = 90 if key == "rotation_degrees" else 1
    strengths = [getattr(measure_strength(policy(**{key: factor * value}), 32), measure) for value in (0.05, 0.1, 0.2)]
    assert 0 < strengths[0] < strengths[1] < strengths[2]


def test_strength_of_a_known_shift() -> None:
    strength = measure_strength(policy(width_shift=0.2), 32)
    assert strength.mean_displacement == pytest.approx(0.1, abs=0.005)
    assert strength.max_displacement == pytest.approx(0.2, abs=0.005)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_plan_and_report_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (62, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    names = ("cat", "dog", "<b onclick=alert(1)>")
    train_set = Prepared(names, LABELS, tuple(f"{number}.png" for number in range(62)), SIZE_PX, (images,))
    for name in ("first", "second"):
        result = stage.augment(train_set, STRONG.model_copy(update={"balancing": "oversample"}))
        stage.write(result, variants(train_set, STRONG, 7), tmp_path / name / "augmented", tmp_path / name / "report")
    first = tree(tmp_path / "first")
    assert set(first) == {"augmented/policy.json", "augmented/sampling.json", "report/index.html", "report/summary.json"}
    assert tree(tmp_path / "second") == first
    assert json.loads(first["augmented/policy.json"])["rotation_degrees"] == 20.0
    assert json.loads(first["augmented/sampling.json"])["draws_per_class"] == [40, 40, 40]
    summary = json.loads(first["report/summary.json"])
    assert [row["num_images"] for row in summary["classes"]] == [40, 7, 15]
    html = first["report/index.html"].decode()
    assert "<b onclick" not in html
    assert html.count("data:image/webp;base64,") == 3 * (1 + 7)
