"""Hybrids of two recorded runs: trained in a clone with a DVC cache of its own, each once, and recorded as ordinary runs."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.flight.errors import CommandError
from stages.flight.record import journal, recorder_process
from stages.flight.record.names import STAGES
from stages.flight.runs import frozen_images, replay_workspace, rerun
from stages.flight.runs.ablation import Factor
from stages.flight.runs.changes import plain_params
from stages.flight.runs.outcome import SEEDS
from stages.flight.runs.run import KILLED_KINDS, Run, from_folder
from stages.shared import files

FOLDER = "ablations"
ENVIRONMENT = ("packages", "python", "hardware", "settings")
RESULTS, LOCK = "results.json", "lock"
ACCURACY = "evaluate/accuracy"


class Hybrids:
    """What lies between ``first`` and ``last``. Results are kept at once, so that a test that was cut off goes on where it was.

    They are of the factors and of the environment (``present``, as ``capture.environment`` gives it) that they were trained with.
    """

    def __init__(
        self, first: Run, last: Run, made: Sequence[Factor], present: Mapping[str, Any], root: Path, tell: Callable[[str], None]
    ) -> None:
        self._first, self._last, self._made, self._root, self._tell = first, last, made, root, tell
        self._base = root / journal.RECORDS_FOLDER / FOLDER / f"{first.id}-{last.id}"
        self._base.mkdir(parents=True, exist_ok=True)
        self._key = _digest([[asdict(factor) for factor in made], {name: present[name] for name in ENVIRONMENT}])
        kept = files.read_json(self._base / RESULTS) if (self._base / RESULTS).is_file() else {}
        self._known: dict[str, dict[str, Any]] = kept["results"] if kept.get("key") == self._key else {}
        self._clone: Path | None = None

    @property
    def num_known(self) -> int:
        """How many trainings an earlier test has left."""
        return len(self._known)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other test of the same runs meanwhile; afterwards the clone is removed, while results and recorded runs stay.

        The cache goes when the test is done: one that is cut off finds there what its trainings have in common.

        Raises:
            CommandError: if another test of them is at work.
        """
        with (self._base / LOCK).open("ab") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CommandError(f"these two runs are being tested already, in {self._base}. Expected to be the only one") from error
            if not self._known:  # DVC knows nothing of packages and machines: what it has kept may be of others
                shutil.rmtree(self._base / replay_workspace.CACHE, ignore_errors=True)
            try:
                yield
                shutil.rmtree(self._base / replay_workspace.CACHE, ignore_errors=True)
            finally:
                for name in (replay_workspace.CLONE, rerun.SITE):
                    shutil.rmtree(self._base / name, ignore_errors=True)

    def measure(self, switched: frozenset[str], moved: int) -> float | None:
        """The accuracy of the hybrid whose ``switched`` factors are as in the last run, with the first's seeds moved on.

        If it failed: 0, if one of the two runs failed in the same way, and else None.

        Raises:
            CommandError: if it was ended from outside, or by a lack of memory: that says nothing of what was switched.
        """
        key = " + ".join([*sorted(switched), f"seeds {moved:+d}"])
        if key not in self._known:
            self._tell(f"training {len(self._known) + 1}: {key}")
            self._known[key] = self._train([factor for factor in self._made if factor.name in switched], moved)
            files.write_json(self._base / RESULTS, {"key": self._key, "results": self._known})
        accuracy, failed = self._known[key]["accuracy"], self._known[key]["failure"]
        self._tell(f"  it failed: {failed}" if accuracy is None else f"  accuracy {accuracy:.3f}")
        if accuracy is None:
            return 0.0 if failed and failed in [_failure(run) for run in (self._first, self._last)] else None
        return float(accuracy)

    def _train(self, switched: Sequence[Factor], moved: int) -> dict[str, Any]:
        folder = self._prepare(switched)
        (folder / "params.yaml").unlink(missing_ok=True)
        YAML(typ="safe").dump(self._params(switched, moved), folder / "params.yaml")
        source = self._last if any(factor.images for factor in switched) else self._first
        replay_workspace.put(source.folder / "dvc.lock", folder / "dvc.lock")
        frozen_images.take(source, self._root, folder, self._base / replay_workspace.CACHE, self._tell)
        python, experiment = Path(sys.executable), str(journal.read_run(self._first.folder)[0]["mlflow_experiment"])
        variables = rerun.environment(python, experiment, os.environ, self._base)
        record = rerun.run_stages(folder, STAGES[1:-1], python, variables, self._base / rerun.LOG, lambda _: None)
        if record is None:  # DVC had all of it
            return {"accuracy": files.read_json(folder / "reports/evaluate/metrics.json")["accuracy"], "failure": None, "run": None}
        log = journal.Journal(record)
        names = ", ".join(factor.name for factor in switched) or "nothing"
        log.write("name", name=f"{self._first.id} with {names} of {self._last.id}" + (f", seeds {moved:+d}" if moved else ""))
        log.write("hybrid", of=[self._first.id, self._last.id], switched=[factor.name for factor in switched])
        home = rerun.bring_home(record, folder, self._root)
        recorder_process.ensure(home, self._root)
        made = from_folder(home)
        return {"accuracy": _accuracy(made), "failure": _failure(made), "run": made.id}

    def _prepare(self, switched: Sequence[Factor]) -> Path:
        """The clone with the code of one of the runs."""
        if self._clone is None:
            shutil.rmtree(self._base / replay_workspace.CLONE, ignore_errors=True)
            self._base.mkdir(parents=True, exist_ok=True)
            self._clone = replay_workspace.clone_of(self._root, self._base)
        source = self._last if any(factor.code for factor in switched) else self._first
        return replay_workspace.checkout(self._clone, replay_workspace.find_code(source, self._root), self._root, self._base)

    def _params(self, switched: Sequence[Factor], moved: int) -> dict[str, Any]:
        """The first run's, those of ``switched`` as the last run's, with images where those came from, and the seeds moved on."""
        params, others = copy.deepcopy(plain_params(self._first.folder)), plain_params(self._last.folder)
        if any(factor.images for factor in switched):
            params["ingest"] = others["ingest"]
        for name in (name for factor in switched for name in factor.params):
            _set(params, others, name.split("."))
        for name in SEEDS:
            section, _, key = name.partition(".")
            params[section][key] = int(params[section][key]) + moved
        return params


def _accuracy(run: Run) -> float | None:
    if run.ended is None or (run.failure and run.failure["kind"] in (*KILLED_KINDS, "out-of-memory")):
        cause = run.failure["cause"] if run.failure else "its record has no end"
        raise CommandError(f"the training {run.id} was ended before it could tell anything: {cause}. To go on, type the same again")
    return run.metrics.get(ACCURACY) if run.failure is None else None


def _failure(run: Run) -> str | None:
    """How it failed, without the numbers of its message."""
    records = journal.read_run(run.folder)
    error = next((record.get("error") for record in records if record["type"] == "failure"), None)
    return f"{run.failure['stage']}, {run.failure['kind']}, {error}" if run.failure else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _set(target: dict[str, Any], source: Any, keys: Sequence[str]) -> None:
    """Make one value as it is in ``source``, or remove it, if it is absent there."""
    for key in keys[:-1]:
        target = target.setdefault(key, {})
        source = source.get(key, {}) if isinstance(source, dict) else {}
    if isinstance(source, dict) and keys[-1] in source:
        target[keys[-1]] = source[keys[-1]]
    else:
        target.pop(keys[-1], None)
