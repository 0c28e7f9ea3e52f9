"""Healthy trainings, small enough for half a minute on two cores, two of each of four data sets; each fault is a change of one of them."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.shared.params import read_yaml
from tests.tiny import ROOT

SHARED_DATA = ROOT.parent / "shared/data"
WEIGHTS = "mobilenet_v2_1.0_160_no_top.weights.h5"
# Below a recipe's folder.
SOURCE, WEIGHTS_FOLDER = "source", "weights"

FASHION, CIFAR, OTHERS, LAST = "fashion", "cifar", "others", "last"
DATASETS = (FASHION, CIFAR, OTHERS, LAST)
SCRATCH, TRANSFER = "scratch", "transfer"


@dataclass(frozen=True)
class Recipe:
    """A healthy training: which images of which archive, and what differs from params.yaml, by dotted name."""

    dataset: str
    name: str
    archive: Path
    classes: tuple[str, ...]
    images_per_class: int
    changes: dict[str, Any]

    def params(self, changes: dict[str, Any]) -> dict[str, Any]:
        """All of params.yaml as plain values, with the recipe's changes and then these."""
        return changed(read_yaml(ROOT / "params.yaml"), self.changes | changes)

    def unpack(self, folder: Path) -> None:
        """The chosen images as a folder with one folder a class, and the backbone's weights beside it."""
        with zipfile.ZipFile(self.archive) as archive:
            for label in self.classes:
                names = sorted(name for name in archive.namelist() if name.startswith(f"{label}/") and not name.endswith("/"))
                for name in names[: self.images_per_class]:
                    archive.extract(name, folder / SOURCE)
        (folder / WEIGHTS_FOLDER).symlink_to(SHARED_DATA.resolve() / "weights")


def changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested plain values in which those of ``changes``, by dotted name, are others."""
    copy = dict(values)
    for key, value in changes.items():
        section, _, rest = key.partition(".")
        copy[section] = changed(copy[section], {rest: value}) if rest else value
    return copy


def gates(least: float) -> dict[str, Any]:
    """What the test must reach: a little less than the healthy training does."""
    return {"evaluate.gates": {"accuracy": {"min": least}, "macro_f1": {"min": least}}}


SOURCE_OF_ALL = {"ingest.source": SOURCE, "evaluate.export": []}
# From random weights, in 32 px: with BatchNorm's own momentum of 0.999 it would validate at chance (see ``train.batchnorm_momentum``).
FROM_SCRATCH = SOURCE_OF_ALL | {"prepare.image_size_px": 32, "train.epochs": 12}
# From a pretrained backbone at 64 px, where its features still are of use and a pass over 1,500 images takes a second or two.
FROM_PRETRAINED = SOURCE_OF_ALL | {
    "ingest.backbone_weights": f"{WEIGHTS_FOLDER}/{WEIGHTS}",
    "validate.val_fraction": 0.2,
    "validate.test_fraction": 0.2,
    "prepare.image_size_px": 64,
    "train.alpha": 1.0,
    "train.epochs": 5,
    "train.fine_tune_epochs": 4,
    "train.fine_tune_fraction": 0.2,
    "train.fine_tune_learning_rate": 3e-5,
}
SAMPLE = ROOT / "data/sample/fashion_mnist.zip"
PHOTOS = SHARED_DATA / "cifar10_photos.zip"
# Without those that hardly differ at 32 px (coats, shirts), and trousers, of which the sample has few by design.
CLOTHES = ("ankle-boot", "bag", "dress", "pullover", "sandal", "t-shirt")
# What a small network can tell apart after 2,000 photos; of all ten classes it would not get half right.
THREE_KINDS = ("automobile", "frog", "ship")
FOUR_KINDS = ("airplane", "automobile", "dog", "frog")
# Of other sizes than the photos before: some pixels and images a step more or less, two classes, and few photos of many sizes.
THREE_OTHERS = ("bird", "horse", "truck")
CATS_DOGS = SHARED_DATA / "cats_dogs_photos.zip"
OTHERS_SCRATCH: dict[str, Any] = FROM_SCRATCH | {"prepare.image_size_px": 40, "train.batch_size": 48}
OTHERS_TRANSFER: dict[str, Any] = FROM_PRETRAINED | {
    "validate.test_fraction": 0.3,
    "prepare.image_size_px": 96,
    "train.batch_size": 16,
    "train.learning_rate": 1e-3,
}
# Of yet other sizes, and five classes.
LAST_KINDS, FIVE_KINDS = ("airplane", "cat", "deer"), ("bird", "cat", "deer", "horse", "truck")
LAST_SCRATCH: dict[str, Any] = FROM_SCRATCH | {"prepare.image_size_px": 36, "train.batch_size": 40}
LAST_TRANSFER: dict[str, Any] = FROM_PRETRAINED | {"prepare.image_size_px": 72, "train.batch_size": 24, "train.learning_rate": 1e-3}

RECIPES = {
    (recipe.dataset, recipe.name): recipe
    for recipe in (
        Recipe(FASHION, SCRATCH, SAMPLE, CLOTHES, 476, FROM_SCRATCH | gates(0.88)),
        Recipe(FASHION, TRANSFER, SAMPLE, CLOTHES, 250, FROM_PRETRAINED | gates(0.88)),
        Recipe(CIFAR, SCRATCH, PHOTOS, THREE_KINDS, 952, FROM_SCRATCH | gates(0.65)),
        Recipe(CIFAR, TRANSFER, PHOTOS, FOUR_KINDS, 375, FROM_PRETRAINED | {"train.learning_rate": 1e-3} | gates(0.8)),
        Recipe(OTHERS, SCRATCH, PHOTOS, THREE_OTHERS, 1000, OTHERS_SCRATCH | gates(0.68)),
        Recipe(OTHERS, TRANSFER, CATS_DOGS, ("cat", "dog"), 350, OTHERS_TRANSFER | gates(0.85)),
        Recipe(LAST, SCRATCH, PHOTOS, LAST_KINDS, 900, LAST_SCRATCH | gates(0.65)),
        Recipe(LAST, TRANSFER, PHOTOS, FIVE_KINDS, 200, LAST_TRANSFER | gates(0.68)),
    )
}
