"""Faults of the data, made in a copy of a recipe's images. Each says which real fault it stands for.

What is to be wrong in one split alone is made in a source that is split already, in the way in which validation split the recipe.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from stages.shared import paths
from stages.shared.manifest import read_manifest, usable_rows

# In the folder of a unit: how its recipe was split.
RECIPE_MANIFEST = Path("recipe.parquet")
SEED = 0
JPEG_QUALITY = 85


def split_source() -> pd.DataFrame:
    """Move the images into train, val and test; a row an image: split, label, and path below the raw folder."""
    manifest = read_manifest(RECIPE_MANIFEST)
    usable = manifest[manifest["status"] == "ok"].reset_index(drop=True)
    flat = paths.RAW.rename(paths.RAW.with_name("flat"))
    usable["source"] = usable["path"]
    usable["path"] = usable["split"] + "/" + usable["source"]
    for source, path in zip(usable["source"], usable["path"], strict=True):
        _move(flat / source, paths.RAW / path)
    shutil.rmtree(flat)
    return usable[["split", "label", "path"]]


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def _chosen(rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """A random share of the rows, the same each time."""
    return rows.sample(n=round(share * len(rows)), random_state=SEED).sort_values("path")


def flip_labels(share: float) -> None:
    """Careless annotation: so many training images lie in the folder of some other class."""
    rows = split_source()
    classes, generator = sorted(rows["label"].unique()), np.random.default_rng(SEED)
    for path, label in _chosen(rows[rows["split"] == "train"], share)[["path", "label"]].itertuples(index=False):
        other = str(generator.choice([name for name in classes if name != label]))
        _move(paths.RAW / path, paths.RAW / "train" / other / f"{label}-{Path(path).name}")


def leak(share: float) -> None:
    """Split after copying: so many validation images lie in training, too, saved once more as JPEG."""
    rows = split_source()
    for path, label in _chosen(rows[rows["split"] == "val"], share)[["path", "label"]].itertuples(index=False):
        with Image.open(paths.RAW / path) as image:
            image.convert("RGB").save(paths.RAW / "train" / label / f"copy-{Path(path).stem}.jpg", quality=JPEG_QUALITY)


def leak_bytes(share: float) -> None:
    """So many validation images lie in training as the same files."""
    rows = split_source()
    for path, label in _chosen(rows[rows["split"] == "val"], share)[["path", "label"]].itertuples(index=False):
        shutil.copyfile(paths.RAW / path, paths.RAW / "train" / label / f"copy-{Path(path).name}")


def _every_other_class(rows: pd.DataFrame) -> list[str]:
    return sorted(rows["label"].unique())[1::2]


def thin_classes(share: float) -> None:
    """Some classes are rare: of every other one only this share of the images is there."""
    rows = read_manifest(RECIPE_MANIFEST)
    _thin(rows[rows["label"].isin(_every_other_class(rows))], share)


def thin_training(share: float) -> None:
    """Some classes are rare in training, and as frequent as the others where it counts."""
    rows = split_source()
    _thin(rows[(rows["split"] == "train") & rows["label"].isin(_every_other_class(rows))], share)


def _thin(rows: pd.DataFrame, share: float) -> None:
    for _, members in rows.groupby("label"):
        for path in members["path"].iloc[max(1, round(share * len(members))) :]:
            (paths.RAW / path).unlink()


def tail_validation(kept: float) -> None:
    """``validation_split`` of images sorted by class: validation has the last classes, and training the first.

    Of each class, ``kept`` images of either split stay where they are.
    """
    rows = split_source()
    pool = rows[rows["split"] != "test"].sort_values(["label", "path"], ignore_index=True)
    stays = pool.groupby(["split", "label"]).cumcount() < kept
    num_train = int((rows["split"] == "train").sum())
    for number, (split, label, path) in enumerate(pool[["split", "label", "path"]].itertuples(index=False)):
        wanted = "train" if number < num_train else "val"
        if split != wanted and not stays[number]:
            _move(paths.RAW / path, paths.RAW / wanted / label / f"from-{split}-{Path(path).name}")


def no_validation_of_a_class(_amount: float) -> None:
    """One class has been forgotten when images were set aside for validation."""
    rows = split_source()
    shutil.rmtree(paths.RAW / "val" / sorted(rows["label"].unique())[0])


def keep_classes(number: float) -> None:
    """Only the first classes are there, as after a download that broke off."""
    for folder in sorted(paths.RAW.iterdir())[int(number) :]:
        shutil.rmtree(folder)


def break_files(share: float) -> None:
    """A broken copy: so many files hold the first half of an image."""
    for path in _chosen(read_manifest(RECIPE_MANIFEST), share)["path"]:
        _cut(paths.RAW / path)


def damage_after_validation(_amount: float) -> None:
    """A disk error, after all files had been looked at: the first training image is cut off."""
    _cut(_first_training_image())


def exchange_after_validation(_amount: float) -> None:
    """Someone has put a page of an error in the place of an image, after all files had been looked at."""
    _first_training_image().write_text("<html><title>404 Not Found</title></html>\n", encoding="utf-8")


def _first_training_image() -> Path:
    return paths.RAW / str(usable_rows(read_manifest(paths.MANIFEST), "train")["path"].iloc[0])


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def rename_validation_classes(number: float) -> None:
    """The first ``number`` classes, or all, have other numbers in validation, as where each split lists its folders by itself."""
    path = paths.PREPARED / "val" / "labels.npy"
    labels = np.load(path)
    num_moved = min(int(number), int(labels.max()) + 1)
    moved = labels < num_moved
    labels[moved] = (labels[moved] + 1) % num_moved
    np.save(path, labels)
