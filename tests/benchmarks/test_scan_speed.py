"""The scan beside cleanvision, on the same photos and the same two cores, and beside bare decoding; then 100,000 images."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import simplejpeg
from PIL import Image

from stages import validate
from stages.shared.params import load
from stages.shared.quality.scan import scan
from tests.benchmarks.photos import needs_photos, unpacked
from tests.tiny import ROOT

pytestmark = [pytest.mark.slow, needs_photos]
NUM_WORKERS = 2
NUM_REPEATS = 3
TIMES_CLEANVISION = 8
NUM_MANY, NUM_ADDED, MAX_BYTES, MAX_SECOND_SHARE = 100_000, 100, 1_000_000_000, 0.05
MAX_PAGE_BYTES = 5_000_000

SCAN = """
import joblib, sys, time
from pathlib import Path
joblib.cpu_count = lambda: {workers}
from stages.shared.quality.scan import scan
begin = time.perf_counter()
found = len(scan(Path(sys.argv[1]), Path(sys.argv[2])))
print(found, time.perf_counter() - begin)
"""
CLEANVISION = """
import sys, time
from cleanvision import Imagelab
begin = time.perf_counter()
lab = Imagelab(data_path=sys.argv[1], verbose=False)
lab.find_issues(n_jobs={workers}, verbose=False)
print(len(lab.issues), time.perf_counter() - begin, file=sys.stderr)
"""


def seconds(code: str, num_images: int, *arguments: Path) -> float:
    """What a program, started anew, says that its work has taken (imports left out)."""
    command = [sys.executable, "-c", code.format(workers=NUM_WORKERS), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found, taken = (done.stdout or done.stderr).strip().splitlines()[-1].split()
    assert int(found) == num_images
    return float(taken)


def bare_decoding(paths: list[Path]) -> float:
    """Seconds of one core for reading and strictly decoding all, at the same scale as the scan and nothing else."""
    begin = time.perf_counter()
    for path in paths:
        simplejpeg.decode_jpeg(path.read_bytes(), min_height=64, min_width=64)
    return time.perf_counter() - begin


@pytest.mark.parametrize("name", ["cats_dogs_photos.zip", "cifar10_photos.zip"])
def test_speed_beside_cleanvision(name: str, tmp_path: Path) -> None:
    photos = unpacked(name, tmp_path)
    paths = sorted(photos.rglob("*.jpg"))
    ratios, speeds, decoding = [], [], []
    for repeat in range(NUM_REPEATS):
        ours = seconds(SCAN, len(paths), photos, tmp_path / f"kept-{repeat}")
        theirs = seconds(CLEANVISION, len(paths), photos)
        decoding.append(bare_decoding(paths) / NUM_WORKERS)
        ratios.append(theirs / ours)
        speeds.append((len(paths) / ours, len(paths) / theirs))
        print(f"{name}: scan {speeds[-1][0]:.0f}/s, cleanvision {speeds[-1][1]:.0f}/s, ratio {ratios[-1]:.1f}")  # noqa: T201
        print(f"  bare decoding on two cores {len(paths) / decoding[-1]:.0f}/s; the scan takes {ours / decoding[-1]:.1f} times as long")  # noqa: T201
    assert statistics.median(ratios) >= TIMES_CLEANVISION


def test_a_hundred_thousand_images(tmp_path: Path) -> None:
    """Different photos, made of CIFAR-10's by changing a pixel; memory of the whole family of processes, sampled."""
    photos = unpacked("cifar10_photos.zip", tmp_path)
    originals = sorted(photos.rglob("*.jpg"))
    for number in range(NUM_MANY + NUM_ADDED):
        path = tmp_path / ("raw" if number < NUM_MANY else "added") / originals[number % len(originals)].parent.name / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(originals[number % len(originals)]) as image:
            image.putpixel((number // len(originals), 0), (255, 0, 0))
            image.save(path, quality=95)
    first, peak = _watched(tmp_path / "raw", tmp_path / "kept", NUM_MANY)
    shutil.copytree(tmp_path / "added", tmp_path / "raw", dirs_exist_ok=True)
    second, _ = _watched(tmp_path / "raw", tmp_path / "kept", NUM_MANY + NUM_ADDED)
    print(f"{NUM_MANY} images: {first:.1f} s, {NUM_MANY / first:.0f}/s; peak {peak / 1e6:.0f} MB")  # noqa: T201
    print(f"{NUM_ADDED} more: {second:.2f} s, {second / first:.1%}")  # noqa: T201
    facts = scan(tmp_path / "raw", tmp_path / "kept")
    begin = time.perf_counter()
    verdict = validate.validate(facts, load(ROOT / "params.yaml").validate_)
    judged = time.perf_counter() - begin
    validate.write(verdict, load(ROOT / "params.yaml").validate_, tmp_path / "raw", tmp_path / "manifest.parquet", tmp_path / "report")
    page = tmp_path / "report/index.html"
    opened = _opened(page)
    print(f"judged in {judged:.1f} s, page {page.stat().st_size / 1e6:.2f} MB, opened in {opened:.2f} s")  # noqa: T201
    assert page.stat().st_size < MAX_PAGE_BYTES
    assert opened < 1
    assert peak < MAX_BYTES
    assert second <= MAX_SECOND_SHARE * first


def _opened(page: Path) -> float:
    """Seconds until Chromium has drawn the page, pictures included."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page()
        begin = time.perf_counter()
        tab.goto(page.as_uri())
        tab.evaluate("Promise.all([...document.images].map(image => image.decode()))")
        seconds = time.perf_counter() - begin
        browser.close()
    return seconds


def _watched(raw: Path, results: Path, num_images: int) -> tuple[float, int]:
    """Seconds, and the most memory (proportional set size) of the scan with its worker processes."""
    command = [sys.executable, "-c", SCAN.format(workers=NUM_WORKERS), str(raw), str(results)]
    scanning = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process, peak = psutil.Process(scanning.pid), 0
    while scanning.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_full_info().pss for member in family))
            scanning.wait(0.25)
        except (psutil.Error, subprocess.TimeoutExpired):
            continue
    assert scanning.stdout is not None
    found, taken = scanning.stdout.read().split()
    assert int(found) == num_images
    return float(taken), peak
