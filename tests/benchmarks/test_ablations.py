"""``flight diff A B --test`` on five pairs of runs whose cause is planted among differences that do next to nothing."""

from __future__ import annotations

import json
import random
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from stages.flight.record import journal
from tests import snapshot, tiny

IMAGES_PER_CLASS = 250
FLIPPED_SHARE = 0.3
PROFILE = {"train.epochs": 8}
DECOYS: dict[str, object] = {"train.dropout": 0.25, "train.weight_decay": 1e-4}
TOO_STRONG: dict[str, object] = {
    "augment.rotation_degrees": 30,
    "augment.width_shift": 0.2,
    "augment.height_shift": 0.2,
    "augment.zoom": 0.3,
    "augment.shear": 0.2,
    "augment.brightness": 0.3,
    "augment.contrast": 0.3,
    "augment.random_erasing": 0.5,
}
SEEDS: dict[str, object] = {"train.seed": 7, "augment.seed": 7}
# Pair → parameters of B, whether its code is changed, and how the cause's name begins.
PAIRS: dict[str, tuple[dict[str, object], bool, str | None]] = {
    "learning rate": ({"train.learning_rate": 1e-5, **DECOYS}, False, "train.learning_rate"),
    "flipped labels": ({"ingest.source": "data/sample/flipped.zip", **DECOYS}, False, "images"),
    "augmentation": ({**TOO_STRONG, **DECOYS}, False, "augmentation"),
    "code": (DECOYS, True, "code"),
    "seed": (SEEDS, False, None),
}


@pytest.mark.slow
def test_the_planted_cause_of_five_pairs_is_named_first(tmp_path: Path) -> None:
    clone = _clone(tmp_path / "clone")
    params, batches = clone / "params.yaml", clone / "stages/shared/training/batches.py"
    original, sound = params.read_text(), batches.read_text()
    first = _run(clone)
    runs = {}
    for pair, (values, has_slip, _) in PAIRS.items():
        tiny.set_params(clone, values)
        if has_slip:
            batches.write_text(_with_slip(sound))
        runs[pair] = _run(clone)
        params.write_text(original)
        batches.write_text(sound)
    before = snapshot.take(clone)
    named = {}
    for pair, (_, _, cause) in PAIRS.items():
        begun = time.perf_counter()
        command = ["flight", "diff", first, runs[pair], "--test", "--json"]
        done = subprocess.run(command, cwd=clone, env=tiny.environment(), input="y\n", capture_output=True, text=True, check=False)
        answer = json.loads(done.stdout)["test"]
        named[pair] = (answer["cause"], cause)
        minutes = (time.perf_counter() - begun) / 60
        print(f"| {pair} | {answer['sentence']} | {minutes:.1f} min |\n{done.stderr}", flush=True)  # noqa: T201
    tiny.wait_for_recorders(clone)
    assert snapshot.take(clone) == before
    for pair, (found, cause) in named.items():
        assert found is None if cause is None else (found or "").startswith(cause), f"{pair}: {found}"


def _with_slip(code: str) -> str:
    """The labels of a batch are those of the images before."""
    begin = "        changed = change(list(self.read(rows[part]))"
    assert begin in code
    return code.replace(begin, begin.replace("self.read(rows[part])", "self.read(np.roll(rows, 1)[part])"))


def _clone(folder: Path) -> Path:
    clone = tiny.make(folder)
    with zipfile.ZipFile(tiny.ROOT / "data/sample/fashion_mnist.zip") as sample:
        names = [name for label in tiny.CLASSES for name in sorted(_of_class(sample, label))[:IMAGES_PER_CLASS]]
        _write(clone / "data/sample/tiny.zip", sample, {name: name for name in names})
        chosen = set(random.Random(0).sample(names, round(FLIPPED_SHARE * len(names))))  # noqa: S311
        _write(clone / "data/sample/flipped.zip", sample, {name: _flipped(name) if name in chosen else name for name in names})
    tiny.set_params(clone, PROFILE)
    tiny.commit(clone, "more images")
    return clone


def _of_class(sample: zipfile.ZipFile, label: str) -> list[str]:
    return [name for name in sample.namelist() if name.startswith(f"{label}/")]


def _flipped(name: str) -> str:
    """The next class, by a name that no other image has."""
    label, _, file = name.partition("/")
    return f"{tiny.CLASSES[(tiny.CLASSES.index(label) + 1) % len(tiny.CLASSES)]}/was-{file}"


def _write(archive: Path, sample: zipfile.ZipFile, names: dict[str, str]) -> None:
    with zipfile.ZipFile(archive, "w") as written:
        for name, target in names.items():
            written.writestr(zipfile.ZipInfo(target), sample.read(name))


def _run(clone: Path) -> str:
    """The id of a run of the clone as it is now."""
    tiny.run(clone, "dvc", "repro", check=False)
    tiny.wait_for_recorders(clone)
    return max(clone.glob(f"{journal.RECORDS_FOLDER}/runs/[!.]*/")).name
