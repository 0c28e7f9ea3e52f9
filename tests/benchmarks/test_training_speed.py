"""Images per second of whole epochs, recorded, augmented and validated, beside a bare `model.fit` on one cached batch repeated."""

from __future__ import annotations

import json
import statistics
import zipfile
from pathlib import Path

import pytest

from tests import tiny
from tests.benchmarks.bare_fit import SECONDS
from tests.benchmarks.injection import inject
from tests.benchmarks.photos import PHOTOS, needs_photos

pytestmark = [pytest.mark.slow, needs_photos]
LEAST_SHARE, MOST_WAITING = 0.95, 0.02


def two_classes(name: str, per_class: int, archive: Path) -> None:
    """The first photos of the first two classes."""
    with zipfile.ZipFile(PHOTOS / name) as photos, zipfile.ZipFile(archive, "w") as chosen:
        names = sorted(entry for entry in photos.namelist() if entry.endswith(".jpg"))
        for label in sorted({entry.split("/")[0] for entry in names})[:2]:
            for entry in [entry for entry in names if entry.startswith(f"{label}/")][:per_class]:
                chosen.writestr(entry, photos.read(entry))


@pytest.mark.parametrize(
    ("name", "per_class", "size_px", "alpha", "num_epochs"),
    [("cifar10_photos.zip", 1000, 96, 0.35, 49), ("cats_dogs_photos.zip", 150, 224, 1.0, 10)],
)
def test_beside_a_bare_fit(name: str, per_class: int, size_px: int, alpha: float, num_epochs: int, tmp_path: Path) -> None:
    clone = tiny.make(tmp_path / "clone")
    two_classes(name, per_class, clone / "data/sample/tiny.zip")
    tiny.set_params(clone, {"prepare.image_size_px": size_px, "train.alpha": alpha, "train.epochs": num_epochs})
    inject(clone, "train", "bare_fit")
    tiny.run(clone, "dvc", "repro", "train")
    tiny.wait_for_recorders(clone)
    num_images = len((clone / "data/prepared/train/paths.json").read_text().splitlines()) - 2
    epochs = [json.loads(line) for line in (clone / SECONDS).read_text().splitlines()]
    assert len(epochs) == num_epochs
    epochs = epochs[1:]  # both trace their steps in the first
    shares = [bare / ours for ours, _, bare in epochs]
    waiting = statistics.median(waited / ours for ours, waited, _ in epochs)
    ours, _, bare = (num_images / statistics.median(seconds) for seconds in zip(*epochs, strict=True))
    low, share, high = statistics.quantiles(shares, n=4)
    print(f"\n{size_px} px, alpha {alpha}, {len(epochs)} epochs: {ours:.1f} images/s, bare {bare:.1f}")  # noqa: T201
    print(f"  share {share:.3f} (quartiles {low:.3f} and {high:.3f}), waiting for data {waiting:.2%}")  # noqa: T201
    assert share >= LEAST_SHARE
    assert waiting <= MOST_WAITING
