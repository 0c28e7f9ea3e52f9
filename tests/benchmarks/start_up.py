"""Seconds from `dvc repro` to the end of the first training step, and of a `dvc repro` with nothing to do.

``python -m tests.benchmarks.start_up [TREE]`` measures in a clone of this tree or of another one, such as a checkout of an older commit.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import tiny
from tests.benchmarks.injection import inject
from tests.benchmarks.moments import FILE

REPEATS = 5
NUM_STAGES = 7
PARTS = ("DVC and the launcher", "imports", "data and model", "tracing and the first step")


def parts(clone: Path, seed: int) -> list[float]:
    """Seconds of each part, in a training that DVC must run."""
    tiny.set_params(clone, {"train.seed": seed})
    begun = time.time()
    tiny.run(clone, "dvc", "repro", "train")
    tiny.wait_for_recorders(clone)
    found = json.loads((clone / FILE).read_text().splitlines()[-1])
    ends = [begun, found["process"], found["imported"], found["first_step"], found["trained"]]
    return [end - start for start, end in itertools.pairwise(ends)]


def bare_pipeline(folder: Path) -> Path:
    """As many stages that do nothing."""
    folder.mkdir()
    stages = {
        f"stage{number}": {"cmd": f"touch out{number}", "deps": [f"out{number - 1}"] if number else [], "outs": [f"out{number}"]}
        for number in range(NUM_STAGES)
    }
    (folder / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    tiny.run(folder, "git", "init", "-q")
    tiny.run(folder, "dvc", "init", "-q")
    tiny.run(folder, "dvc", "repro")
    return folder


def repro_seconds(folder: Path) -> float:
    """Wall time of `dvc repro` with nothing to do."""
    begun = time.perf_counter()
    assert "didn't change" in tiny.run(folder, "dvc", "repro").stdout
    return time.perf_counter() - begun


def main() -> None:
    """Print both tables."""
    tree = Path(sys.argv[1] if len(sys.argv) > 1 else tiny.ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        clone = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", str(tree), str(clone)], check=True)
        tiny.write_images(clone / "data/sample/tiny.zip")
        tiny.set_params(clone, {name: value for name, value in tiny.TINY.items() if name != "evaluate.export"})
        shutil.copytree(tiny.ROOT / "tests/benchmarks", clone / "tests/benchmarks", dirs_exist_ok=True)
        inject(clone, "train", "moments")
        tiny.run(clone, "dvc", "repro")
        tiny.wait_for_recorders(clone)
        bare = bare_pipeline(folder / "bare")
        pairs = [(repro_seconds(clone), repro_seconds(bare)) for _ in range(REPEATS)]
        ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        print(f"nothing to do: {ours:.2f} s, a bare pipeline of {NUM_STAGES} stages {theirs:.2f} s, ratio {ratio:.2f}")  # noqa: T201
        measured = [parts(clone, seed) for seed in range(1, REPEATS + 1)]
        for name, seconds in zip(PARTS, zip(*measured, strict=True), strict=True):
            print(f"{name}: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})")  # noqa: T201
        print(f"from `dvc repro` to the end of the first step: {statistics.median(map(sum, measured)):.1f} s")  # noqa: T201


if __name__ == "__main__":
    main()
