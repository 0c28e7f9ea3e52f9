"""A training between two recorded runs: made once, recorded, and kept for the next test of the same runs."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from stages.flight.errors import CommandError
from stages.flight.record import capture, journal
from stages.flight.runs import ablation_plan
from stages.flight.runs.ablation import Factor
from stages.flight.runs.hybrids import Hybrids
from stages.flight.runs.run import from_folder
from tests import snapshot, tiny

RATE = Factor("train.learning_rate", ("train.learning_rate",))


def test_a_hybrid_is_trained_once_for_the_same_environment(trained: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(trained, clone, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db", "mlruns"))
    tiny.set_params(clone, {"train.learning_rate": 0.0, "evaluate.export": ["int8"]})
    with (clone / "README.md").open("a") as readme:
        readme.write("More.\n")
    tiny.run(clone, "dvc", "repro", check=False)  # which fails before the first step
    tiny.wait_for_recorders(clone)
    records = clone / ".flight/runs"
    first, last = (from_folder(folder) for folder in sorted(records.glob("[!.]*/")))
    planned = ablation_plan.plan(first, last, [last, first], clone)
    assert (planned.factors, planned.ends.last) == ((RATE,), {0: 0.0}), "no text and no export reaches a training"
    with pytest.raises(CommandError, match="both failed"):
        ablation_plan.plan(last, last, [last, first], clone)
    present, before = capture.environment(), snapshot.take(clone)

    def hybrids(environment: dict[str, object]) -> Hybrids:
        return Hybrids(first, last, [RATE], environment, clone, lambda _: None)

    with contextlib.suppress(KeyboardInterrupt), hybrids(present).alone():  # as Ctrl-C ends it
        assert hybrids(present).measure(frozenset(["train.learning_rate"]), 0) == 0.0, "it failed as the last run did"
        with pytest.raises(CommandError, match="being tested already"), hybrids(present).alone():
            pass
        raise KeyboardInterrupt
    tiny.wait_for_recorders(clone)
    assert snapshot.take(clone) == before
    made = [from_folder(folder) for folder in records.glob("[!.]*/") if folder not in (first.folder, last.folder)]
    assert [(run.failure or {}).get("stage") for run in made] == ["train"]
    assert made[0].params == {**first.params, "train.learning_rate": 0.0}, "and nothing else is as in the last run"
    found = next(record for record in journal.read_run(made[0].folder) if record["type"] == "hybrid")
    assert (found["of"], found["switched"]) == ([first.id, last.id], ["train.learning_rate"])
    assert hybrids(present).measure(frozenset(["train.learning_rate"]), 0) == 0.0
    assert len(list(records.glob("[!.]*/"))) == 3, "what is known is not trained again"
    (cache,) = clone.glob(".flight/ablations/*/cache")
    with hybrids({**present, "packages": {"numpy": "1.0"}}).alone():
        assert not cache.exists(), "which DVC would take for trainings with these packages"
