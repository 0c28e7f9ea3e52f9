"""What in an augmentation policy is too strong, and what to put in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stages.shared.params import AugmentParams
from stages.shared.recognition import LARGE_DROP, Recognition, only
from stages.shared.strength import Strength

# The upper ends of the ranges that params.yaml calls sensible.
USUAL_MOST = {
    "rotation_degrees": 30,
    "width_shift": 0.2,
    "height_shift": 0.2,
    "shear": 0.2,
    "zoom": 0.3,
    "brightness": 0.3,
    "contrast": 0.3,
    "random_erasing": 0.5,
    "mixup": 0.4,
    "cutmix": 1,
}
GEOMETRY = ("rotation_degrees", "width_shift", "height_shift", "shear", "zoom")


@dataclass(frozen=True)
class Limit:
    """The most that a figure of ``Strength`` may be, which parameters raise it, and what it means."""

    measure: str
    most: float
    params: tuple[str, ...]
    meaning: str


LIMITS = (
    Limit(
        "mean_share_outside",
        0.25,
        GEOMETRY,
        "of an image comes from outside it",
    ),
    # Random erasing covers 0.18 of an image: at this limit, five of six images.
    Limit("mean_share_erased", 0.15, ("random_erasing",), "of an image is painted over"),
    # Brightness and contrast of 0.3 saturate 0.11 of the tones of photos of cats and dogs, brightness of 0.7 0.33: there a probe on the
    # features of ImageNet's backbone begins to lose images.
    Limit("mean_share_saturated", 0.3, ("brightness", "contrast"), "of the tones turn black or white"),
    # Beta(1, 1), whose shares are uniform, gives 0.25, Beta(2, 2) 0.31: then hardly any image is nearly itself.
    Limit("mean_share_mixed", 0.3, ("mixup", "cutmix"), "of an image is its partner"),
)


@dataclass(frozen=True)
class Excess:
    """A parameter that is too strong."""

    param: str
    value: float | bool
    suggestion: float | bool
    sentence: str


def find_excess(
    policy: AugmentParams, strength: Strength, recognition: Recognition | None, measure: Callable[[AugmentParams], Strength]
) -> tuple[Excess, ...]:
    """One warning a parameter: by what the probe no longer knows, else by the limits; ``measure`` gives another policy's strength."""
    found: dict[str, Excess] = {}
    if recognition and recognition.drops:
        reason = f"of the images that a linear probe knows it loses {recognition.drop:.0%}"
        found = {name: _excess(policy, name, reason, recognition.drops) for name in _culprits(recognition.drops, LARGE_DROP)}
    for limit in LIMITS:
        share = getattr(strength, limit.measure)
        if share > limit.most:
            alone = {name: getattr(measure(only(policy, name)), limit.measure) for name in limit.params if getattr(policy, name)}
            reason = f"{share:.0%} {limit.meaning} (limit: {limit.most:.0%})"
            found |= {name: _excess(policy, name, reason, alone) for name in _culprits(alone, limit.most) if name not in found}
    return tuple(found.values())


def _culprits(alone: dict[str, float], limit: float) -> list[str]:
    """Who reaches half of the limit alone, the worst first; if nobody does, the worst."""
    ordered = sorted(alone, key=lambda name: -alone[name])
    return [name for name in ordered if alone[name] >= limit / 2] or ordered[:1]


def _excess(policy: AugmentParams, name: str, reason: str, alone: dict[str, float]) -> Excess:
    value = getattr(policy, name)
    milder = False if isinstance(value, bool) else float(f"{min(value / 2, USUAL_MOST[name]):.2g}")
    share = f", {alone[name]:.0%} by it alone" if len(alone) > 1 else ""
    return Excess(f"augment.{name}", value, milder, f"augment.{name} {_shown(value)} is too strong: {reason}{share}.")


def _shown(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def command(found: Iterable[Excess]) -> str:
    """What tries all suggestions together."""
    return " ".join(["dvc exp run", *(f"-S {excess.param}={_shown(excess.suggestion)}" for excess in found)])
