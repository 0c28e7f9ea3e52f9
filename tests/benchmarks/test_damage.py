"""Random damage to real JPEG photos: how much of it the scan sees, and how much Pillow's load() does; and how seldom it cries wolf."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from stages.shared.images import DECODING_ERRORS
from stages.shared.quality import issues
from stages.shared.quality.examine import examine
from tests.bad_images import scan_data
from tests.benchmarks.photos import PHOTOS, needs_photos

pytestmark = [pytest.mark.slow, needs_photos]
DAMAGED = np.uint64(issues.mask(["truncated", "unreadable", "corrupt", "not-an-image"]))
NUM_TRIALS = 1000
# Name: number of places, bytes overwritten in each, what with, and the least share to be seen (below the rates measured on these photos).
KINDS: dict[str, tuple[int, int, Callable[[np.random.Generator, int], bytes], float]] = {
    "1 random byte": (1, 1, np.random.Generator.bytes, 0.15),
    "16 random bytes in a row": (1, 16, np.random.Generator.bytes, 0.4),
    "16 random bytes, each elsewhere": (16, 1, np.random.Generator.bytes, 0.8),
    "512 zeros": (1, 512, lambda _, size: bytes(size), 0.9),
    "512 random bytes": (1, 512, np.random.Generator.bytes, 0.8),
}


def read(name: str) -> list[bytes]:
    with zipfile.ZipFile(PHOTOS / name) as archive:
        return [archive.read(entry) for entry in archive.infolist() if not entry.is_dir()]


def seen_by_scan(content: bytes) -> bool:
    return bool(np.uint64(examine(content).found) & DAMAGED)


def seen_by_pillow(content: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except DECODING_ERRORS:
        return True
    return False


def test_random_damage() -> None:
    photos = read("cats_dogs_photos.zip")
    generator = np.random.default_rng(0)
    print("\n| damage | Pillow's load() | scan |\n|---|---|---|")  # noqa: T201
    for kind, (places, size, new, least) in KINDS.items():
        seen = []
        for _ in range(NUM_TRIALS):
            content = photos[generator.integers(len(photos))]
            damaged = content
            for position in map(int, generator.integers(scan_data(content), len(content) - 2 - size, places)):
                damaged = damaged[:position] + new(generator, size) + damaged[position + size :]
            if damaged == content:
                continue
            seen.append((seen_by_pillow(damaged), seen_by_scan(damaged)))
        by_pillow, by_scan = np.mean(seen, axis=0)
        print(f"| {kind} | {by_pillow:.1%} | {by_scan:.1%} |")  # noqa: T201
        assert by_scan >= least


def test_clean_photos_are_not_called_damaged() -> None:
    clean = read("cifar10_photos.zip") + read("cats_dogs_photos.zip")
    flagged = sum(map(seen_by_scan, clean))
    print(f"{flagged} of {len(clean)} clean photos are called damaged")  # noqa: T201
    assert flagged <= 0.002 * len(clean)
