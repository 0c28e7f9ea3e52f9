"""How strong a policy is, and what is too strong in it."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stages import augment as stage
from stages.shared import excess
from stages.shared.augmentation import Images, change, draw, mix, random_numbers
from stages.shared.params import AugmentParams
from stages.shared.prepared import Prepared
from stages.shared.rules import generalisation
from stages.shared.strength import WEAK_DISPLACEMENT, Strength, count_levels, measure_strength
from tests.policies import IDENTITY, SHIPPED, SIZE_PX, STRONG, policy, upright
from tests.tiny import ROOT

EVEN = np.ones(256, np.int64)


def strength_of(chosen: AugmentParams, levels: NDArray[np.int64] = EVEN) -> Strength:
    return measure_strength(chosen, 32, levels)


# Strength


def test_strength_is_zero_for_the_identity_and_for_mirroring() -> None:
    assert set(asdict(strength_of(IDENTITY)).values()) == {0.0}
    assert set(asdict(strength_of(policy(horizontal_flip=True))).values()) == {0.0}


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
        ("contrast", "mean_share_saturated"),
        ("random_erasing", "mean_share_erased"),
        ("mixup", "mean_share_mixed"),
        ("cutmix", "mean_share_mixed"),
    ],
)
def test_strength_grows_with_the_policy(key: str, measure: str) -> None:
    factor = 90 if key == "rotation_degrees" else 1
    strengths = [getattr(strength_of(policy(**{key: factor * value})), measure) for value in (0.05, 0.1, 0.2)]
    assert 0 < strengths[0] < strengths[1] < strengths[2]


def test_strength_of_a_known_shift() -> None:
    strength = strength_of(policy(width_shift=0.2))
    assert strength.mean_displacement == pytest.approx(0.1, abs=0.005)
    assert strength.max_displacement == pytest.approx(0.2, abs=0.005)
    assert strength.mean_share_outside == pytest.approx(0.1, abs=0.005)  # what moves in from one side


def test_shares_are_those_that_pixels_show() -> None:
    """Counted on changed images: black from outside, tones at an end, grey rectangles, and pixels of a partner."""
    num_draws, size_px = 1000, 32
    light = [np.full((size_px, size_px, 3), 200, np.uint8)] * num_draws

    def changed(chosen: AugmentParams, images: list[Images]) -> Images:
        draws = draw(chosen, random_numbers(chosen.seed, 0, num_draws), size_px)
        return mix(change(images, draws, "constant"), draws)

    moved = policy(rotation_degrees=40.0, zoom=0.3, width_shift=0.2)
    assert strength_of(moved).mean_share_outside == pytest.approx((changed(moved, light) < 100).mean(), abs=0.01)
    bright = policy(brightness=0.5, contrast=0.5)
    at_ends = np.isin(changed(bright, light), (0, 255)).mean()
    assert at_ends > 0.1
    assert strength_of(bright, np.bincount([200], minlength=256)).mean_share_saturated == pytest.approx(at_ends, abs=0.001)
    erased = policy(random_erasing=0.8)
    assert strength_of(erased).mean_share_erased == pytest.approx((changed(erased, light) == 127).mean(), abs=0.001)
    striped = [np.full((size_px, size_px, 3), 255 * (number < num_draws // 2), np.uint8) for number in range(num_draws)]
    pasted = changed(policy(cutmix=1.0), striped)
    from_first = (pasted == 255).mean(axis=(1, 2, 3))
    mixed = strength_of(policy(cutmix=1.0)).mean_share_mixed
    assert mixed == pytest.approx(np.minimum(from_first, 1 - from_first).mean(), abs=0.001)


def test_tones_that_were_black_or_white_before_do_not_count_as_saturated() -> None:
    strong = policy(brightness=0.5)
    levels = np.zeros(256, np.int64)
    levels[[0, 128, 255]] = 1000, 10, 1000
    assert strength_of(strong, levels).mean_share_saturated == strength_of(strong, np.bincount([128], minlength=256)).mean_share_saturated
    assert strength_of(strong, np.zeros(256, np.int64)).mean_share_saturated == 0


def test_grey_levels_are_counted_in_images_from_the_whole_split() -> None:
    images = np.repeat(np.arange(240, dtype=np.uint8), SIZE_PX**2 * 3).reshape(240, SIZE_PX, SIZE_PX, 3)
    train_set = Prepared(("a",), np.zeros(240, np.int64), ("",) * 240, SIZE_PX, (images,), "")
    levels = count_levels(train_set)
    assert levels.sum() == 200 * SIZE_PX**2 * 3
    assert levels[0] == levels[239] == SIZE_PX**2 * 3


# What is too strong


def outcome_of(**changes: Any) -> tuple[str, list[str]]:
    result = stage.augment(upright(), policy(**changes))
    return result.outcome, [warning.param.removeprefix("augment.") for warning in result.warnings]


UPPER_ENDS = {name: value for name, value in excess.USUAL_MOST.items() if name not in ("mixup", "cutmix")}


@pytest.mark.parametrize(
    "changes", [SHIPPED.model_dump(), STRONG.model_dump(), UPPER_ENDS, {"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}]
)
def test_ordinary_policies_raise_no_warning(changes: dict[str, Any]) -> None:
    assert outcome_of(**changes) == ("fit", [])


@pytest.mark.parametrize("changes", [{}, {"rotation_degrees": 3.0}, {"brightness": 0.03, "contrast": 0.03}])
def test_a_policy_that_hardly_changes_images_is_weak_and_no_fault(changes: dict[str, Any]) -> None:
    assert outcome_of(**changes) == ("weak", [])


@pytest.mark.parametrize(
    "changes",
    [{"rotation_degrees": 9.0}, {"brightness": 0.1}, {"contrast": 0.1}, {"horizontal_flip": True}, {"random_erasing": 0.2}, {"mixup": 0.1}],
)
def test_one_way_of_changing_images_is_enough_not_to_be_weak(changes: dict[str, Any]) -> None:
    assert outcome_of(**changes) == ("fit", [])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"zoom": 0.9, "rotation_degrees": 10.0}, ["zoom"]),
        ({"width_shift": 0.6, "height_shift": 0.1}, ["width_shift"]),
        ({"random_erasing": 1.0, "zoom": 0.1}, ["random_erasing"]),
        ({"brightness": 1.0, "contrast": 0.2}, ["brightness"]),
        ({"mixup": 8.0}, ["mixup"]),
        ({"width_shift": 0.7, "height_shift": 0.7, "random_erasing": 0.9}, ["width_shift", "height_shift", "random_erasing"]),
    ],
)
def test_what_is_too_strong_is_named_and_its_suggestion_heeded_raises_no_warning(changes: dict[str, Any], named: list[str]) -> None:
    train_set, chosen = upright(), policy(**changes)
    warnings = stage.augment(train_set, chosen).warnings
    assert {warning.param for warning in warnings} == {f"augment.{name}" for name in named}
    for warning, name in zip(warnings, [warning.param.removeprefix("augment.") for warning in warnings], strict=True):
        assert warning.value == changes[name]
        assert warning.suggestion <= min(warning.value / 2, excess.USUAL_MOST[name])
        assert re.match(rf"augment\.{name} {changes[name]:g} is too strong: \d+% .* \(limit: \d+%\)", warning.sentence)
    heeded = {warning.param.removeprefix("augment."): warning.suggestion for warning in warnings}
    assert stage.augment(train_set, chosen.model_copy(update=heeded)).warnings == ()


def test_many_that_are_each_ordinary_are_answered_by_the_worst() -> None:
    policies = {f"p{number}": share for number, share in enumerate((0.02, 0.06, 0.05))}
    assert excess._culprits(policies, 0.15) == ["p1"]
    assert excess._culprits({**policies, "p3": 0.08, "p4": 0.2}, 0.15) == ["p4", "p3"]


def test_the_usual_values_are_those_that_the_parameters_file_names() -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    for name, most in excess.USUAL_MOST.items():
        line = next(line for line in lines if line.startswith(f"  {name}:"))
        numbers = re.findall(r"([\d.]+) to ([\d.]+)", line)
        assert float(numbers[-1][1]) == most, line


def test_weak_is_what_the_diagnosis_calls_weak() -> None:
    assert WEAK_DISPLACEMENT == generalisation.WEAK_DISPLACEMENT
