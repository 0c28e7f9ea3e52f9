"""Runs ended in every way at random moments over all stages: nothing is lost, and each says what happened.

``pytest -m slow tests/benchmarks/test_random_endings.py --capture no`` prints the table.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.flight.record import journal, names
from tests import strike, tiny

SEED = 2
NUM_MOMENTS = 24
# How long each stage works on the tiny profile, a little less than measured; a strike that comes too late is tried again, earlier.
SECONDS = {"ingest": 0.2, "validate": 4.0, "prepare": 0.6, "augment": 0.5, "train": 30.0, "evaluate": 7.0, "diagnose": 0.2}
TRIES = 8

pytestmark = pytest.mark.slow


def metric_points(folder: Path, run_id: str) -> Counter[tuple[str, int, str]]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    keys = client.get_run(run_id).data.metrics
    return Counter((key, point.step, repr(point.value)) for key in keys for point in client.get_metric_history(run_id, key))


def journal_points(run: Path) -> Counter[tuple[str, int, str]]:
    return Counter(
        (names.metric(record["stage"], name), record["step"] or 0, repr(float(value)))
        for record in journal.read_run(run)
        if record["type"] == "metrics"
        for name, value in record["values"].items()
    )


def is_whole(recorded: Counter[Any], shown: Counter[Any], *, may_lack: bool) -> bool:
    """Nothing of the journal is lost or doubled; what a cut has taken from the journal, MLflow may have."""
    return recorded <= shown if may_lack else recorded == shown


def cut(run: Path, chance: random.Random) -> None:
    """As a power loss leaves a journal, and worse: ended anywhere, be it in its first line."""
    content = (run / journal.FILE_NAME).read_bytes()
    (run / journal.FILE_NAME).write_bytes(content[: chance.randrange(len(content))])


def check(clone: Path, run: Path, stage: str, way: str) -> tuple[str, str, str, list[str]]:
    """What MLflow says of the run, and what is wrong with it."""
    tiny.run(clone, "python", "-m", "stages.flight.cli", "runs")
    tiny.wait_for_recorders(clone)
    shown = {found.data.tags[names.TAG_FLIGHT_ID]: found for found in tiny.mlflow_runs(clone)}
    found = shown[run.name]
    tags = found.data.tags
    status, kinds = strike.EXPECTED[way]
    told = tags.get(names.TAG_FAILURE_KIND, "-")
    checks = {
        "left running": tiny.left_running(clone) == [],
        "status": found.info.status == status,
        "stage": tags.get(names.TAG_FAILURE_STAGE) == (stage if status != "FINISHED" else None) or way == "power loss",
        "kind": told in kinds,
        "cause": tags["mlflow.note.content"].split(":")[0] in (tags["verdict"],) and len(tags["mlflow.note.content"]) > len("unknown: "),
        "metrics": is_whole(journal_points(run), metric_points(clone, found.info.run_id), may_lack=way == "power loss"),
        "a run is missing or RUNNING": {folder.name for folder in clone.glob(".flight/runs/[!.]*/")} == shown.keys()
        and all(one.info.status != "RUNNING" for one in shown.values()),
    }
    return found.info.status, tags.get(names.TAG_FAILURE_STAGE, "-"), told, [name for name, right in checks.items() if not right]


def test_random_endings(clone: Path, tmp_path: Path) -> None:
    chance = random.Random(SEED)  # noqa: S311
    ways = [way for way in strike.EXPECTED if way != "memory of the group" or strike.make_group()]
    stages = [names.STAGES[number % len(names.STAGES)] for number in range(NUM_MOMENTS)]
    chance.shuffle(stages)
    plan = [(ways[number % len(ways)], stage) for number, stage in enumerate(stages)]
    wrong: list[Any] = []
    print(f"\n{'way':26} {'stage':9} {'moment':>8}  {'status':9} {'failed in':10} {'kind':14} next repro  wrong")  # noqa: T201
    for way, stage in plan:
        share = chance.random()
        for attempt in range(TRIES):
            with (clone / f"stages/{stage}.py").open("a") as file:
                file.write("# struck\n")
            delay_s = SECONDS[stage] * share / 2**attempt
            run, exit_code = strike.run(clone, tmp_path / "injection", stage, way, delay_s)
            if run is not None and (exit_code != 0 or strike.EXPECTED[way][0] == "FINISHED"):
                break  # else the stage was over before the strike took effect
        assert run is not None, f"{way} never met {stage} at work"
        if way == "power loss":
            cut(run, chance)
        status, failed_in, kind, faults = check(clone, run, stage, way)
        again = tiny.run(clone, "dvc", "repro", check=False)
        tiny.wait_for_recorders(clone)
        faults += [] if again.returncode == 0 else [f"next dvc repro: {again.stdout[-500:]}{again.stderr[-1500:]}"]
        wrong += [(way, stage, delay_s, run, faults)] if faults else []
        shown = f"{way:26} {stage:9} {delay_s:7.2f}s  {status:9} {failed_in:10} {kind:14} {again.returncode:10}  {'; '.join(faults) or '-'}"
        print(shown, flush=True)  # noqa: T201
    statuses = Counter(found.info.status for found in tiny.mlflow_runs(clone))
    print(f"runs in MLflow: {dict(statuses)}")  # noqa: T201
    assert not wrong
