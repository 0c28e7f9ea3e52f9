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
    def degrees(self) -> int:
        return sum(len(group) - 1 for group in (self.first, self.last) if group)

    @property
    def spread(self) -> float:
        """The pooled standard deviation of one accuracy over seeds."""
        groups = [list(group.values()) for group in (self.first, self.last) if group]
        squares = sum((value - statistics.fmean(group)) ** 2 for group in groups for value in group)
        return math.sqrt(squares / self.degrees) if self.degrees else math.nan

    @property
    def margin(self) -> float:
        """How far two single runs are apart by chance (95 %)."""
        return student_t(max(self.degrees, LEAST_DEGREES)) * math.sqrt(2) * self.spread


# Measures the accuracy of a hybrid: the names of the factors that are as in B, and how often the seeds are moved on from A's.
Measure = Callable[[frozenset[str], int], float]


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


def test(made: Sequence[Factor], ends: Ends, measure: Measure) -> dict[str, Any]:
    """Walk the path from A (``ends.first[0]``) to B with A's seeds (``ends.last[0]``, if it is known).

    Returns plain values: ``steps``, ``cause`` (a factor's name or None), ``spread``, ``margin``, ``before``, ``after`` and ``sentence``.
    """
    everything = frozenset(factor.name for factor in made)
    first = dict(ends.first) | {shift: measure(frozenset(), shift) for shift in _lacking(ends.first)}
    last = dict(ends.last) | {shift: measure(everything, shift) for shift in _lacking(ends.last)} if made else {}
    ends = Ends(first, last)
    before, after = first[0], last[0] if made else first[0]
    value, steps, switched = before, list[Step](), frozenset[str]()
    remaining = list(made)
    while remaining and abs(after - value) > ends.margin:
        found = {factor.name: after if len(remaining) == 1 else measure(switched | {factor.name}, 0) for factor in remaining}
        towards = math.copysign(1.0, after - value)
        best = max(remaining, key=lambda factor: found[factor.name] * towards)
        steps.append(Step(best.name, value, found[best.name], abs(found[best.name] - value) > ends.margin))
        value, switched = found[best.name], switched | {best.name}
        remaining.remove(best)
    largest = max(steps, key=lambda step: abs(step.after - step.before), default=None)
    cause = largest.factor if largest is not None and largest.beyond else None
    return {
        "cause": cause,
        "steps": [{**asdict(step), "share": _share(step, before, after)} for step in steps],
        "not_needed": [factor.name for factor in remaining],
        "before": before,
        "after": after,
        "spread": ends.spread,
        "margin": ends.margin,
        "num_repetitions": [len(ends.first), len(ends.last)],
        "sentence": _sentence(cause, steps, ends) if made else _sentence_of_seeds(ends),
    }


def _share(step: Step, before: float, after: float) -> float | None:
    return (step.after - step.before) / (after - before) if after != before else None


def _sentence(cause: str | None, steps: Sequence[Step], ends: Ends) -> str:
    before, after = ends.first[0], ends.last[0]
    if cause is None:
        return f"no cause beyond chance: accuracy goes from {before:.3f} to {after:.3f}; {_chance(ends)}"
    step = next(step for step in steps if step.factor == cause)
    return (
        f"{cause} is the cause: it takes accuracy from {step.before:.3f} to {step.after:.3f} "
        f"({_share(step, before, after):.0%} of the whole change from {before:.3f} to {after:.3f}); {_chance(ends)}"
    )


def _sentence_of_seeds(ends: Ends) -> str:
    return f"no cause beyond chance: nothing but seeds differs; {_chance(ends)}"


def _chance(ends: Ends) -> str:
    return f"by chance two runs are up to {ends.margin:.3f} apart (standard deviation over seeds {ends.spread:.3f})"
