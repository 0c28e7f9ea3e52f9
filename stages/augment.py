"""data/prepared → data/augmented, reports/augment: the augmentation policy and the class balancing, fixed, measured and shown."""

from __future__ import annotations

import io
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.flight.record import journal
from stages.shared import files, page, paths
from stages.shared.augmentation import variants
from stages.shared.params import AugmentParams, load
from stages.shared.prepared import Prepared, read
from stages.shared.sampling import SamplingPlan, plan_sampling
from stages.shared.strength import Strength, measure_strength
from stages.shared.thumbnails import data_uri

NUM_VARIANTS = 7
SHOWN_SIZE_PX = 72


@dataclass(frozen=True)
class Augmentation:
    """The policy, how often each class is drawn, and how strong the policy is."""

    policy: AugmentParams
    plan: SamplingPlan
    strength: Strength
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return {
            "policy": self.policy.model_dump(),
            "strength": asdict(self.strength),
            "classes": [
                {"label": label, "num_images": count, "draws_per_epoch": draws, "class_weight": round(weight, 6)}
                for label, count, draws, weight in zip(
                    self.classes, self.class_counts, self.plan.draws_per_class, self.plan.class_weights, strict=True
                )
            ],
        }


def augment(train_set: Prepared, policy: AugmentParams) -> Augmentation:
    """Plan the sampling from the class counts of the training split and measure the policy's strength."""
    counts = train_set.class_counts()
    strength = measure_strength(policy, train_set.size_px)
    return Augmentation(policy, plan_sampling(counts, policy.balancing), strength, train_set.classes, tuple(map(int, counts)))


def write(result: Augmentation, pictures: list[list[NDArray[np.uint8]]], folder: Path, report: Path) -> None:
    """The plan that training follows, the summary, and the page."""
    shutil.rmtree(folder, ignore_errors=True)
    files.write_json(folder / "policy.json", result.policy.model_dump())
    files.write_json(folder / "sampling.json", asdict(result.plan))
    summary = result.summary()
    files.write_json(report / "summary.json", summary)
    shown = {label: [_as_data_uri(image) for image in row] for label, row in zip(result.classes, pictures, strict=True)}
    files.write_text(report / "index.html", page.render("augment.html", summary=summary, pictures=shown))


def _as_data_uri(image: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    factor = max(1, SHOWN_SIZE_PX // len(image))
    Image.fromarray(image.repeat(factor, 0).repeat(factor, 1)).save(buffer, "WEBP", quality=80, method=4)
    return data_uri(buffer.getvalue())


def main(log: journal.Journal) -> None:
    policy = load(paths.PARAMS).augment
    train_set = read(paths.PREPARED, "train")
    result = augment(train_set, policy)
    write(result, variants(train_set, policy, NUM_VARIANTS), paths.AUGMENTED, paths.AUGMENT_REPORT)
    log.metrics("augment", asdict(result.strength))


if __name__ == "__main__":
    journal.run_stage("augment", main)
