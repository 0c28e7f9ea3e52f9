"""What recording costs: processor time inside the training process, and the recorder's share of a core.

``python -m tests.benchmarks.overhead [REPEATS]`` trains a few epochs on the sample, again and again, in a clone of this tree.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests import tiny

EPOCHS = 4
# Student's t, 95 % two-sided, by degrees of freedom.
T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}

# Wraps what recording and probing add to a training: processor time, of all threads, since TensorFlow computes in its own; and the seconds
# of every call.
MEASURE = """
import functools, json, time
from stages import train as stage
from stages.flight.record.journal import Journal
from stages.flight.record.keras_callback import JournalCallback
from stages.shared.training.collector import EvidenceCollector, StopWhenHopeless
from stages.shared.training.probe import Prober

spent, calls, depth = {}, {}, 0

def measured(owner, name):
    inner = getattr(owner, name)
    @functools.wraps(inner)
    def call(*arguments, **options):
        global depth
        depth += 1
        begun = time.process_time(), time.monotonic()
        try:
            return inner(*arguments, **options)
        finally:
            depth -= 1
            if not depth:
                key = f"{owner.__name__}.{name}"
                spent[key] = spent.get(key, 0) + time.process_time() - begun[0]
                calls.setdefault(key, []).append(time.monotonic() - begun[1])
    setattr(owner, name, call)

for owner in (JournalCallback, EvidenceCollector, StopWhenHopeless):
    for name in [name for name in vars(owner) if name.startswith("on_")]:
        measured(owner, name)
for owner, name in ((Prober, "ask"), (Prober, "look_at_inputs"), (Journal, "write")):
    measured(owner, name)
train = stage.train
total = {"seconds": 0.0, "processor": 0.0}

def timed(*arguments, **options):
    begun = time.monotonic(), time.process_time()
    try:
        return train(*arguments, **options)
    finally:
        total["seconds"] += time.monotonic() - begun[0]
        total["processor"] += time.process_time() - begun[1]

stage.train = timed
import os
from pathlib import Path
stage.main(Journal(Path(os.environ["FOLDER"])))
print("MEASURED" + json.dumps({"spent": spent, "calls": calls, "total": total}))
"""


def interval(values: list[float]) -> str:
    """Mean and 95 % interval by Student's t."""
    mean = statistics.mean(values)
    half = T[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.4f} ({max(0.0, mean - half):.4f} to {mean + half:.4f})"


def measure(clone: Path) -> dict[str, Any]:
    """One training with all that is added to it measured: ``spent`` by part, ``calls`` by part, and in ``total`` the whole."""
    with tempfile.TemporaryDirectory() as folder:
        done = tiny.run(clone, "env", f"FOLDER={folder}", "python", "-c", MEASURE)
    return dict(json.loads(done.stdout.split("MEASURED")[1]))


def inside(clone: Path) -> tuple[float, dict[str, float]]:
    """The share of recording in the processor time of the epochs, and of each part."""
    found = measure(clone)
    total = found["total"]["processor"]
    return sum(found["spent"].values()) / total, {name: value / total for name, value in found["spent"].items()}


def recorder(clone: Path, seed: int) -> tuple[float, float]:
    """The recorder's processor time over the time of the training stage: the whole, and once it has loaded MLflow."""
    tiny.set_params(clone, {"train.seed": seed})
    shutil.rmtree(clone / ".flight")  # so that the record waited for is the one to come
    dvc = tiny.start(clone, "dvc", "repro", "train")
    started = tiny.wait_for_record(clone, type="stage-start", stage="train")
    process = next(found for found in tiny.processes(clone) if "stages.flight.record.recorder" in found.cmdline())
    stage = psutil.Process(started["process"]["pid"])
    samples = []
    while stage.is_running() and stage.status() != psutil.STATUS_ZOMBIE:
        used = process.cpu_times()
        samples.append((time.monotonic(), used.user + used.system))
        time.sleep(0.5)
    dvc.communicate()
    tiny.wait_for_recorders(clone)
    middle = len(samples) // 2
    return tuple((samples[-1][1] - first[1]) / (samples[-1][0] - first[0]) for first in (samples[0], samples[middle]))  # type: ignore[return-value]


def main() -> None:
    """Print both figures with their intervals."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(tiny.ROOT), str(clone)], check=True)
        tiny.set_params(clone, {"train.epochs": EPOCHS})
        tiny.run(clone, "dvc", "repro")
        tiny.wait_for_recorders(clone)
        shares, parts = zip(*(inside(clone) for _ in range(repeats)), strict=True)
        print(f"inside the training process, share of its processor time: {interval(list(shares))}")  # noqa: T201
        for name in parts[0]:
            print(f"  {name}: {interval([part[name] for part in parts])}")  # noqa: T201
        whole, steady = zip(*(recorder(clone, seed) for seed in range(1, repeats + 1)), strict=True)
        print(f"recorder, share of a core over the stage: {interval(list(whole))}")  # noqa: T201
        print(f"recorder, share of a core in the second half: {interval(list(steady))}")  # noqa: T201


if __name__ == "__main__":
    main()
