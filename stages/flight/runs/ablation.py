"""``flight diff A B --test``: which of the differences between two runs made their outcomes differ, by trainings in between.

The differing factors are switched from A to B one at a time, at each step the one that brings the accuracy nearest to B's (a greedy path).
How far two runs are apart by chance is told by repetitions with other seeds. Source of the method: ablation paths, C. Fawcett and
H. Hoos, 'Analysing differences between algorithm configurations through ablation', Journal of Heuristics 22 (2016).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stages.flight.runs.differences import Difference
from stages.flight.runs.outcome import LEAST_DEGREES, SEEDS, student_t

# Of the ends of the path: with the runs themselves this leaves four degrees of freedom.
NUM_REPETITIONS = 2
# A path of k factors takes k (k + 1) / 2 trainings: those that are suspected least are switched together.
MAX_FACTORS = 4
POLICY = "augment."
APART = ("augment.balancing", "augment.seed")  # in the section of the augmentation, and no part of its policy
WITHOUT_EFFECT = ("ingest.", "evaluate.")  # the images are a factor of their own, and gates change no accuracy


@dataclass(frozen=True)
class Factor:
    """What is switched together; ``params`` by dotted name, ``images`` the frozen ones, ``code`` all files."""

    name: str
    params: tuple[str, ...] = ()
    images: bool = False
    code: bool = False


@dataclass(frozen=True)
class Step:
    """One factor switched: the accuracy before and after, and whether that is more than chance."""

    factor: str
    before: float
    after: float
    beyond: bool


@dataclass(frozen=True)
class Ends:
    """Accuracies of both ends of the path, as far as they are known; failed runs count as 0.

    By how far the seeds are moved on from A's: 0 for A itself, anything else than a number for seeds that are no such shift.
    """

    first: Mapping[Any, float]
    last: Mapping[Any, float]

    @property
    def _groups(self) -> list[list[float]]:
        """Those that tell how seeds spread: trainings that always fail do not."""
        return [list(group.values()) for group in (self.first, self.last) if any(group.values())]

    @property
    def degrees(self) -> int:
        """Of freedom."""
        return sum(len(group) - 1 for group in self._groups)

    @property
    def spread(self) -> float:
        """The pooled standard deviation of one accuracy over seeds."""
        squares = sum((value - statistics.fmean(group)) ** 2 for group in self._groups for value in group)
        return math.sqrt(squares / self.degrees) if self.degrees else math.nan

    @property
    def margin(self) -> float:
        """How far two single runs are apart by chance (95 %)."""
        return student_t(max(self.degrees, LEAST_DEGREES)) * math.sqrt(2) * self.spread


# Gives the accuracy of a hybrid by the names of the factors that are as in B, and how far its seeds are moved from A's. One that failed
# as one of the ends did has 0, and one that failed in its own way None.
Measure = Callable[[frozenset[str], int], float | None]


def factors(found: Sequence[Difference], suspects: Sequence[Mapping[str, Any]]) -> tuple[list[Factor], list[str]]:
    """What can be switched, the most suspected first, and the names of what cannot."""
    params = [one for one in found if one.kind == "param" and one.name not in SEEDS and not one.name.startswith(WITHOUT_EFFECT)]
    named = [one.name for one in params]
    policy = tuple(name for name in named if name.startswith(POLICY) and name not in APART)
    made = [Factor(name, (name,)) for name in named if name not in policy]
    if policy:
        made.append(Factor(policy[0] if len(policy) == 1 else f"augmentation ({', '.join(_short(policy))})", policy))
    kinds = {one.kind for one in found}
    if "data" in kinds:
        made.append(Factor("images", images=True))
    if "code" in kinds:
        changed = [one.name for one in found if one.kind == "code"]
        made.append(Factor(f"code ({', '.join(changed[:2])}{'…' if len(changed) > 2 else ''})", code=True))
    weights = {_kind(row): row["weight"] for row in reversed(suspects)}
    ordered = sorted(made, key=lambda factor: -max((weights.get(key, 0.0) for key in _keys(factor)), default=0.0))
    untested = [f"{one.kind} {one.name}" for one in found if one.kind in ("package", "hardware", "setting")]
    return _together(ordered), untested


def _short(names: Sequence[str]) -> list[str]:
    return [name.partition(".")[2] for name in names]


def _kind(row: Mapping[str, Any]) -> str:
    return str(row["name"]) if row["kind"] == "param" else str(row["kind"])


def _keys(factor: Factor) -> tuple[str, ...]:
    return factor.params + ("data",) * factor.images + ("code",) * factor.code


def _together(ordered: list[Factor]) -> list[Factor]:
    """The least suspected as one factor, if there are many."""
    if len(ordered) <= MAX_FACTORS:
        return ordered
    rest = ordered[MAX_FACTORS - 1 :]
    names = ", ".join(factor.name for factor in rest)
    joined = Factor(names, tuple(name for factor in rest for name in factor.params))
    joined = replace(joined, images=any(factor.images for factor in rest), code=any(factor.code for factor in rest))
    return [*ordered[: MAX_FACTORS - 1], joined]


def num_trainings(num_factors: int, ends: Ends) -> int:
    """At most: repetitions that are lacking, the path, and its end, if B has other seeds than A."""
    groups = [ends.first, ends.last] if num_factors else [ends.first]
    lacking = sum(len(_lacking(group)) for group in groups)
    between = num_factors * (num_factors + 1) // 2 - 1 if num_factors else 0
    return lacking + between


def _lacking(group: Mapping[Any, float]) -> list[int]:
    """The shifts of the seeds that are to be trained: 0, if it is not known, and others until there are enough."""
    num = max(0, 1 + NUM_REPETITIONS - len(group))
    others = [shift for shift in range(1, 2 + len(group) + NUM_REPETITIONS) if shift not in group]
    return [0, *others[: max(0, num - 1)]] if 0 not in group else others[:num]


def walk(made: Sequence[Factor], ends: Ends, measure: Measure) -> dict[str, Any]:
    """Walk the path from A (``ends.first[0]``) to B with A's seeds (``ends.last[0]``); what of the ends is not known is measured.

    Returns plain values: ``steps``, ``cause`` (a factor's name or None), ``not_needed``, ``spread``, ``margin``, ``before``, ``after`` and
    ``sentence``.
    """
    everything = frozenset(factor.name for factor in made)
    first = dict(ends.first) | {shift: measure(frozenset(), shift) or 0.0 for shift in _lacking(ends.first)}
    last = dict(ends.last) | {shift: measure(everything, shift) or 0.0 for shift in _lacking(ends.last)} if made else {}
    ends = Ends(first, last)
    before, after = first[0], last[0] if made else first[0]
    steps, remaining = _path(made, before, after, ends.margin, measure)
    towards = [step for step in steps if step.beyond and (step.after - step.before) * (after - before) > 0]
    cause = max(towards, key=lambda step: abs(step.after - step.before), default=None)
    return {
        "cause": cause.factor if cause else None,
        "steps": [{**asdict(step), "share": _share(step, before, after)} for step in steps],
        "not_needed": [factor.name for factor in remaining],
        "before": before,
        "after": after,
        "spread": ends.spread,
        "margin": ends.margin,
        "num_repetitions": [len(ends.first), len(ends.last)],
        "sentence": f"{_sentence(cause, steps, ends)}; {_chance(ends)}",
    }


def _path(made: Sequence[Factor], before: float, after: float, margin: float, measure: Measure) -> tuple[list[Step], list[Factor]]:
    """The steps, until what is left is no more than chance, and the factors that are left then.

    A hybrid that failed as neither end did is no way to go: what was switched does not work without the rest.
    """
    value, steps, switched, remaining = before, list[Step](), frozenset[str](), list(made)
    while remaining and abs(after - value) > margin:
        found = dict[str, float]()
        for factor in remaining:
            measured = after if len(remaining) == 1 else measure(switched | {factor.name}, 0)
            found[factor.name] = math.inf if measured is None else measured
        best = min(remaining, key=lambda factor: abs(found[factor.name] - after))
        if math.isinf(found[best.name]):
            best, found = remaining[0], {remaining[0].name: value}  # none works alone: the last step has it all
        steps.append(Step(best.name, value, found[best.name], abs(found[best.name] - value) > margin))
        value, switched = found[best.name], switched | {best.name}
        remaining.remove(best)
    return steps, remaining


def _share(step: Step, before: float, after: float) -> float | None:
    return (step.after - step.before) / (after - before) if after != before else None


def _sentence(cause: Step | None, steps: Sequence[Step], ends: Ends) -> str:
    if not ends.last:
        return "no cause beyond chance: nothing differs that can be switched, but seeds"
    before, after = ends.first[0], ends.last[0]
    if not steps:
        return f"no cause beyond chance: accuracy goes from {before:.3f} to {after:.3f}"
    if cause is None:
        return f"no single cause: accuracy goes from {before:.3f} to {after:.3f}, and no step of it is more than chance"
    return (
        f"{cause.factor} is the cause: it takes accuracy from {cause.before:.3f} to {cause.after:.3f} "
        f"({_share(cause, before, after):.0%} of the whole change from {before:.3f} to {after:.3f})"
    )


def _chance(ends: Ends) -> str:
    return f"by chance two runs are up to {ends.margin:.3f} apart (standard deviation over seeds {ends.spread:.3f})"
