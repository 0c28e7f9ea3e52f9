"""Sixteen runs of different kinds, replayed: twelve in their own clone, four in a colleague's; the user's things are as before."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.flight.record import journal
from tests import snapshot, strike, tiny

LONG = {"train.epochs": 60, "evaluate.gates": {"accuracy": {"min": 0.0}}}
SHARED = ("healthy", "a dirty tree", "an exception", "Ctrl-C")


def _repro(clone: Path, *options: str) -> None:
    tiny.run(clone, "dvc", "repro", *options, check=False)


def _params(values: dict[str, object]) -> Callable[[Path, Path], None]:
    def record(clone: Path, _: Path) -> None:
        tiny.set_params(clone, values)
        _repro(clone)

    return record


def _struck(way: str) -> Callable[[Path, Path], None]:
    def record(clone: Path, folder: Path) -> None:
        tiny.set_params(clone, LONG | {"train.seed": sum(way.encode())})
        found, _ = strike.run(clone, folder, "train", way, 14)
        assert found is not None, "the training was over too soon"

    return record


def _resumed(clone: Path, folder: Path) -> None:
    _struck("SIGKILL to the stage")(clone, folder)
    tiny.wait_for_recorders(clone)
    _repro(clone)


def _code(stage: str, text: str, helper: str = "") -> Callable[[Path, Path], None]:
    def record(clone: Path, _: Path) -> None:
        if helper:
            (clone / "stages/helper.py").write_text(helper)
        path = clone / f"stages/{stage}.py"
        path.write_text(
            path.read_text().replace("def main(log: journal.Journal) -> None:\n", f"def main(log: journal.Journal) -> None:\n{text}")
        )
        _repro(clone)

    return record


def _experiment(clone: Path, _: Path) -> None:
    tiny.run(clone, "dvc", "exp", "run", "-S", "train.dropout=0.3")


def _queued(clone: Path, _: Path) -> None:
    tiny.run(clone, "dvc", "exp", "run", "--queue", "-S", "train.dropout=0.4")
    tiny.run(clone, "dvc", "exp", "run", "--run-all")


def _rejected(clone: Path, _: Path) -> None:
    with zipfile.ZipFile(clone / "data/sample/tiny.zip") as whole, zipfile.ZipFile(clone / "data/sample/broken.zip", "w") as broken:
        for number, name in enumerate(whole.namelist()):
            content = whole.read(name)
            broken.writestr(zipfile.ZipInfo(name), content[: len(content) // 2] if number == 7 else content)
    tiny.set_params(
        clone, {"ingest.source": "data/sample/broken.zip", "validate.policy.truncated": "fail", "validate.policy.corrupt": "fail"}
    )
    _repro(clone)


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "healthy": lambda clone, _: _repro(clone),
    "cached stages": _params({"evaluate.gates": {"accuracy": {"min": 0.05}}}),
    "a dirty tree": _code("augment", "    log.say('augmenting')\n"),
    "an untracked file": _code(
        "augment", "    from stages import helper\n\n    helper.greet(log)\n", "def greet(log):\n    log.say('hello')\n"
    ),
    "mixup, oversampling": _params({"augment.mixup": 0.2, "augment.balancing": "oversample", "train.epochs": 3}),
    "dvc exp run": _experiment,
    "a queued experiment": _queued,
    "resumed after a kill": _resumed,
    "an exception": _code("train", "    raise RuntimeError('a bug')\n"),
    "no memory": _code("train", "    import numpy\n\n    numpy.ones(1 << 45)\n"),
    "rejected data": _rejected,
    "a diverged training": _params({"train.optimizer": "sgd", "train.momentum": 0.99, "train.learning_rate": 1e6}),
    "SIGKILL": _struck("SIGKILL to the stage"),
    "SIGTERM": _struck("SIGTERM to dvc"),
    "Ctrl-C": _struck("Ctrl-C"),
    "power loss": _struck("power loss"),
}


@pytest.mark.slow
def test_replays_of_sixteen_kinds_of_runs(trained: Path, tmp_path: Path) -> None:
    """Each is recorded in a copy of one clone, and replayed there, or in a fresh clone that got it by ``flight share``."""
    levels = {}
    for number, (kind, record) in enumerate(KINDS.items()):
        clone = shutil.copytree(trained, tmp_path / f"{number}", symlinks=True, ignore=shutil.ignore_patterns(*tiny.MADE_BY_RUNS))
        if kind == "healthy":
            tiny.set_params(clone, {"train.seed": 5})
        record(clone, tmp_path / f"injection-{number}")
        tiny.wait_for_recorders(clone)
        tiny.run(clone, "flight", "runs")  # which closes what nobody has closed
        run = max(clone.glob(".flight/runs/[!.]*/")).name
        failure = next(one for one in reversed(journal.read_run(clone / ".flight/runs" / run)) if one["type"] == "end")["failure"]
        place = _colleague(clone, run, tmp_path / f"colleague-{number}") if kind in SHARED else clone
        before = snapshot.take(place)
        done = tiny.run(place, "flight", "replay", run, "--json", check=False)
        answer = json.loads(done.stdout) if done.stdout else {"level": done.stderr, "reason": "", "identical": None}
        tiny.wait_for_recorders(place)
        untouched = snapshot.take(place) == before
        levels[kind] = (answer["level"], untouched)
        ended = f"{failure['stage']}: {failure['kind']}" if failure else "finished"
        where = "a colleague's clone" if kind in SHARED else "its own clone"
        print(f"| {kind} | {ended} | {where} | {answer['level']} | {untouched} | {answer['reason']} |", flush=True)  # noqa: T201
        shutil.rmtree(clone)
    assert {level for level, _ in levels.values()} <= {"weights", "failure"}
    assert all(untouched for _, untouched in levels.values())


def _colleague(clone: Path, run: str, folder: Path) -> Path:
    """A fresh clone of a remote, which gets the run by what ``flight share`` says."""
    tiny.run(folder.parent, "git", "init", "-q", "--bare", f"{folder.name}.git")
    tiny.run(clone, "git", "remote", "add", "origin", str(folder.with_suffix(".git")))
    tiny.run(clone, "dvc", "remote", "add", "--default", "storage", str(folder.with_suffix(".storage")))
    tiny.run(clone, "git", *tiny.GIT_IDENTITY, "commit", "-q", "-m", "remote", ".dvc/config")
    tiny.run(clone, "git", "push", "-q", "origin", "HEAD:refs/heads/master")
    tiny.run(clone, "flight", "share", run, "--json")
    tiny.run(folder.parent, "git", "clone", "-q", "--branch", "master", str(folder.with_suffix(".git")), str(folder))
    tiny.run(folder, "git", "fetch", "-q", "origin", f"refs/flight/{run}:refs/flight/{run}")
    return folder
