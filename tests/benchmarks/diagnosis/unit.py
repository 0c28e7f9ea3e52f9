"""A unit: a fault of some severity, made in some way, in a recipe of a data set with a seed; and rows of tables, from which units come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.benchmarks.diagnosis.recipes import DATASETS, TRANSFER

Severity = Literal["mild", "strong", "control"]
HEALTHY = "healthy"
PLAIN, HEAD_ONLY, PLAIN_SEEDS = "plain", "head-only", (0, 1, 2)


@dataclass(frozen=True)
class Unit:
    """One run: a recipe with changed parameters (by dotted name) or an injection (``injections.INJECTIONS``), or both.

    ``fault`` is the right answer. ``params_can_mend``: whether a change of parameters can undo it; else the advice is an action.
    """

    fault: str
    severity: Severity
    variant: str
    dataset: str
    recipe: str
    seed: int
    changes: dict[str, Any] = field(default_factory=dict)
    injection: str = ""
    amount: float = 0.0
    params_can_mend: bool = False

    @property
    def name(self) -> str:
        """Names its files: ``fashion-scratch-label-noise-flip-mild-0``."""
        return "-".join((self.dataset, self.recipe, self.fault, self.variant, self.severity, str(self.seed)))

    @property
    def all_changes(self) -> dict[str, Any]:
        """Of the recipe's parameters, the seed's included."""
        return {"train.seed": self.seed, "augment.seed": self.seed} | self.changes

    @property
    def twins(self) -> tuple[str, ...]:
        """The names of its healthy twins: the recipe as it is, with several seeds; for what is not fine-tuned, twins that are not."""
        is_head_alone = self.changes.get("train.fine_tune_epochs") == 0 and self.recipe == TRANSFER
        plain = replace(self, fault=HEALTHY, severity="control", variant=HEAD_ONLY if is_head_alone else PLAIN)
        return tuple(replace(plain, seed=seed).name for seed in PLAIN_SEEDS)


@dataclass(frozen=True)
class Case:
    """A row of the table, for all data sets or some."""

    fault: str
    severity: Severity
    variant: str
    recipes: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    injection: tuple[str, float] = ("", 0.0)
    seeds: tuple[int, ...] = (0,)
    datasets: tuple[str, ...] = DATASETS

    def units(self) -> Iterator[Unit]:
        """One for each data set, recipe and seed."""
        name, amount = self.injection
        takes_images = any(key.startswith("validate.") for key in self.changes)  # which a training cannot make up for
        for dataset in self.datasets:
            for recipe in self.recipes:
                for seed in self.seeds:
                    yield Unit(
                        self.fault,
                        self.severity,
                        self.variant,
                        dataset,
                        recipe,
                        seed,
                        self.changes,
                        name,
                        amount,
                        params_can_mend=not name and self.fault != HEALTHY and not takes_images,
                    )
