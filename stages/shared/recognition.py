"""How often the class of an image is still known after its augmentation: a linear probe on the features of a pretrained backbone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.shared.augmentation import change, draw, random_numbers
from stages.shared.linear_probe import Features, linear_probe
from stages.shared.params import AugmentParams
from stages.shared.prepared import Prepared

# Of 600 images 400 are fitted and 200 asked about, which takes the backbone 10 s on two cores at 160 px; the share of 200 right answers
# has a standard deviation of 0.02 where it is 0.9.
MAX_IMAGES, MAX_ALONE = 600, 100
# Few classes with many images each tell more of a policy than many with few.
MAX_CLASSES, LEAST_IMAGES = 30, 6
# On photos of cats and dogs all upper ends of the sensible ranges together cost 0.055, with random erasing of half of the images 0.09;
# turning them upside down cost 0.175, and a policy that nobody would learn from 0.5.
LARGE_DROP = 0.15
BEYOND_CHANCE = 2.6  # standard deviations: by chance in one of two hundred policies
# What a policy is made of, as far as a change of one image by itself goes.
PARAMS = ("rotation_degrees", "width_shift", "height_shift", "shear", "zoom", "horizontal_flip", "brightness", "contrast", "random_erasing")


@dataclass(frozen=True)
class Recognition:
    """Shares of held-out training images that the probe knows; where far fewer are known when changed, the drop by each parameter alone."""

    accuracy_original: float
    accuracy_changed: float
    num_images: int
    drops: dict[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """The share that the whole policy costs."""
        return self.accuracy_original - self.accuracy_changed

    def figures(self) -> dict[str, Any]:
        """All but the drops by parameter."""
        return {name: value for name, value in asdict(self).items() if name != "drops"}


def only(policy: AugmentParams, name: str) -> AugmentParams:
    """The policy with this one of its strengths alone."""
    off = {other: type(getattr(policy, other))(0) for other in (*PARAMS, "mixup", "cutmix") if other != name}
    return policy.model_copy(update=off)


def recognise(train_set: Prepared, policy: AugmentParams, features: Features) -> Recognition | None:
    """Fit the probe to originals of part of the training split and ask it about others; None if there are too few images."""
    fitted, asked = choose_rows(train_set.labels)
    if not len(asked):
        return None
    seen = features(train_set.gather(fitted))
    probe = linear_probe(*seen.shape).fit(seen, train_set.labels[fitted])

    def known(rows: NDArray[np.int64], chosen: AugmentParams | None = None) -> NDArray[np.bool_]:
        images = train_set.gather(rows)
        if chosen:
            draws = draw(chosen, random_numbers(chosen.seed, 0, len(rows)), train_set.size_px)
            images = change(list(images), draws, chosen.fill_mode)
        # Rounded, so that the last bits, in which processors differ, decide nothing.
        answers = probe.predict_proba(features(images)).round(3).argmax(axis=1)
        return np.asarray(probe.classes_[answers] == train_set.labels[rows])

    before, after = known(asked), known(asked, policy)
    drops: dict[str, float] = {}
    if before.mean() - after.mean() >= LARGE_DROP and _beyond_chance(before, after):
        few = slice(None, None, -(-len(asked) // MAX_ALONE))
        present = [name for name in PARAMS if getattr(policy, name)]
        drops = {name: round(float(before[few].mean() - known(asked[few], only(policy, name)).mean()), 3) for name in present}
    return Recognition(round(float(before.mean()), 3), round(float(after.mean()), 3), len(asked), drops)


def choose_rows(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to fit the probe to, and others to ask it about: of each class as many, twice as many to fit as to ask."""
    frequent = np.flatnonzero(np.bincount(labels) >= LEAST_IMAGES)
    chosen = frequent[np.unique(np.linspace(0, len(frequent) - 1, min(len(frequent), MAX_CLASSES)).astype(int))]
    fitted, asked = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for label in chosen if len(chosen) > 1 else ():
        members = np.random.default_rng(label).permutation(np.flatnonzero(labels == label))[: MAX_IMAGES // len(chosen)]
        fitted.append(members[len(members) // 3 :])
        asked.append(members[: len(members) // 3])
    return np.concatenate(fitted), np.concatenate(asked)


def _beyond_chance(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> bool:
    """McNemar's test: whether more answers turned wrong than turned right by more than chance explains."""
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    return lost - gained > BEYOND_CHANCE * float(np.sqrt(lost + gained))
