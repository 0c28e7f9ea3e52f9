"""Keras on JAX beside Keras on TensorFlow, both on the CPU: the same batches to the bit, and an accuracy within the seeds' spread."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import pytest
from scipy.stats import ttest_ind

from tests import tiny

pytestmark = pytest.mark.slow
BACKENDS = ("tensorflow", "jax")
NUM_SEEDS = 4
NUM_EPOCHS = 8
# Every batch of two epochs, mixed ones too, in the process of a backend.
BATCHES = """
import hashlib, sys
from stages.shared import files, paths, prepared
from stages.shared.params import load
from stages.shared.sampling import SamplingPlan
from stages.shared.training.batches import TrainBatches
policy = load(paths.PARAMS).augment.model_copy(update={"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.3})
plan = SamplingPlan(**{name: tuple(values) for name, values in files.read_json(paths.AUGMENTED / "sampling.json").items()})
batches = TrainBatches(prepared.read(paths.PREPARED, "train"), plan, policy, 32, 0)
digest = hashlib.sha256()
for epoch in range(2):
    batches.start(epoch)
    digest.update(batches.order(batches.epoch).tobytes())
    for step in range(len(batches)):
        for array in batches[step]:
            digest.update(array.tobytes())
sys.exit("TensorFlow is loaded") if "tensorflow" in sys.modules and sys.argv[1] == "jax" else print(digest.hexdigest())
"""


def accuracy(clone: Path, backend: str, seed: int) -> float:
    """Of the chosen epoch, on the validation split."""
    tiny.set_params(clone, {"train.seed": seed})
    tiny.run(clone, "env", f"KERAS_BACKEND={backend}", "python", "-m", "stages.train")
    return float(json.loads((clone / "reports/train/metrics.json").read_text())["val_accuracy"])


def test_jax_compiles_whole_programs(tmp_path: Path) -> None:
    """And not each operation by itself: a training of two epochs compiled 1,501 programs that way, which took 100 s on a GPU."""
    clone = tiny.make(tmp_path / "clone")
    tiny.run(clone, "dvc", "repro", "augment")
    done = tiny.run(clone, "env", "KERAS_BACKEND=jax", "JAX_LOG_COMPILES=1", "python", "-m", "stages.train")
    num_compiled = done.stderr.count("Finished XLA compilation")
    print(f"\n{num_compiled} programs")  # noqa: T201
    assert 0 < num_compiled < 200


def test_the_same_on_both(tmp_path: Path) -> None:
    clone = tiny.make(tmp_path / "clone")
    tiny.set_params(clone, {"train.epochs": NUM_EPOCHS, "train.batchnorm_recalibration_images": 245})
    tiny.run(clone, "dvc", "repro", "augment")
    digests = [
        tiny.run(clone, "env", f"KERAS_BACKEND={backend}", sys.executable, "-c", BATCHES, backend).stdout.strip() for backend in BACKENDS
    ]
    assert digests[0] == digests[1] != ""
    found = {backend: [accuracy(clone, backend, seed) for seed in range(NUM_SEEDS)] for backend in BACKENDS}
    for backend, values in found.items():
        print(f"\n{backend}: {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} of {values}")  # noqa: T201
    p_value = ttest_ind(*found.values(), equal_var=False).pvalue  # Welch 1947
    print(f"Welch's test: p = {p_value:.2f}")  # noqa: T201
    assert p_value > 0.05
