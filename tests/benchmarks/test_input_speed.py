"""Images per second of the input alone: preparing beside bare decoding, and training batches beside the article's generator."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from stages.shared import files, prepared
from stages.shared.augmentation import change, draw, random_numbers
from stages.shared.sampling import SamplingPlan
from stages.shared.training.batches import TrainBatches
from tests.benchmarks.photos import needs_photos, rows, unpacked
from tests.policies import STRONG

pytestmark = [pytest.mark.slow, needs_photos]
NUM_PAIRS = 5
BATCH_SIZE = 32
TIMES_GENERATOR, SHARE_OF_DECODING = 5, 0.6


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of a piece of work."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def prepare(photos: Path, size_px: int, folder: Path) -> None:
    """What the stage does with one split."""
    shutil.rmtree(folder, ignore_errors=True)
    prepared.write(rows(photos), sorted({path.name for path in photos.iterdir()}), photos, size_px, folder / "train")


def decode_and_resize(photos: Path, size_px: int) -> None:
    """The least that can be done with the same decoder on the same cores."""

    def one(path: Path) -> None:
        with Image.open(path) as image:
            ImageOps.fit(image.convert("RGB"), (size_px, size_px), method=Image.Resampling.BILINEAR)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, sorted(photos.rglob("*.jpg"))))


@pytest.mark.parametrize("name", ["cats_dogs_photos.zip", "cifar10_photos.zip"])
@pytest.mark.parametrize("size_px", [96, 224])
def test_prepare_beside_bare_decoding(name: str, size_px: int, tmp_path: Path) -> None:
    photos = unpacked(name, tmp_path)
    num_images = len(rows(photos))
    pairs = [
        (seconds(lambda: prepare(photos, size_px, tmp_path / "prepared")), seconds(lambda: decode_and_resize(photos, size_px)))
        for _ in range(NUM_PAIRS)
    ]
    ours, bare = (num_images / statistics.median(times) for times in zip(*pairs, strict=True))
    share = statistics.median(bare_s / ours_s for ours_s, bare_s in pairs)
    print(f"\n{name} at {size_px} px: prepare {ours:.0f}/s, bare decoding and resizing {bare:.0f}/s, share {share:.2f}")  # noqa: T201
    assert share >= SHARE_OF_DECODING


def generator(photos: Path, size_px: int) -> Any:
    """The article's, with the same transformations (but contrast, which it has not)."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    changes = ImageDataGenerator(
        rotation_range=STRONG.rotation_degrees,
        width_shift_range=STRONG.width_shift,
        height_shift_range=STRONG.height_shift,
        shear_range=np.rad2deg(np.arctan(STRONG.shear)),
        zoom_range=STRONG.zoom,
        horizontal_flip=STRONG.horizontal_flip,
        brightness_range=(1 - STRONG.brightness, 1 + STRONG.brightness),
        fill_mode=STRONG.fill_mode,
    )
    return changes.flow_from_directory(str(photos), target_size=(size_px, size_px), batch_size=BATCH_SIZE, seed=0)


def batches(photos: Path, size_px: int, folder: Path) -> TrainBatches:
    """Those of a training, of photos prepared before."""
    prepare(photos, size_px, folder)
    files.write_json(folder / "prepared.json", {"classes": sorted(path.name for path in photos.iterdir()), "image_size_px": size_px})
    images = prepared.read(folder, "train")
    num_classes = len(images.classes)
    plan = SamplingPlan(tuple(images.class_counts().tolist()), (1.0,) * num_classes)
    return TrainBatches(images, plan, STRONG, BATCH_SIZE, seed=0)


def epochs(made: TrainBatches) -> Iterator[None]:
    """One epoch after another."""
    for epoch in range(1 + NUM_PAIRS):
        made.start(epoch)
        for step in range(len(made)):
            made[step]
        wait(made._made.values())  # what is made ahead is this epoch's expense
        yield


@pytest.mark.parametrize("size_px", [96, 224])
def test_batches_beside_the_article_s_generator(size_px: int, tmp_path: Path) -> None:
    photos = unpacked("cats_dogs_photos.zip", tmp_path)
    theirs, ours = generator(photos, size_px), batches(photos, size_px, tmp_path / "prepared")
    ours_epochs = epochs(ours)
    next(ours_epochs)
    [next(theirs) for _ in range(len(theirs))]
    pairs = [(seconds(lambda: next(ours_epochs)), seconds(lambda: [next(theirs) for _ in range(len(theirs))])) for _ in range(NUM_PAIRS)]
    ratio = statistics.median(theirs_s / ours_s for ours_s, theirs_s in pairs)
    num_images = ours.num_draws
    speeds = [num_images / statistics.median(times) for times in zip(*pairs, strict=True)]
    print(f"\n{size_px} px: batches {speeds[0]:.0f}/s, ImageDataGenerator {speeds[1]:.0f}/s, ratio {ratio:.1f}")  # noqa: T201
    print(f"  share of the warp in making a batch: {warp_share(ours):.0%}")  # noqa: T201
    assert ratio >= TIMES_GENERATOR


def warp_share(made: TrainBatches) -> float:
    """Bare warps of a batch, beside all that makes it, on one core."""
    images = [np.array(made.images.image(row)) for row in range(BATCH_SIZE)]
    draws = draw(STRONG, random_numbers(0, 0, BATCH_SIZE), made.images.size_px)
    size = images[0].shape[1::-1]
    cv2.setNumThreads(1)

    def warps() -> None:
        for image, transform in zip(images, draws.transforms, strict=True):
            cv2.warpAffine(image, transform, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE)

    change(images, draws, STRONG.fill_mode)
    times = [(seconds(warps), seconds(lambda step=step: made.make(0, step))) for step in range(len(made) - 1)]  # type: ignore[misc]
    return statistics.median(warps_s / all_s for warps_s, all_s in times)
