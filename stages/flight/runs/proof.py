"""Whether a replay is the run that it repeats: what was compared, the level of proof that was reached, and the first thing that differs."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from stages.flight.record import journal, lock
from stages.flight.record.names import STAGES
from stages.flight.runs.changes import flatten
from stages.flight.runs.differences import Difference, Recorded, differences
from stages.flight.runs.outcome import chance, flipped
from stages.flight.runs.run import KILLED_KINDS, Run
from stages.flight.runs.suspects import NUMERICAL
from stages.shared import paths

Level = Literal["weights", "predictions", "metrics", "failure", "inputs", "none"]
# Largest difference of a probability at which two predictions count as the same: single precision over a network of 50 layers leaves
# about 1e-6, half precision about 1e-3.
PROBABILITY_TOLERANCE = 1e-3
PREDICTIONS = "reports/evaluate/predictions.csv"
DIGESTS = ("order", "first_batch", "loss", "weights")  # of an epoch, in the order in which they come about
# What of a machine reaches the bits of a training; how much memory it has does not.
BITS_OF_HARDWARE = ("cpu.model", "cpu.flags", "num_usable_cpus", "gpus")
DONE = ("ran", "cached")


@dataclass(frozen=True)
class Check:
    """One thing that was compared: what went in, what it was run with, what came of the training, and (none of these) the rest."""

    name: str
    original: Any
    replay: Any
    equal: bool
    is_input: bool = False
    is_environment: bool = False
    is_training: bool = False


def stages_of(run: Run) -> list[str]:
    """The stages after ``ingest`` that the run needed, also those that DVC had cached."""
    return [stage for stage in STAGES[1:] if run.stages.get(stage) in (*DONE, "failed")]


def expected_level(run: Run, environment: Sequence[Difference]) -> tuple[Level, str]:
    """What is to be expected on this machine, and why."""
    if run.failure:
        return "failure", "the run failed"
    if run.params.get("train.deterministic") is False and "train" in stages_of(run):
        return "metrics", "train.deterministic is false"
    reaching = [one.name for one in environment if reaches_bits(one)]
    if reaching:
        return "metrics", f"other {', '.join(reaching[:3])}{'…' if len(reaching) > 3 else ''} than the run had"
    return "weights", "packages, settings and processor are those of the run"


def reaches_bits(difference: Difference) -> bool:
    """Whether another such thing may change the bits of a training."""
    if difference.kind == "package":
        return difference.name in NUMERICAL
    return difference.kind == "setting" or (difference.kind == "hardware" and difference.name.startswith(BITS_OF_HARDWARE))


def compare(original: Recorded, replay: Recorded, damaged: Mapping[str, tuple[str, str]]) -> list[Check]:
    """Everything that was compared, in the order in which it came about: what went in, with what, and what came of it, stage by stage."""
    recorded, found = (lock.read_stages(run.run.folder / "dvc.lock") for run in (original, replay))
    stages = [stage for stage in stages_of(original.run) if original.run.stages[stage] in DONE]
    checks = [Check(path, then, now, equal=False, is_input=True) for path, (then, now) in damaged.items()]
    checks += _inputs(recorded, found, stages)
    checks += _environment(original, replay)
    for stage in stages_of(original.run):
        if stage == "train":
            checks += _digests(original.run, replay.run)
        if stage in stages:
            outs = [lock.outs(locked).get(stage, {}) for locked in (recorded, found)]
            checks += [
                _check(path, *(of_run.get(path) for of_run in outs), is_training=path == str(paths.MODEL)) for path in sorted(outs[0])
            ]
    return checks + _failure(original.run, replay.run)


def _check(name: str, original: Any, replay: Any, **kind: bool) -> Check:
    return Check(name, original, replay, original == replay, **kind)


def _inputs(recorded: dict[str, Any], found: dict[str, Any], stages: Sequence[str]) -> list[Check]:
    """Code, images and parameters as ``dvc.lock`` has them for each stage; one line for all of a kind that are the same."""
    made = tuple(out for stage in STAGES[1:] for out in lock.outs(recorded).get(stage, {}))
    given = [_given(locked, stages, made) for locked in (recorded, found)]
    rows = [_check(path, given[0][path], given[1].get(path), is_input=True) for path in sorted(given[0], key=_rank)]
    params = [_params(locked, stages) for locked in (recorded, found)]
    settled = [_check(name, value, params[1].get(name), is_input=True) for name, value in sorted(params[0].items())]
    summaries = [
        (f"{sum(row.name.startswith('stages/') for row in rows)} files of code", [row for row in rows if row.name.startswith("stages/")]),
        (f"{len(settled)} parameters", settled),
    ]
    others = [row for row in rows if not row.name.startswith("stages/")]
    return [*others, *(row for name, kind in summaries for row in _summed(name, kind))]


def _params(locked: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Any]:
    """By dotted name; one that several stages depend on is the same for each."""
    values = [flatten(locked.get(stage, {}).get("params", {}).get("params.yaml", {})) for stage in stages]
    return {name: value for of_stage in values for name, value in of_stage.items()}


def _given(locked: Mapping[str, Any], stages: Sequence[str], made: tuple[str, ...]) -> dict[str, str]:
    deps = [dep for stage in stages for dep in locked.get(stage, {}).get("deps", [])]
    return {dep["path"]: dep["md5"] for dep in deps if not any(dep["path"] == out or dep["path"].startswith(f"{out}/") for out in made)}


def _rank(path: str) -> tuple[bool, bool, str]:
    """Images before code, and packages last."""
    return path.startswith("requirements"), path.startswith("stages/"), path


def _summed(name: str, rows: Sequence[Check]) -> list[Check]:
    """Those that differ, or one line which says that none does."""
    return [row for row in rows if not row.equal] or [Check(name, "as recorded", "the same", equal=True, is_input=True)]


def environment_differences(original: Recorded, replay: Recorded) -> list[Difference]:
    """Packages, hardware and settings in which the replay differs, those first that reach the bits."""
    found = [one for one in differences([original, replay]) if one.kind in ("package", "hardware", "setting")]
    return sorted(found, key=lambda one: not reaches_bits(one))


def _environment(original: Recorded, replay: Recorded) -> list[Check]:
    found = environment_differences(original, replay)
    rows = [Check(f"{one.kind} {one.name}", one.values[0], one.values[-1], equal=False, is_environment=True) for one in found]
    return rows or [Check("packages, hardware and settings", "as recorded", "the same", equal=True, is_environment=True)]


def _records(run: Run) -> list[dict[str, Any]]:
    return journal.read(run.folder / journal.FILE_NAME)[0]


def _digests(original: Run, replay: Run) -> list[Check]:
    """The first digest that differs, or one line for all epochs; none where the original's training was not run, but cached."""
    of_runs = [{record["epoch"]: record["values"] for record in _records(run) if record["type"] == "digest"} for run in (original, replay)]
    for epoch, values in sorted(of_runs[0].items()):
        for name in DIGESTS:
            other = of_runs[1].get(epoch, {}).get(name)
            if values.get(name) != other:
                return [Check(f"epoch {epoch}, {name.replace('_', ' ')}", values.get(name), other, equal=False, is_training=True)]
    told = f"order, images, loss and weights of {len(of_runs[0])} epochs"
    return [Check(told, "as recorded", "the same", equal=True, is_training=True)] if of_runs[0] else []


