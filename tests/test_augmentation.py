"""What the augmentation draws, and what it does to pixels and labels."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.shared.augmentation import Draws, change, draw, mix, mix_targets, random_numbers
from stages.shared.params import AugmentParams
from tests.policies import EVERYTHING, IDENTITY, STRONG, draws_of, policy

SIZE_PX = 9
PADDING = {"nearest": "edge", "constant": "constant", "reflect": "symmetric", "wrap": "wrap"}


def noise(num_images: int, size_px: int = SIZE_PX) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (num_images, size_px, size_px, 3), dtype=np.uint8)


def part_of(draws: Draws, chosen: NDArray[np.int64]) -> Draws:
    return Draws(*(getattr(draws, field.name)[chosen] for field in fields(Draws)))


def assert_same(first: Draws, second: Draws) -> None:
    for field in fields(Draws):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), field.name)


def differ(first: Draws, second: Draws) -> bool:
    return all((getattr(first, field.name) != getattr(second, field.name)).any() for field in fields(Draws))


def source_of(draws: Draws, number: int, x: float, y: float) -> tuple[float, float]:
    """Where the output pixel (x, y) comes from, by the definition of the transform."""
    (a, b, c), (d, e, f) = draws.transforms[number]
    return a * x + b * y + c, d * x + e * y + f


def areas(rectangles: NDArray[np.int64]) -> NDArray[np.int64]:
    return (rectangles[:, 2] - rectangles[:, 0]) * (rectangles[:, 3] - rectangles[:, 1])


# Draws


def test_draws_depend_neither_on_batch_nor_on_order() -> None:
    whole, numbers = draws_of(EVERYTHING), random_numbers(EVERYTHING.seed, 0, 50)
    assert numbers.shape == (50, 18)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    order = np.random.default_rng(0).permutation(50)
    for chosen in (order, order[:7], order[7:8], np.array([3, 3])):
        assert_same(draw(EVERYTHING, numbers[chosen], SIZE_PX), part_of(whole, chosen))


def test_draws_change_with_epoch_and_seed_and_between_images() -> None:
    first = draws_of(EVERYTHING)
    assert_same(draws_of(EVERYTHING), first)
    assert differ(draws_of(EVERYTHING, epoch=1), first)
    assert differ(draws_of(EVERYTHING.model_copy(update={"seed": 1})), first)
    assert len(np.unique(first.transforms, axis=0)) == 50


def test_the_identity_policy_changes_nothing() -> None:
    draws, images = draws_of(IDENTITY), noise(50)
    targets = np.random.default_rng(0).random((50, 4), dtype=np.float32)
    assert (draws.transforms == [[1, 0, 0], [0, 1, 0]]).all()
    assert (draws.colours == [1, 0]).all()
    for fill_mode in PADDING:
        changed = change(list(images), draws, fill_mode)
        np.testing.assert_array_equal(mix(changed, draws), images)
    np.testing.assert_array_equal(mix_targets(targets, draws), targets)


def test_draws_stay_within_the_policy_and_use_its_range() -> None:
    shifts = draws_of(policy(width_shift=0.2), 500).transforms[:, 0, 2] / SIZE_PX
    assert -0.2 <= shifts.min() < -0.19
    assert 0.19 < shifts.max() <= 0.2
    turns = np.rad2deg(np.arcsin(draws_of(policy(rotation_degrees=30.0), 500).transforms[:, 1, 0]))
    assert -30.001 <= turns.min() < -29
    assert 29 < turns.max() <= 30.001
    zooms = draws_of(policy(zoom=0.3), 500).transforms
    for axis in (0, 1):
        assert 0.7 <= zooms[:, axis, axis].min() < 0.71
        assert 1.29 < zooms[:, axis, axis].max() <= 1.3
    assert (zooms[:, [0, 1], [1, 0]] == 0).all()
    colours = draws_of(policy(brightness=0.1, contrast=0.4), 500).colours
    assert 0.6 <= colours[:, 0].min() < 0.61
    assert 25 < colours[:, 1].max() <= 25.5
    assert (draws_of(policy(horizontal_flip=True), 500).transforms[:, 0, 0] == -1).mean() == pytest.approx(0.5, abs=0.1)


def test_the_centre_stays_in_place_unless_shifted() -> None:
    draws = draws_of(STRONG.model_copy(update={"width_shift": 0.0, "height_shift": 0.0}))
    centre = (SIZE_PX - 1) / 2
    for number in range(50):
        assert source_of(draws, number, centre, centre) == pytest.approx((centre, centre), abs=1e-9)


# Pixels


def by_hand(transform: list[list[float]] | None = None, **others: list[list[float]]) -> Draws:
    """One draw with the values given, else the identity."""
    plain = draws_of(IDENTITY, 1)
    given = {**others, **({"transforms": [transform]} if transform else {})}
    return replace(plain, **{name: np.array(value, getattr(plain, name).dtype) for name, value in given.items()})


def changed_by(image: NDArray[np.uint8], draws: Draws, fill_mode: str = "constant") -> NDArray[np.uint8]:
    changed: NDArray[np.uint8] = change([image], draws, fill_mode)[0]
    return changed


def marked(x: int, y: int) -> NDArray[np.uint8]:
    image = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
    image[y, x] = 255
    return image


def test_a_shift_moves_a_pixel_by_the_known_amount() -> None:
    # The output at x comes from x + 2: the picture moves two to the left; and three down.
    moved = changed_by(marked(4, 1), by_hand([[1, 0, 2], [0, 1, -3]]))
    np.testing.assert_array_equal(moved, marked(2, 4))


def test_a_quarter_turn_moves_a_pixel_to_where_it_belongs() -> None:
    # (x, y) comes from (y, 8 - x): the pixel at (7, 4) is asked for by x = 4, y = 7.
    turned = changed_by(marked(7, 4), by_hand([[0, 1, 0], [-1, 0, SIZE_PX - 1]]))
    np.testing.assert_array_equal(turned, marked(4, 7))


def test_a_flip_mirrors_left_and_right() -> None:
    draws, images = draws_of(policy(horizontal_flip=True)), noise(50)
    flipped = draws.transforms[:, 0, 0] < 0
    assert 0 < flipped.sum() < 50
    wanted = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(change(list(images), draws, "nearest"), wanted)


def test_a_drawn_rotation_turns_by_its_angle() -> None:
    size_px = 41
    draws = draws_of(policy(rotation_degrees=30.0), size_px=size_px)
    number = int(np.abs(draws.transforms[:, 1, 0]).argmax())
    angle = float(np.arcsin(draws.transforms[number, 1, 0]))
    assert abs(np.rad2deg(angle)) > 20
    image = np.zeros((size_px, size_px, 3), np.uint8)
    image[19:22, 34:37] = 255  # a block 15 pixels right of the centre
    turned = changed_by(image, part_of(draws, np.array([number])))[:, :, 0].astype(float)
    y, x = np.indices(turned.shape)
    found = float((x * turned).sum() / turned.sum()) - 20, float((y * turned).sum() / turned.sum()) - 20
    assert found == pytest.approx((15 * np.cos(angle), -15 * np.sin(angle)), abs=0.2)


def sampled_slowly(image: NDArray[np.uint8], draws: Draws, number: int, fill_mode: str) -> NDArray[np.float64]:
    """Bilinear interpolation at the place that each output pixel comes from, spelled out; then contrast and brightness."""
    size_px = len(image)
    padded = np.pad(image, ((size_px,), (size_px,), (0,)), mode=PADDING[fill_mode]).astype(float)  # type: ignore[call-overload]
    contrast, added = draws.colours[number].astype(float)
    wanted = np.empty(image.shape)
    for y in range(size_px):
        for x in range(size_px):
            from_x, from_y = (value + size_px for value in source_of(draws, number, x, y))
            left, top = int(from_x), int(from_y)
            right_share, bottom_share = from_x - left, from_y - top
            upper = padded[top, left] * (1 - right_share) + padded[top, left + 1] * right_share
            lower = padded[top + 1, left] * (1 - right_share) + padded[top + 1, left + 1] * right_share
            wanted[y, x] = upper * (1 - bottom_share) + lower * bottom_share
    coloured: NDArray[np.float64] = np.clip((wanted - 127.5) * contrast + 127.5 + added, 0, 255)
    return coloured


@pytest.mark.parametrize("fill_mode", PADDING)
def test_changed_images_equal_a_direct_inverse_mapping(fill_mode: str) -> None:
    """In OpenCV's kernels with fixed point a place is rounded to 1/32 pixel: by up to 1/64 in x and in y, which between neighbours that are
    255 apart is 8 grey levels, times the contrast of up to 1.2; the kernels of OpenCV 5 with floating point are off by rounding alone.
    """
    draws, images = draws_of(STRONG, 12), noise(12)
    found = change(list(images), draws, fill_mode).astype(float)
    wanted = np.stack([sampled_slowly(image, draws, number, fill_mode) for number, image in enumerate(images)])
    errors = np.abs(found - wanted)
    assert errors.max() < 1.2 * 8 + 1
    assert errors.mean() < 1.5  # a tenth of a pixel beside it would be 5


def test_brightness_and_contrast_are_in_grey_levels() -> None:
    image = np.full((SIZE_PX, SIZE_PX, 3), 100, np.uint8)
    for contrast, added, wanted in ((1, 30, 130), (0, 0.5, 128), (1.2, 0, 94), (1, 900, 255), (1, -900, 0)):
        assert (changed_by(image, by_hand(colours=[[contrast, added]])) == wanted).all(), (contrast, added)


def test_where_the_images_lie_in_memory_changes_nothing(tmp_path: Path) -> None:
    draws, images = draws_of(STRONG), noise(50)
    wanted = change(list(images), draws, "reflect")
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    wider = np.zeros((50, 2 * SIZE_PX, SIZE_PX, 6), np.uint8)
    wider[:, ::2, :, ::2] = images
    backwards = images[:, ::-1, :, ::-1].copy()
    for source in (mapped, wider[:, ::2, :, ::2], backwards[:, ::-1, :, ::-1], np.asfortranarray(images)):
        np.testing.assert_array_equal(change(list(source), draws, "reflect"), wanted)


# Random erasing


def test_random_erasing_covers_what_its_paper_says() -> None:
    size_px = 224
    erased = draws_of(policy(random_erasing=0.3), 5000, size_px=size_px).erased
    chosen = areas(erased) > 0
    assert chosen.mean() == pytest.approx(0.3, abs=0.02)
    assert erased.min() >= 0
    assert erased.max() == size_px
    width, height = (erased[chosen, side + 2] - erased[chosen, side] for side in (0, 1))
    area = width * height / size_px**2
    assert 0.019 < area.min() < 0.03
    assert 0.3 < area.max() < 0.335
    free = (width < size_px) & (height < size_px)  # a long rectangle is cut off at the image
    aspect = (height / width)[free]
    assert 0.29 < aspect.min() < 0.35
    assert 2.9 < aspect.max() < 3.4
    assert (aspect > 1).mean() == pytest.approx(0.5, abs=0.05)
    assert np.corrcoef(erased[chosen, 0], erased[chosen, 1])[0, 1] < 0.5  # left and top are drawn each by itself


def test_erased_is_grey_and_the_rest_untouched() -> None:
    draws, images = draws_of(policy(random_erasing=0.5)), noise(50)
    changed = change(list(images), draws, "nearest")
    assert 10 < (areas(draws.erased) > 0).sum() < 40
    for image, original, (left, top, right, bottom) in zip(changed, images, draws.erased, strict=True):
        wanted = original.copy()
        wanted[top:bottom, left:right] = 127
        np.testing.assert_array_equal(image, wanted)


# Mixing


def test_mixup_blends_images_and_labels_by_the_same_shares() -> None:
    draws, images = draws_of(policy(mixup=0.4), 21), noise(21)
    labels = np.eye(21, dtype=np.float32)
    assert not areas(draws.pasted).any()
    assert draws.shares.std() > 0.2
    shares = draws.shares.astype(float)[:, None, None, None]
    wanted = shares * images + (1 - shares) * images[::-1]
    assert np.abs(mix(images, draws) - wanted).max() <= 0.51  # rounded
    for number, share in enumerate(draws.shares):
        partner = 20 - number
        mixed = mix_targets(labels, draws)[number]
        assert mixed[number] == pytest.approx(1 if partner == number else share)
        assert mixed[partner] == pytest.approx(1 if partner == number else 1 - share)
    assert mix_targets(labels, draws).sum(axis=1) == pytest.approx(np.ones(21))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_shares_are_from_the_beta_distribution(kind: str, alpha: float) -> None:
    shares = draws_of(policy(**{kind: alpha}), 4000, size_px=224).shares
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_a_pasted_rectangle_is_exactly_the_share_of_the_label() -> None:
    draws, images = draws_of(policy(cutmix=1.0), 40), noise(40)
    mixed = mix(images, draws)
    assert (areas(draws.pasted) > 0).sum() > 30
    assert draws.pasted.min() >= 0
    assert draws.pasted.max() == SIZE_PX
    assert len(np.unique(draws.pasted[:, :2], axis=0)) > 10
    for number, (left, top, right, bottom) in enumerate(draws.pasted):
        wanted = images[number].copy()
        wanted[top:bottom, left:right] = images[39 - number, top:bottom, left:right]
        np.testing.assert_array_equal(mixed[number], wanted)
        from_itself = (mixed[number] == images[number]).all(axis=2).mean()
        assert mix_targets(np.eye(40, dtype=np.float32), draws)[number, number] == pytest.approx(from_itself)


def test_both_kinds_of_mixing_take_turns() -> None:
    draws = draws_of(policy(mixup=0.4, cutmix=1.0), 2000, size_px=224)
    pasted = areas(draws.pasted) > 0
    assert pasted.mean() == pytest.approx(0.5, abs=0.05)
    assert draws.shares[pasted].var() == pytest.approx(1 / 12, rel=0.15)  # Beta(1, 1)
    assert draws.shares[~pasted].var() == pytest.approx(1 / (4 * 1.8), rel=0.15)  # Beta(0.4, 0.4)


@pytest.mark.parametrize("chosen", [policy(mixup=0.4), policy(cutmix=1.0), EVERYTHING])
def test_a_changed_image_depends_on_its_batch_by_its_partner_alone(chosen: AugmentParams) -> None:
    draws, images = draws_of(chosen), noise(50)
    whole = change(list(images), draws, "reflect")
    pair = np.array([7, 42])  # partners in the whole batch
    alone = change([images[number] for number in pair], part_of(draws, pair), "reflect")
    np.testing.assert_array_equal(alone, whole[pair])
    np.testing.assert_array_equal(mix(alone, part_of(draws, pair)), mix(whole, draws)[pair])
    before = whole.copy()
    mix(whole, draws)
    np.testing.assert_array_equal(whole, before)
