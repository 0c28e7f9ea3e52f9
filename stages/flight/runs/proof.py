"""Whether a replay is the run that it repeats: what was compared, the level of proof that was reached, and the first thing that differs."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from stages.flight.record import journal, lock
from stages.flight.record.names import STAGES
from stages.flight.runs.changes import flatten
from stages.flight.runs.differences import DONE, Difference, Recorded, differences, not_compared
from stages.flight.runs.outcome import chance, flipped
from stages.flight.runs.run import KILLED_KINDS, Run
from stages.flight.runs.suspects import is_numerical
from stages.shared import paths

Level = Literal["weights", "predictions", "metrics", "failure", "inputs", "none"]
# What went in; what it was run with, as far as that reaches the bits; what the training came to; what else came out; what reaches no bits.
Kind = Literal["input", "environment", "training", "outcome", "idle"]
LEVELS = ("none", "inputs", "metrics", "predictions", "weights")  # of a run that has not failed, the weakest first
# Largest difference of a probability at which two predictions count as the same: single precision over a network of 50 layers leaves
# about 1e-6, half precision about 1e-3.
PROBABILITY_TOLERANCE = 1e-3
PREDICTIONS = "reports/evaluate/predictions.csv"
DIGESTS = ("order", "first_batch", "loss", "weights")  # of an epoch, in the order in which they come about
# What of a machine reaches the bits of a training; how much memory it has does not.
BITS_OF_HARDWARE = ("cpu.model", "cpu.flags", "num_usable_cpus", "gpus")
ENVIRONMENT: dict[str, str] = {"package": "packages", "hardware": "hardware", "setting": "settings"}
STATUS, FAILURE, MOMENT = "status", "failure: ", "failure: moment"
TIMED = ("images_per_second", "data_wait_share")  # metrics that a clock has measured


@dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    kind: Kind
    name: str
    original: Any
    replay: Any
    equal: bool


def stages_of(run: Run) -> list[str]:
    """The stages after ``ingest`` that the run needed, also those that DVC had cached."""
    return [stage for stage in STAGES[1:] if run.stages.get(stage) in (*DONE, "failed")]


def expected_level(run: Run, checks: Sequence[Check]) -> tuple[Level, str]:
    """What is to be expected on this machine, and why."""
    if run.failure:
        return "failure", "the run failed" + ("" if _is_same(checks) else "; without its numbers, since not all is as the run had it")
    if run.params.get("train.deterministic") is False and "train" in stages_of(run):
        return "metrics", "train.deterministic is false"
    other = [check.name for check in checks if check.kind == "environment" and not check.equal]
    if other:
        return "metrics", f"not as the run had it: {', '.join(other[:3])}{'…' if len(other) > 3 else ''}"
    return "weights", "packages, settings and processor are those of the run"


def reaches_bits(difference: Difference) -> bool:
    """Whether another such thing may change the bits of a training."""
    if difference.kind == "package":
        return is_numerical(difference.name)
    return difference.kind == "setting" or (difference.kind == "hardware" and difference.name.startswith(BITS_OF_HARDWARE))


def compare(original: Recorded, replay: Recorded, damaged: Mapping[str, tuple[str, str]]) -> list[Check]:
    """Everything that was compared: what went in, with what, what came of it stage by stage, and last what reaches no bits."""
    recorded, found = (lock.read_stages(run.run.folder / "dvc.lock") for run in (original, replay))
    stages = [stage for stage in stages_of(original.run) if original.run.stages[stage] in DONE]
    checks = [Check("input", path, then, now, equal=False) for path, (then, now) in damaged.items()]
    checks += _inputs(recorded, found, stages)
    around = environment(original, replay)
    checks += around
    for stage in stages_of(original.run):
        if stage == "train":
            checks += _digests(original.run, replay.run)
        if stage in stages:
            checks += _outs(*(lock.outs(locked).get(stage, {}) for locked in (recorded, found)))
    checks += _failure(original.run, replay.run, bitwise=_is_same(around))
    return sorted(checks, key=lambda check: check.kind == "idle")


def _is_same(checks: Sequence[Check]) -> bool:
    """Whether both were run with what makes the same bits."""
    return all(check.equal for check in checks if check.kind == "environment")


def _check(kind: Kind, name: str, original: Any, replay: Any) -> Check:
    return Check(kind, name, original, replay, original == replay)


def _outs(recorded: Mapping[str, str], found: Mapping[str, str]) -> list[Check]:
    return [
        _check("training" if path == str(paths.MODEL) else "outcome", path, recorded[path], found.get(path)) for path in sorted(recorded)
    ]


def _inputs(recorded: dict[str, Any], found: dict[str, Any], stages: Sequence[str]) -> list[Check]:
    """Code, images and parameters as ``dvc.lock`` has them for each stage; one line for all of a kind that are the same.

    A stage that failed has no entry there: its code is that of the commit, its parameters those of the file.
    """
    made = tuple(out for stage in STAGES[1:] for out in lock.outs(recorded).get(stage, {}))
    given = [_given(locked, stages, made) for locked in (recorded, found)]
    rows = [_check("input", path, given[0][path], given[1].get(path)) for path in sorted(given[0], key=_rank)]
    params = [_params(locked, stages) for locked in (recorded, found)]
    settled = [_check("input", name, value, params[1].get(name)) for name, value in sorted(params[0].items())]
    code = [row for row in rows if row.name.startswith("stages/")]
    others = [row for row in rows if not row.name.startswith("stages/")]
    return [*others, *_summed(f"{len(code)} files of code", code), *_summed(f"{len(settled)} parameters", settled)]


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
    """Those that differ, or one line which says that none does; nothing where there is none."""
    same = [Check("input", name, "as recorded", "the same", equal=True)] if rows else []
    return [row for row in rows if not row.equal] or same


def environment(original: Recorded, replay: Recorded) -> list[Check]:
    """Packages, hardware and settings: those that differ, and which of the three are not known."""
    found = [one for one in differences([original, replay]) if one.kind in ENVIRONMENT]
    rows = [
        Check("environment" if reaches_bits(one) else "idle", f"{one.kind} {one.name}", one.values[0], one.values[-1], equal=False)
        for one in found
    ]
    unknown = [ENVIRONMENT[kind] for kind in not_compared([original, replay]) if kind in ENVIRONMENT]
    rows += [Check("environment", name, "not recorded", "not compared", equal=False) for name in unknown]
    return rows or [Check("environment", "packages, hardware and settings", "as recorded", "the same", equal=True)]


def _records(run: Run) -> list[dict[str, Any]]:
    return journal.read(run.folder / journal.FILE_NAME)[0]


def _digests(original: Run, replay: Run) -> list[Check]:
    """The first digest that differs, or one line for all epochs; none where the original's training was not run, but cached."""
    of_runs = [{record["epoch"]: record["values"] for record in _records(run) if record["type"] == "digest"} for run in (original, replay)]
    for epoch, values in sorted(of_runs[0].items()):
        for name in DIGESTS:
            other = of_runs[1].get(epoch, {}).get(name)
            if values.get(name) != other:
                return [Check("training", f"epoch {epoch}, {name.replace('_', ' ')}", values.get(name), other, equal=False)]
    told = f"order, images, loss and weights of {len(of_runs[0])} epochs"
    return [Check("training", told, "as recorded", "the same", equal=True)] if of_runs[0] else []


