"""``python -m tests.benchmarks.diagnosis.fix_success FOLDER``: whether the advised change mends a run, and whether a random one does.

For faults that hurt and that parameters can mend, of the data sets to which no threshold was fitted: the run again with the advised change,
over seeds, and again with a random change of as many parameters to usual values. A run counts as mended when at least 80 % of what was lost
against the healthy twins is won back, in each figure in which it was lost, and it is as good as they are in the others. Finished runs are
kept in FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.shared.rules import judge
from tests.benchmarks.diagnosis.harm import LEAST_LOST, harm, lost, usual
from tests.benchmarks.diagnosis.make_runs import make_all
from tests.benchmarks.diagnosis.recipes import LAST, OTHERS
from tests.benchmarks.diagnosis.result import Figures, Result, kept
from tests.benchmarks.diagnosis.score import counted, load, params_of
from tests.benchmarks.diagnosis.unit import Unit

SEEDS = (10,)
WON_BACK = 0.8
MAX_PER_FAULT = 2
# From where a person who knows nothing would take a change: usual values of what the advice can name.
USUAL: dict[str, tuple[Any, ...]] = {
    "train.learning_rate": (1e-4, 1e-3, 3e-3, 1e-2),
    "train.optimizer": ("adam", "sgd", "rmsprop", "adamw"),
    "train.dropout": (0.0, 0.2, 0.4, 0.5),
    "train.weight_decay": (0.0, 1e-4, 1e-2),
    "train.batch_size": (16, 32, 64),
    "train.epochs": (10, 20),
    "train.schedule": ("constant", "cosine"),
    "train.clip_norm": (None, 1.0),
    "train.early_stopping_patience": (None, 3, 5),
    "train.restore_best_weights": (True, False),
    "train.batchnorm_momentum": (0.9, 0.99),
    "train.batchnorm_recalibration_images": (0, 1000),
    "train.fine_tune_learning_rate": (1e-5, 1e-4),
    "train.fine_tune_epochs": (0, 4),
    "augment.rotation_degrees": (0, 8, 15),
    "augment.zoom": (0.0, 0.1, 0.2),
    "augment.width_shift": (0.0, 0.1),
    "augment.horizontal_flip": (True, False),
    "augment.balancing": ("none", "class_weight", "oversample"),
    "prepare.image_size_px": (32, 64),
}


def advised(result: Result) -> dict[str, Any] | None:
    """The changes of the first finding, by dotted name; None where it advises an action, or nothing."""
    findings = judge(result.evidence, params_of(result)).findings
    fix = findings[0].fix if findings else ()
    return {change["param"]: change["to"] for change in fix if "param" in change} or None


def random_change(result: Result, count: int, seed: int) -> dict[str, Any]:
    """As many parameters, each to another of its usual values."""
    generator = np.random.default_rng([seed, *result.unit.name.encode()])
    names = generator.permutation(sorted(USUAL))[:count]
    return {str(name): _other(result, str(name), generator) for name in names}


def _other(result: Result, name: str, generator: np.random.Generator) -> Any:
    section, key = name.split(".")
    values = [value for value in USUAL[name] if value != result.params[section][key]]
    return values[int(generator.integers(len(values)))]


def chosen(results: Sequence[Result]) -> list[Result]:
    """Faults that hurt and that parameters can mend, at most two of a kind, the first by name, and not the same with another seed."""
    found: dict[str, list[Result]] = {}
    for result in sorted(counted(results).hurt, key=lambda result: result.unit.name):
        of_kind = found.setdefault(result.unit.fault, [])
        if result.unit.params_can_mend and not any(replace(other.unit, seed=result.unit.seed) == result.unit for other in of_kind):
            of_kind.append(result)
    return [result for of_kind in found.values() for result in of_kind[:MAX_PER_FAULT]]


def is_mended(before: Result, after: Result, healthy: Figures) -> bool:
    """Whether 80 % of what was lost is won back, in each figure in which some was, and the run is as good as its twins in the others."""
    if harm(after, healthy) is not None:
        return False
    if before.evidence.failure is not None:
        return True
    was, still = lost(before.figures, healthy), lost(after.figures, healthy)
    return all(still[name] <= (1 - WON_BACK) * was[name] for name, least in LEAST_LOST.items() if was[name] >= least)


@dataclass(frozen=True)
class Trial:
    """A run again, with other parameters and another seed; without changes there is nothing to run."""

    before: Result
    kind: str
    seed: int
    changes: dict[str, Any] | None

    @property
    def unit(self) -> Unit:
        unit = self.before.unit
        return replace(unit, variant=f"{unit.variant}-{self.kind}", seed=self.seed, changes=unit.changes | (self.changes or {}))


def trials(before: Result) -> Iterator[Trial]:
    """The advised change and a random one of as many parameters, over the seeds."""
    changes = advised(before)
    for seed in SEEDS:
        yield Trial(before, "advised", seed, changes)
        yield Trial(before, "random", seed, random_change(before, len(changes or ()) or 2, seed))


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {__doc__}")
    folder = Path(sys.argv[1]).absolute()
    loaded = load([])
    results = [result for dataset in (OTHERS, LAST) for result in loaded[dataset]]
    by_name = {result.unit.name: result for result in results}
    tried = [trial for dataset in (OTHERS, LAST) for before in chosen(loaded[dataset]) for trial in trials(before)]
    make_all([trial.unit for trial in tried if trial.changes is not None and not kept(trial.unit, folder)], folder)
    mended: dict[str, list[bool]] = {"advised": [], "random": []}
    for trial in tried:
        after, healthy = kept(trial.unit, folder) if trial.changes is not None else None, usual(trial.before.unit, by_name)
        worked = after is not None and healthy is not None and is_mended(trial.before, after, healthy)
        mended[trial.kind].append(worked)
        told = "mended" if worked else "not mended"
        print(f"{trial.before.unit.name}, seed {trial.seed}, {trial.kind} {trial.changes}: {told}")
    for kind, outcomes in mended.items():
        print(f"{kind}: {sum(outcomes)} of {len(outcomes)} runs mended, {sum(outcomes) / max(1, len(outcomes)):.2f}")


if __name__ == "__main__":
    main()
