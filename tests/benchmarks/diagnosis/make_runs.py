"""``python -m tests.benchmarks.diagnosis.make_runs FOLDER [part of a name…]``: runs every unit of which there is no result.

Results are in FOLDER, and those of earlier days in the tables of the repository; one of a unit that has been changed since counts no more.

This process has loaded all that a run needs and computes nothing: each run is a fork of it, which spares the loading, and may be killed.
Each computes on one core, for a second one gains a run of networks as small as these nothing (42 s on one, 46 s on two).
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Loaded here for the runs; TensorFlow must not compute before a fork.
import cleanlab.filter  # noqa: F401
import great_expectations  # noqa: F401
import joblib
import sklearn.decomposition
import sklearn.linear_model
import sklearn.model_selection
import sklearn.pipeline
import sklearn.preprocessing  # noqa: F401
import tensorflow

from stages.flight.record import journal
from stages.flight.runs import run as runs
from stages.shared import evidence, files
from tests.benchmarks.diagnosis import chain, tables
from tests.benchmarks.diagnosis.recipes import RECIPES, SHARED_DATA, Recipe
from tests.benchmarks.diagnosis.result import Result, figures, kept, path_of
from tests.benchmarks.diagnosis.unit import Unit
from tests.benchmarks.diagnosis.units import UNITS

READY, WORK, OUTPUTS = "ready", "work", "outputs"
LAST_LINES = 40
MISTAKE = 70  # the exit code of a run that this program, and no stage, has failed (EX_SOFTWARE of sysexits.h)


class MistakeError(Exception):
    """A run failed outside of the pipeline's stages."""


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(f"usage: {__doc__}")
    if not SHARED_DATA.is_dir():
        sys.exit(f"{SHARED_DATA} is absent: no data, no runs.")
    folder, parts = Path(sys.argv[1]).absolute(), sys.argv[2:]
    wanted = [unit for unit in UNITS if not parts or any(part in unit.name for part in parts)]
    tables.unpack(folder)
    left = [unit for unit in wanted if not kept(unit, folder)]
    _tell(f"{len(wanted) - len(left)} of {len(wanted)} units have a result")
    make_all(left, folder)


def make_all(units: Sequence[Unit], folder: Path) -> None:
    """Run units, as many at a time as there are cores, and keep their results, each whole or not at all."""
    for name in dict.fromkeys((unit.dataset, unit.recipe) for unit in units):
        _make_ready(RECIPES[name], folder)
    begun = time.monotonic()
    waiting, running, num_done = list(units), dict[int, tuple[Unit, float]](), 0
    while waiting or running:
        while waiting and len(running) < joblib.cpu_count():
            unit = waiting.pop(0)
            running[_start(functools.partial(_run, unit, folder))] = unit, time.monotonic()
        pid, status = os.wait()
        unit, started = running.pop(pid)
        try:
            told = _in_short(_keep(unit, folder, os.waitstatus_to_exitcode(status), time.monotonic() - started))
        except MistakeError as error:  # the others have their turn
            told = str(error)
        num_done += 1
        minutes = (time.monotonic() - begun) / num_done * (len(units) - num_done) / 60
        _tell(f"{num_done}/{len(units)} {unit.name}: {told}; {minutes:.0f} min left")


def _make_ready(recipe: Recipe, folder: Path) -> None:
    """The folder with the recipe's images, if it is not there."""
    ready = _ready(recipe, folder)
    beside = ready.with_name(f".{ready.name}")
    if not ready.is_dir():
        shutil.rmtree(beside, ignore_errors=True)
        _, status = os.waitpid(_start(functools.partial(chain.make_ready, recipe, beside)), 0)
        if status:
            raise MistakeError(f"The images of {ready.name} cannot be made ready; see {beside / chain.OUTPUT}.")
        beside.rename(ready)


def _run(unit: Unit, folder: Path) -> None:
    recipe, work = RECIPES[unit.dataset, unit.recipe], folder / WORK / unit.name
    shutil.rmtree(work, ignore_errors=True)
    chain.run(unit, recipe, _ready(recipe, folder), work)


def _start(work: Callable[[], None]) -> int:
    """Begin it in a fork, and return the fork's process id."""
    pid = os.fork()
    if pid:
        return pid
    code = MISTAKE
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell lets its background programs ignore
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    try:
        work()
        code = 0
    except SystemExit as error:  # of a stage that has failed, and has said so
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _keep(unit: Unit, folder: Path, status: int, seconds: float) -> Result:
    """Gather what the unit's run has left in its folder, which then goes."""
    work = folder / WORK / unit.name
    result = _gather(unit, RECIPES[unit.dataset, unit.recipe], work, status, seconds)
    (folder / OUTPUTS).mkdir(exist_ok=True)
    shutil.copyfile(work / chain.OUTPUT, folder / OUTPUTS / f"{unit.name}.txt")
    files.write_json(path_of(unit, folder), result.model_dump(mode="json"))
    shutil.rmtree(work)
    return result


def _gather(unit: Unit, recipe: Recipe, work: Path, status: int, seconds: float) -> Result:
    """What the recorder would have: reports, the parts of the evidence that came, and how the last stage ended."""
    records, _ = journal.read(work / chain.RECORD / journal.FILE_NAME)
    stages = [record["stage"] for record in records if record["type"] == "stage-start"]
    lines = (work / chain.OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    if status == MISTAKE or not stages:
        raise MistakeError(f"{unit.name} failed outside of its stages:\n" + "\n".join(lines))
    ending: dict[str, Any] = {"type": "stage-end", "stage": stages[-1], "exit_code": status, "signal": None, "last_lines": "\n".join(lines)}
    if status < 0:
        ending |= {"exit_code": None, "signal": -status}
    failed = runs.failure([*records, ending])
    failure = evidence.Failure(stage=failed["stage"], kind=failed["kind"], cause=failed["cause"]) if failed else None
    parts = evidence.from_parts((record["part"], record["values"]) for record in records if record["type"] == "evidence")
    found = evidence.gather(work / "reports", parts, failure)
    loss_path = work / chain.TEST_LOSS
    test_loss = float(loss_path.read_text(encoding="utf-8")) if loss_path.is_file() else None
    return Result(
        unit=unit,
        params=recipe.params(unit.all_changes),
        evidence=found,
        figures=figures(found, test_loss),
        seconds=round(seconds, 1),
    )


def _ready(recipe: Recipe, folder: Path) -> Path:
    return folder / READY / f"{recipe.dataset}-{recipe.name}"


def _in_short(result: Result) -> str:
    found, failure = result.figures, result.evidence.failure
    if failure:
        ended = f"{failure.stage} {failure.kind}: {' '.join(failure.cause.split())[:140]}"
    else:
        ended = f"test accuracy {found.test_accuracy:.3f}, loss {found.test_loss:.3f}, last val_loss {found.last_val_loss:.3f}"
    return f"{result.seconds:.0f} s, {ended}"


def _tell(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
