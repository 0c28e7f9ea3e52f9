"""The README's commands do what it says, in a clone."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.flight.record.names import STAGES
from stages.shared import params
from tests import tiny
from tests.imports import ROOT

README = (ROOT / "README.md").read_text()
# These serve until they are stopped, test what is being tested, take long and have tests of their own, or are shown with their output.
NOT_RUN = {
    "make ui",
    "make test",
    "make test-slow",
    "flight replay latest",
    "python -m tests.tiny ../tiny",
    "dvc exp run -S train.learning_rate=3",
}


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [line[2:].split("  #")[0].strip() for line in lines]


def test_the_first_screen() -> None:
    first = README.splitlines()[:45]
    text = "\n".join(first)
    assert "why did this training run fail" in text
    assert "$ make run" in text
    assert "$ make ui" in text
    assert "$ dvc exp run -S" in text


def test_the_transcript_is_what_the_diagnosis_says() -> None:
    """The sentence and the fix in the transcript are in the form that the rules give today."""
    transcript = README[README.index("transcript: begin") : README.index("transcript: end")]
    assert re.search(r"^learning-rate-too-high: the loss reached .* Try: dvc exp run -S train\.learning_rate=", transcript, re.MULTILINE)


def test_the_yaml_of_own_photos_is_valid() -> None:
    block = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert block is not None
    changed = YAML(typ="safe", pure=True).load(block[1])
    values = params.read_yaml(ROOT / "params.yaml")
    for section, keys in changed.items():
        assert keys.keys() <= values[section].keys()
        values[section].update(keys)
    assert params.parse(values).train.alpha == 1.0


def test_every_command_works(clone: Path) -> None:
    """In the order of the page, in one clone; a verdict other than healthy (exit code 1) is an answer."""
    tiny.commit(clone, "lock")
    (clone / ".venv").symlink_to(sys.prefix)
    tiny.run(clone, "python", "-m", "stages", "augment")  # everything else is there already, so that the first command makes no run
    ran = []
    for command in commands():
        if command in NOT_RUN:
            continue
        words = shlex.split(command)
        if words[0] == "make":  # the environment is there already
            words = ["make", "-o", ".venv/requirements.lock", *words[1:]]
        done = tiny.run(clone, *words, check=False)
        assert done.returncode <= (1 if words[0] == "flight" else 0), f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stdout + done.stderr
        ran.append(command.split()[0])
    assert {"make", "dvc", "flight"} <= set(ran)
    assert (clone / "dvc_plots/index.html").is_file()
    tiny.wait_for_recorders(clone)
    tags = tiny.mlflow_runs(clone)[0].data.tags  # of the experiment with another learning rate
    assert [stage for stage in STAGES if tags[f"stage.{stage}"] == "ran"] == ["train", "evaluate", "diagnose"]


@pytest.mark.parametrize("version", ["3.10.2", "3.14.0"])
def test_a_wrong_python_is_told_in_one_line(tmp_path: Path, version: str) -> None:
    """With a stand-in for ``python3`` that calls itself another version."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    numbers = tuple(map(int, version.split(".")))
    stand_in = tmp_path / "python3"
    pretend = f"import sys; sys.version_info = {numbers}; sys.version = '{version} (x)'; exec(sys.argv[2])"
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{pretend}" "$@"\n')
    stand_in.chmod(0o755)
    done = tiny.run(tmp_path, "make", "run", f"PYTHON={stand_in}", check=False)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(told) == 1
    assert "needs Python 3.11, 3.12 or 3.13" in told[0]
    assert version in told[0]
    assert not (tmp_path / ".venv").exists()
