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
from stages.shared.augmentation import Draws, SamplingPlan, Strength, draw, measure_strength, plan_sampling, random_numbers
from stages.shared.params import AugmentParams, load
from stages.shared.prepared import Prepared, read
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


def variants(train_set: Prepared, policy: AugmentParams) -> list[list[NDArray[np.uint8]]]:
    """For each class an original and NUM_VARIANTS changed images, drawn as training draws them."""
    firsts = [int(np.flatnonzero(train_set.labels == label)[0]) for label in range(len(train_set.classes))]
    rows = []
    for image in train_set.gather(np.array(firsts)):
        draws = draw(policy, random_numbers(policy.seed, 0, NUM_VARIANTS), train_set.size_px)
        rows.append([image, *(_apply(image, draws, number, policy.fill_mode) for number in range(NUM_VARIANTS))])
    return rows


def _apply(image: NDArray[np.uint8], draws: Draws, number: int, fill_mode: str) -> NDArray[np.uint8]:
    """The change of one image on the host, for the page (training does it on the device)."""
    size_px = len(image)
    padding = {"nearest": "edge", "constant": "constant", "reflect": "symmetric", "wrap": "wrap"}[fill_mode]
    padded = np.pad(image, ((size_px,), (size_px,), (0,)), mode=padding)  # type: ignore[call-overload]
    a, b, c, d, e, f = draws.transforms[number, :6].astype(float)
    # Pillow maps pixel centres (x + 0.5), Keras maps indices; and the padded picture starts size_px earlier.
    shift = (0.5 - 0.5 * (a + b) + c + size_px, 0.5 - 0.5 * (d + e) + f + size_px)
    warped = Image.fromarray(padded).transform(
        (size_px, size_px), Image.Transform.AFFINE, (a, b, shift[0], d, e, shift[1]), Image.Resampling.BILINEAR
    )
    contrast, added = draws.colours[number]
    changed = (np.asarray(warped, np.float32) - 127.5) * contrast + 127.5 + added
    return np.asarray(np.clip(changed, 0, 255).round(), np.uint8)


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
    write(result, variants(train_set, policy), paths.AUGMENTED, paths.AUGMENT_REPORT)
    log.metrics("augment", asdict(result.strength))


if __name__ == "__main__":
    journal.run_stage("augment", main)
