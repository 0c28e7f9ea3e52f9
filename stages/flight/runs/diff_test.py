"""The plan of ``flight diff A B --test``, what it will take, and its carrying out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.flight.record import journal
from stages.flight.runs import ablation
from stages.flight.runs.ablation import Ends, Factor
from stages.flight.runs.differences import differences, recorded
from stages.flight.runs.git import CommandError
from stages.flight.runs.hybrids import Hybrids
from stages.flight.runs.outcome import SEEDS, accuracies_by_seed
from stages.flight.runs.proof import stages_of
from stages.flight.runs.replay_workspace import find_code
from stages.flight.runs.run import Run
from stages.flight.runs.suspects import suspects


@dataclass(frozen=True)
class Plan:
    """What is switched (most suspected first), what cannot be, what is known already, and how many trainings it takes at most."""

    first: Run
    last: Run
    factors: tuple[Factor, ...]
    untested: tuple[str, ...]
    ends: Ends
    num_trainings: int
    seconds_each: float

    @property
    def sentence(self) -> str:
        names = ", ".join(factor.name for factor in self.factors) or "nothing but seeds"
        minutes = math.ceil(self.num_trainings * self.seconds_each / 60)
        left_out = f" Not switched, since it belongs to the machine: {', '.join(self.untested)}." if self.untested else ""
        return f"Between them differs: {names}.{left_out} At most {self.num_trainings} trainings, about {minutes} minutes."


def plan(first: Run, last: Run, everyone: Sequence[Run], root: Path) -> Plan:
    """Find out what would have to be trained.

    Raises:
        CommandError: if one of the runs has not ended, or its code or images are not known.
    """
    for run in (first, last):
        if run.ended is None or "train" not in stages_of(run):
            raise CommandError(f"run {run.id} has not come to its training, so there is nothing to test. Type: flight why {run.id}")
        find_code(run, root)
    found = differences([recorded(run, root) for run in (first, last)])
    factors, untested = ablation.factors(found, suspects(found, first, last))
    ends = Ends(_by_shift(first, first, everyone), _by_shift(last, first, everyone) if factors else {})
    return Plan(
        first, last, tuple(factors), tuple(untested), ends, ablation.num_trainings(len(factors), ends), max(map(_seconds, (first, last)))
    )


def _by_shift(run: Run, first: Run, everyone: Sequence[Run]) -> dict[Any, float]:
    """Accuracies of a run and its repetitions, by how far the seeds of each are moved on from the first's; of a run that failed, 0."""
    own = tuple(run.params.get(name) for name in SEEDS)
    found = accuracies_by_seed(run, everyone) or {own: 0.0}
    return {_shift(seeds, tuple(first.params.get(name) for name in SEEDS)): value for seeds, value in found.items()}


def _shift(seeds: Sequence[Any], base: Sequence[Any]) -> Any:
    shifts = {new - old for new, old in zip(seeds, base, strict=True) if isinstance(new, int) and isinstance(old, int)}
    return shifts.pop() if len(shifts) == 1 else str(seeds)


def carry_out(made: Plan, root: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train what is lacking and tell the cause; what an earlier test has trained is taken as it is."""
    hybrids = Hybrids(made.first, made.last, made.factors, root, tell)
    if hybrids.num_known:
        tell(f"{hybrids.num_known} trainings of an earlier test are taken as they are")
    found = ablation.test(made.factors, made.ends, hybrids.measure)
    hybrids.clean_up()
    return found | {"untested": list(made.untested)}


def _seconds(run: Run) -> float:
    records, _ = journal.read(run.folder / journal.FILE_NAME)
    return sum(record["seconds"] or 0.0 for record in records if record["type"] == "stage-end")
