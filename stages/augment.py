"""data/prepared → data/augmented, reports/augment: the augmentation policy and the class balancing, fixed, measured and shown."""

from __future__ import annotations

import functools
import io
import itertools
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.flight.record import journal
from stages.shared import excess, files, page, paths
from stages.shared.augmentation import Images, mixtures, variants
from stages.shared.linear_probe import Features, pretrained_features
from stages.shared.params import AugmentParams, load
from stages.shared.prepared import Prepared, read
from stages.shared.recognition import Recognition, recognise
from stages.shared.sampling import SamplingPlan, plan_sampling
from stages.shared.strength import Strength, count_levels, is_weak, measure_strength
from stages.shared.thumbnails import data_uri

NUM_VARIANTS, NUM_MIXED = 7, 16
MAX_SHOWN_CLASSES = 20
SHOWN_SIZE_PX = 96


@dataclass(frozen=True)
class Augmentation:
    """The policy, how often each class is drawn, how strong the policy is, whether a probe still knows the classes (None if none has
    looked), and what is too strong.
    """

    policy: AugmentParams
    plan: SamplingPlan
    strength: Strength
    recognition: Recognition | None
    warnings: tuple[excess.Excess, ...]
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]

    @property
    def outcome(self) -> str:
        """``too strong``, ``weak`` (which is no fault by itself) or ``fit``."""
        return "too strong" if self.warnings else "weak" if is_weak(self.policy, self.strength) else "fit"

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return {
            "policy": self.policy.model_dump(),
            "outcome": self.outcome,
            "strength": asdict(self.strength),
            "probe": self.recognition and self.recognition.figures(),
            "drops_by_probe": self.recognition.drops if self.recognition else {},
            "warnings": [asdict(warning) for warning in self.warnings],
            "classes": [
                {"label": label, "num_images": count, "draws_per_epoch": draws, "class_weight": round(weight, 6)}
                for label, count, draws, weight in zip(
                    self.classes, self.class_counts, self.plan.draws_per_class, self.plan.class_weights, strict=True
                )
            ],
        }


def augment(train_set: Prepared, policy: AugmentParams, features: Features | None = None) -> Augmentation:
    """Plan the sampling from the class counts of the training split, and measure the policy's strength.

    Args:
        train_set: the training split.
        policy: what is measured.
        features: of a pretrained backbone, for a probe that tells whether classes survive; None if there is none.
    """
    counts = train_set.class_counts()
    measure = functools.partial(measure_strength, size_px=train_set.size_px, levels=count_levels(train_set))
    strength = measure(policy)
    recognition = recognise(train_set, policy, features) if features else None
    warnings = excess.find_excess(policy, strength, recognition, measure)
    plan = plan_sampling(counts, policy.balancing)
    return Augmentation(policy, plan, strength, recognition, warnings, train_set.classes, tuple(map(int, counts)))


def write(result: Augmentation, train_set: Prepared, folder: Path, report: Path) -> None:
    """The plan that training follows, the summary, and the page."""
    shutil.rmtree(folder, ignore_errors=True)
    files.write_json(folder / "policy.json", result.policy.model_dump())
    files.write_json(folder / "sampling.json", asdict(result.plan))
    summary = result.summary()
    files.write_json(report / "summary.json", summary)
    last = len(result.classes) - 1
    shown = [int(label) for label in np.unique(np.linspace(0, last, min(last + 1, MAX_SHOWN_CLASSES)).astype(int))]
    rows = variants(train_set, result.policy, NUM_VARIANTS, shown)
    content = {
        "summary": summary,
        "limits": {limit.measure: limit.most for limit in excess.LIMITS},
        "command": excess.command(result.warnings),
        "pictures": {result.classes[label]: [_as_data_uri(image) for image in row] for label, row in zip(shown, rows, strict=True)},
        "mixed": _mixed(result, train_set, shown) if result.policy.mixup or result.policy.cutmix else [],
    }
    files.write_text(report / "index.html", page.render("augment.html", **content))


def _mixed(result: Augmentation, train_set: Prepared, shown: list[int]) -> list[tuple[str, float, str, str]]:
    found = mixtures(train_set, result.policy, list(itertools.islice(itertools.cycle(shown), NUM_MIXED)))
    return [(_as_data_uri(image), share, result.classes[first], result.classes[second]) for image, share, first, second in found]


def _as_data_uri(image: Images) -> str:
    buffer = io.BytesIO()
    factor = max(1, SHOWN_SIZE_PX // len(image))  # whole pixels of a small image, a smaller copy of a large one
    picture = Image.fromarray(image.repeat(factor, 0).repeat(factor, 1))
    picture.thumbnail((2 * SHOWN_SIZE_PX, 2 * SHOWN_SIZE_PX))
    picture.save(buffer, "WEBP", quality=80, method=4)
    return data_uri(buffer.getvalue())


def main(log: journal.Journal) -> None:
    params = load(paths.PARAMS)
    train_set = read(paths.PREPARED, "train")
    features = pretrained_features(paths.BACKBONE, train_set.size_px, params.train.alpha)
    result = augment(train_set, params.augment, features)
    write(result, train_set, paths.AUGMENTED, paths.AUGMENT_REPORT)
    probed = result.recognition.figures() if result.recognition else {}
    log.metrics("augment", {**asdict(result.strength), **{f"probe_{name}": value for name, value in probed.items()}})
    for warning in result.warnings:
        log.say(warning.sentence)
    if result.warnings:
        log.say(f"Try: {excess.command(result.warnings)}\nMore: {paths.AUGMENT_REPORT}/index.html")


if __name__ == "__main__":
    journal.run_stage("augment", main)