def _failure(original: Run, replay: Run, *, bitwise: bool) -> list[Check]:
    """Of a run that failed: stage, kind, error, how far it had got, and diagnosis; numbers only where they are to be the same."""
    if original.failure is None:
        return [_check("outcome", STATUS, original.status, replay.status)]
    then, now = original.failure, replay.failure or {"stage": None, "kind": None}
    rows = [_check("outcome", f"{FAILURE}{name}", then[name], now[name]) for name in ("stage", "kind")]
    if then["kind"] not in KILLED_KINDS:
        rows.append(_check("outcome", "failure: error", *(_error(run, with_message=bitwise) for run in (original, replay))))
    verdicts = [(run.verdict() or {}).get("verdict") for run in (original, replay)]
    return [*rows, _moment(original, replay, bitwise=bitwise), _check("outcome", "failure: diagnosis", *verdicts)]


def _error(run: Run, *, with_message: bool) -> str | None:
    """The type and message of what a stage raised, without the folder in which it ran."""
    records = _records(run)
    told = next((record for record in records if record["type"] == "failure"), None)
    folder = next((str(record["workspace"]) for record in records if record["type"] == "run"), "")
    if told is None:
        return None
    # How much memory was free, which such a message tells, is never the same.
    is_told = with_message and told["kind"] != "out-of-memory"
    return str(told["error"]) if not is_told else f"{told['error']}: {told['message']}".replace(folder or "\0", ".")


