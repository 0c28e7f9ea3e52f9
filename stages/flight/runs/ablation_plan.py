"""The plan of ``flight diff A B --test``, what it will take, and its carrying out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.flight.errors import CommandError
from stages.flight.record import capture, journal
from stages.flight.record.names import STAGES
from stages.flight.runs import ablation, frozen_images, proof, replay_workspace
from stages.flight.runs.ablation import Ends, Factor
from stages.flight.runs.differences import Difference, differences, not_compared, recorded
from stages.flight.runs.hybrids import Hybrids
from stages.flight.runs.outcome import SEEDS, accuracies_by_seed, repetitions
from stages.flight.runs.run import KILLED_KINDS, Run
from stages.flight.runs.suspects import suspects


@dataclass(frozen=True)
class Plan:
    """What is switched (most suspected first), what cannot be, what is known already, and how many trainings it takes at most.

    ``present`` is the environment in which they will be made.
    """

    first: Run
    last: Run
    factors: tuple[Factor, ...]
    untested: tuple[str, ...]
    ends: Ends
    seconds_each: float
    present: Mapping[str, Any]

    @property
    def num_trainings(self) -> int:
        return ablation.num_trainings(len(self.factors), self.ends)

    @property
    def sentence(self) -> str:
        names = ", ".join(factor.name for factor in self.factors) or "nothing that can be switched, but seeds"
        minutes = math.ceil(self.num_trainings * self.seconds_each / 60)
        left_out = f" Not switched, since it is of the machine: {', '.join(self.untested)}." if self.untested else ""
        return f"Between them differs: {names}.{left_out} At most {self.num_trainings} trainings, about {minutes} minutes."


def plan(first: Run, last: Run, everyone: Sequence[Run], root: Path) -> Plan:
    """Find out what would have to be trained.

    Accuracies that were measured in another environment than the present one are measured again.

    Raises:
        CommandError: if one of the runs has not come to an end of its own after its training had begun, or something of it is missing.
    """
    present = capture.environment()
    for run in (first, last):
        if (
            run.ended is None
            or "train" not in proof.stages_of(run)
            or (run.failure and run.failure["kind"] in (*KILLED_KINDS, "out-of-memory"))
        ):
            raise CommandError(f"run {run.id} has not trained to an end of its own, so there is nothing to test. Type: flight why {run.id}")
        replay_workspace.find_code(run, root)
        replay_workspace.check(run, root)
    if first.failure and last.failure:
        raise CommandError(f"{first.id} and {last.id} have both failed, so no accuracy differs. Type: flight diff {first.id} {last.id}")
    found = differences([recorded(run, root) for run in (first, last)])
    given = [one for one in found if _reaches_training(one, first, last)]
    factors, untested = ablation.factors(given, suspects(given, first, last))
    ends = Ends(*(_known(run, first, everyone, present, root) for run in (first, last)))
    ends = ends if factors else Ends(ends.first, {})
    return Plan(first, last, tuple(factors), tuple(untested), ends, _seconds_each(first, last, everyone), present)


def _reaches_training(difference: Difference, first: Run, last: Run) -> bool:
    """Not the splits of the same images, which follow from parameters or code, and not files that are no part of the pipeline."""
    if difference.kind == "data":
        return frozen_images.of_run(first) != frozen_images.of_run(last)
    is_ours = difference.name.startswith("stages/") and not difference.name.startswith("stages/flight/")
    return difference.kind != "code" or is_ours or difference.name in {"dvc.yaml", *first.inputs, *last.inputs}


def carry_out(made: Plan, root: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train what is lacking and tell the cause; what an earlier test has trained is taken as it is."""
    hybrids = Hybrids(made.first, made.last, made.factors, made.present, root, tell)
    if hybrids.num_known:
        tell(f"{hybrids.num_known} trainings of an earlier test are taken as they are")
    with hybrids.alone():
        found = ablation.walk(made.factors, made.ends, hybrids.measure)
    return found | {"untested": list(made.untested)}


def _is_of(run: Run, present: Mapping[str, Any], root: Path) -> bool:
    """Whether what reaches the bits of a training is at present as it was for the run."""
    then, now = recorded(run, root), recorded(run, root, present)
    return not any(proof.reaches_bits(one) for one in differences([then, now])) and not not_compared([then, now])


def _known(run: Run, first: Run, everyone: Sequence[Run], present: Mapping[str, Any], root: Path) -> dict[Any, float]:
    """Accuracies of a run and its repetitions, as far as they were made in the present environment, by how far the seeds of each are
    moved on from the first's; of a run that failed, 0."""
    if not _is_of(run, present, root):
        return {}
    everyone = [other for other in repetitions(run, everyone) if _is_of(other, present, root)]
    own = tuple(run.params.get(name) for name in SEEDS)
    found = accuracies_by_seed(run, everyone) or ({own: 0.0} if run.failure else {})
    return {_shift(seeds, tuple(first.params.get(name) for name in SEEDS)): value for seeds, value in found.items()}


def _shift(seeds: Sequence[Any], base: Sequence[Any]) -> Any:
    shifts = {new - old for new, old in zip(seeds, base, strict=True) if isinstance(new, int) and isinstance(old, int)}
    return shifts.pop() if len(shifts) == 1 else str(seeds)


def _seconds_each(first: Run, last: Run, everyone: Sequence[Run]) -> float:
    """How long a training takes with the stages around it: each as in the slower of the two runs, or, where DVC had it cached in both, as
    in the newest of the others that executed it."""
    ends = [_seconds(run) for run in (first, last)]
    known = {stage: [end[stage] for end in ends if stage in end] for stage in STAGES[1:-1]}
    others = [] if all(known.values()) else [_seconds(run) for run in everyone]
    return sum(max(found) if found else next((one[stage] for one in others if stage in one), 0.0) for stage, found in known.items())


def _seconds(run: Run) -> dict[str, float]:
    """How long each stage took that was executed to its end."""
    records = journal.read_run(run.folder)
    return {record["stage"]: record["seconds"] for record in records if record["type"] == "stage-end" and record["seconds"] is not None}