def _failure(original: Run, replay: Run) -> list[Check]:
    """Of a run that failed: stage, kind, how far it had got, and diagnosis."""
    if original.failure is None:
        return [_check("status", original.status, replay.status)] if replay.failure else []
    verdicts = [(run.verdict() or {}).get("verdict") for run in (original, replay)]
    then, now = original.failure, replay.failure or {"stage": None, "kind": None}
    rows = [_check(f"failure: {name}", then[name], now[name]) for name in ("stage", "kind")]
    return [*rows, _progress_check(original, replay), _check("failure: diagnosis", *verdicts)]


def _progress_check(original: Run, replay: Run) -> Check:
    """Evidence and figures up to the failure, bit for bit; of a run that was ended from outside, as far as it had got."""
    told = [[_said(record) for record in progress(_records(run), original.failure)] for run in (original, replay)]
    if original.failure and original.failure["kind"] in KILLED_KINDS:
        told[1] = told[1][: len(told[0])]
    at = next((i for i, (then, now) in enumerate(zip(*told, strict=False)) if then != now), min(map(len, told)))
    then, now = (f"{len(records)} records" + ("" if told[0] == told[1] else f", the same up to {at}") for records in told)
    return Check("failure: moment", then, now, equal=told[0] == told[1])


def progress(records: Iterable[dict[str, Any]], failure: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What tells how far the stage that failed has got."""
    stage = failure["stage"] if failure else None
    own = [record for record in records if record["type"] == "metrics" and record["stage"] == stage]
    return [r for r in records if r["type"] in ("evidence", "digest")] + own if stage == "train" else own


def _said(record: Mapping[str, Any]) -> Any:
    """A record without its time, its process, and what is measured by a clock."""
    timed = ("images_per_second", "data_wait_share")
    values = record.get("values")
    kept = {name: value for name, value in values.items() if name not in timed} if isinstance(values, dict) else values
    return (record["type"], record.get("part"), record.get("epoch"), record.get("step"), repr(kept))


def level(checks: Sequence[Check], original: Run, replay: Run, everyone: Sequence[Run]) -> Level:
    """The strongest level that the checks prove; none without the recorded inputs."""
    if not all(check.equal for check in checks if check.is_input):
        return "none"
    came_out = [check for check in checks if not check.is_input and not check.is_environment]
    if original.failure is not None:
        return "failure" if all(check.equal for check in came_out) else "inputs"
    of_training = [check for check in came_out if check.is_training]
    if replay.failure is None and all(check.equal for check in of_training or came_out):
        return "weights"
    if _same_predictions(original.folder / PREDICTIONS, replay.folder / PREDICTIONS):
        return "predictions"
    if replay.failure is None and chance(original, replay, everyone, flipped(original.folder, replay.folder)).beyond is False:
        return "metrics"
    return "inputs"


def _same_predictions(before: Path, after: Path) -> bool:
    """The same answer for each image, with about the same probability."""
    try:
        rows = [list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) for path in (before, after)]
        pairs = list(zip(*rows, strict=True))
        same = all(then["path"] == now["path"] and then["predicted"] == now["predicted"] for then, now in pairs)
        apart = [abs(float(then["probability"]) - float(now["probability"])) for then, now in pairs]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(pairs) and same and all(map(math.isfinite, apart)) and max(apart) <= PROBABILITY_TOLERANCE


def answer(checks: Sequence[Check], reached: Level, expected: tuple[Level, str], original: Run, replay: Run) -> dict[str, Any]:
    """What ``flight replay`` tells."""
    first = next((check for check in checks if not check.equal), None)
    came_out = [check for check in checks if not check.is_environment]
    identical = all(check.equal for check in came_out)
    if first is None:
        reason = "everything that was compared is the same"
    elif identical:
        reason = f"{first.name} differs, and everything that came out is the same"
    else:
        reason = f"the first thing that differs is {first.name}: {first.original} then, {first.replay} now"
    return {
        "original": original.id,
        "replay": replay.id,
        "level": reached,
        "expected_level": expected[0],
        "expected_because": expected[1],
        "identical": identical,
        "first_difference": {name: value for name, value in asdict(first).items() if not name.startswith("is_")} if first else None,
        "checks": [{name: value for name, value in asdict(check).items() if not name.startswith("is_")} for check in checks],
        "reason": reason,
    }