def _moment(original: Run, replay: Run, *, bitwise: bool) -> Check:
    """Evidence and figures up to the failure, each kind in its order; of a run that was ended from outside, as far as it had got.

    A training that had gone on from a checkpoint has told of what came before kind by kind.
    """
    of_runs = [progress(_records(run), original.failure) for run in (original, replay)]
    kinds = sorted({record["type"] for records in of_runs for record in records})
    told = [[[_said(record, bitwise=bitwise) for record in records if record["type"] == kind] for kind in kinds] for records in of_runs]
    if original.failure and original.failure["kind"] in KILLED_KINDS:
        if not of_runs[0]:
            return Check("outcome", MOMENT, "not recorded", "not compared", equal=True)
        told[1] = [now[: len(then)] for then, now in zip(*told, strict=True)]
    in_order = [list(itertools.chain(*of_kinds)) for of_kinds in told]
    at = next((i for i, (then, now) in enumerate(zip(*in_order, strict=False)) if then != now), min(map(len, in_order)))
    then, now = (f"{len(records)} records" + ("" if told[0] == told[1] else f", the same up to {at}") for records in in_order)
    return Check("outcome", MOMENT, then, now, equal=told[0] == told[1])


def progress(records: Iterable[dict[str, Any]], failure: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What tells how far the stage that failed has got."""
    stage = failure["stage"] if failure else None
    own = [record for record in records if record["type"] == "metrics" and record["stage"] == stage]
    return [record for record in records if record["type"] in ("evidence", "digest")] + own if stage == "train" else own


def _said(record: Mapping[str, Any], *, bitwise: bool) -> Any:
    """A record without its time, its process, and what is measured by a clock; if not ``bitwise``, what it is of alone."""
    values = record.get("values") if bitwise else None
    kept = {name: value for name, value in values.items() if name not in TIMED} if isinstance(values, dict) else values
    return (record["type"], record.get("part"), record.get("epoch"), record.get("step"), repr(kept))


def level(checks: Sequence[Check], original: Run, replay: Run, everyone: Sequence[Run]) -> Level:
    """The strongest level that the checks prove; none without the recorded inputs."""
    if not all(check.equal for check in checks if check.kind == "input"):
        return "none"
    of_training = [check for check in checks if check.kind == "training"]
    came_out = [check for check in checks if check.kind in ("training", "outcome")]
    if original.failure is not None:
        decisive = came_out if _is_same(checks) else [check for check in came_out if check.name.startswith(FAILURE)]
        return "failure" if all(check.equal for check in decisive) else "inputs"
    if replay.failure is not None:
        return "inputs"
    proofs = of_training or [check for check in came_out if check.name != STATUS]
    if proofs and all(check.equal for check in proofs):
        return "weights"
    if _same_predictions(original.folder / PREDICTIONS, replay.folder / PREDICTIONS):
        return "predictions"
    if chance(original, replay, everyone, flipped(original.folder, replay.folder)).beyond is False:
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


def answer(checks: Sequence[Check], reached: Level, original: Run, replay: Run) -> dict[str, Any]:
    """What ``flight replay`` tells."""
    first = next((check for check in checks if not check.equal), None)
    expected, because = expected_level(original, checks)
    return {
        "original": original.id,
        "replay": replay.id,
        "level": reached,
        "expected_level": expected,
        "expected_because": because,
        "identical": all(check.equal for check in checks if check.kind in ("input", "training", "outcome")),
        "first_difference": _plain(first) if first else None,
        "checks": [_plain(check) for check in checks],
        "reason": _reason(checks, original),
    }


def _plain(check: Check) -> dict[str, Any]:
    return {name: value for name, value in asdict(check).items() if name != "kind"}


def _reason(checks: Sequence[Check], original: Run) -> str:
    """The first that differs, of what went in and of what came out."""
    first, came_out = (
        next((check for check in checks if not check.equal and check.kind in kinds), None)
        for kinds in (("input", "environment", "idle"), ("training", "outcome"))
    )
    told = [f"{first.name} differs: {first.original} then, {first.replay} now"] if first else []
    if came_out:
        told.append(f"the first that came out otherwise is {came_out.name}: {came_out.original} then, {came_out.replay} now")
    elif first:
        told.append("everything that came out is the same")
    else:
        told.append("everything that was compared is the same")
    if original.failure and original.failure["kind"] in KILLED_KINDS:
        is_known = not any(check.name == MOMENT and check.original == "not recorded" for check in checks)
        moment = "at the same moment" if is_known else f"in {original.failure['stage']}; how far that had got was not recorded"
        told.append(f"the run was ended from outside, and so was the replay, {moment}: what is compared is what came before")
    return "; ".join(told)


def is_proved(answer: Mapping[str, Any]) -> bool:
    """Whether the level reached is at least the one to be expected here; where that is ``weights``, all other files are the same too."""
    reached, expected = answer["level"], answer["expected_level"]
    if expected not in LEVELS or reached not in LEVELS:
        return bool(reached == expected)
    return LEVELS.index(reached) >= LEVELS.index(expected) and (expected != "weights" or bool(answer["identical"]))
