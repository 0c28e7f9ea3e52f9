"""A million images on paper: judged in time and memory that grow no faster than the number of images."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from tests.tiny import ROOT

pytestmark = pytest.mark.slow
SIZES = (10_000, 100_000, 1_000_000)
MAX_SECONDS, MAX_JOIN_SECONDS, MAX_BYTES = 15, 5, 1_500_000_000


def facts(num_images: int) -> pd.DataFrame:
    """What a scan tells of ``num_images`` images in 20 classes: one in a hundred has an issue, one in a hundred has a near-duplicate."""
    generator = np.random.default_rng(0)
    hashes = {
        name: generator.integers(0, 2**64 - 1, num_images, np.uint64) for name in ("dhash", "phash", "dhash_mirrored", "phash_mirrored")
    }
    copies = generator.choice(num_images // 2, num_images // 100, replace=False)
    for values in hashes.values():
        values[num_images - 1 - copies] = values[copies] ^ np.uint64(1 << 17)
    sides = generator.integers(200, 800, (2, num_images))
    bits = np.where(generator.random(num_images) < 0.01, np.uint64(1) << generator.integers(13, 20, num_images).astype(np.uint64), 0)
    return pd.DataFrame(
        {
            "path": pd.Series([f"class-{number % 20:02d}/image-{number:07d}.jpg" for number in range(num_images)], dtype="str"),
            "sha256": pd.Series([f"{number * 0x9E3779B97F4A7C15 % 2**64:064x}" for number in range(num_images)], dtype="str"),
            "num_bytes": generator.integers(10_000, 200_000, num_images),
            "found": bits.astype(np.uint64),
            "width": sides[0].astype(np.int32),
            "height": sides[1].astype(np.int32),
            "mode": pd.Series(["RGB"] * num_images, dtype="str"),
            "format": pd.Series(["JPEG"] * num_images, dtype="str"),
            **hashes,
            **{name: generator.normal(0.5, 0.05, num_images) for name in ("brightness", "dark_end", "bright_end", "contrast", "colour")},
            "sharpness": 10 ** generator.normal(3, 0.3, num_images),
            "entropy": generator.normal(7, 0.2, num_images),
        }
    )


def measure(num_images: int) -> None:
    """Print seconds of the judgement, seconds of the join within it, and the peak of memory in bytes."""
    from stages import validate
    from stages.shared.params import load
    from stages.shared.quality import duplicates

    validate.validate(facts(100), load(ROOT / "params.yaml").validate_)  # imports Great Expectations
    table = facts(num_images)
    begin = time.perf_counter()
    verdict = validate.validate(table, load(ROOT / "params.yaml").validate_)
    judged = time.perf_counter() - begin
    hashes = [table[name].to_numpy() for name in ("dhash", "phash", "dhash_mirrored", "phash_mirrored")]
    begin = time.perf_counter()
    pairs = duplicates.near_pairs((hashes[0], hashes[1]), (hashes[2], hashes[3]), 2)
    joined = time.perf_counter() - begin
    assert len(verdict.manifest) == num_images
    assert len(pairs) == num_images // 100
    sys.stdout.write(f"{judged} {joined} {peak_bytes()}\n")


def peak_bytes() -> int:
    """The most memory that this process has held (getrusage gives KiB on Linux, bytes on macOS)."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_a_million_rows() -> None:
    figures = {}
    for num_images in SIZES:
        code = f"from tests.benchmarks.test_million_rows import measure; measure({num_images})"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        judged, joined, peak = map(float, done.stdout.split())
        figures[num_images] = judged
        print(f"{num_images:>9} rows: judged in {judged:.2f} s, join {joined:.2f} s, peak {peak / 1e6:.0f} MB")  # noqa: T201
    assert judged <= MAX_SECONDS
    assert joined <= MAX_JOIN_SECONDS
    assert peak <= MAX_BYTES
    assert figures[SIZES[2]] <= 15 * figures[SIZES[1]]
