"""The path from one run to another: what is switched together, how many trainings that takes, and which cause it names."""

from __future__ import annotations

from typing import Any

import pytest

from stages.flight.runs import ablation
from stages.flight.runs.ablation import Ends, Factor
from stages.flight.runs.differences import Difference

QUIET = Ends({0: 0.80, 1: 0.81, 2: 0.79}, {0: 0.40, 1: 0.41, 2: 0.39})
RATE, DROPOUT, CODE = Factor("train.learning_rate"), Factor("train.dropout"), Factor("code", code=True)


class World:
    """Accuracies by what is switched; counts the trainings."""

    def __init__(self, effects: dict[str, float], noise: float = 0.0) -> None:
        self.effects, self.noise, self.asked = effects, noise, list[tuple[frozenset[str], int]]()

    def measure(self, switched: frozenset[str], moved: int) -> float:
        self.asked.append((switched, moved))
        together = self.effects.get(" + ".join(sorted(switched)), sum(self.effects.get(name, 0.0) for name in switched))
        return 0.8 + together + self.noise * (1 - 2 * (moved % 2)) * (moved > 0)


def test_the_cause_is_named_with_its_share() -> None:
    world = World({"train.learning_rate": -0.4, "train.dropout": -0.01})
    found = ablation.walk([DROPOUT, RATE, CODE], Ends(QUIET.first, {**QUIET.last, 0: 0.39}), world.measure)
    assert found["cause"] == "train.learning_rate"
    assert [step["factor"] for step in found["steps"]] == ["train.learning_rate"]
    assert found["steps"][0]["share"] == pytest.approx(0.4 / 0.41)
    assert sorted(found["not_needed"]) == ["code", "train.dropout"]
    assert len(world.asked) == 3, "what is left is within chance, and nothing more is trained"


def test_two_causes_are_both_beyond_chance_and_the_larger_is_named() -> None:
    world = World({"train.learning_rate": -0.1, "code": -0.3})
    found = ablation.walk([RATE, CODE], QUIET, world.measure)
    assert [(step["factor"], step["beyond"]) for step in found["steps"]] == [("code", True), ("train.learning_rate", True)]
    assert found["cause"] == "code"
    assert sum(step["share"] for step in found["steps"]) == pytest.approx(1)


def test_what_harms_only_together_is_told_by_the_step_in_which_it_does() -> None:
    world = World({"train.learning_rate": 0.0, "code": 0.0, "code + train.learning_rate": -0.4})
    found = ablation.walk([RATE, CODE], QUIET, world.measure)
    assert len(found["steps"]) == 2
    assert found["steps"][1]["after"] == pytest.approx(0.4)
    assert found["cause"] == found["steps"][1]["factor"]


def test_what_comes_nearest_to_the_end_is_switched_first_not_what_goes_beyond_it() -> None:
    ends = Ends({0: 0.80, 1: 0.81, 2: 0.79}, {0: 0.60, 1: 0.61, 2: 0.59})
    both = {"code": -0.5, "train.learning_rate": -0.21, "code + train.learning_rate": -0.2}
    found = ablation.walk([CODE, RATE], ends, World(both).measure)
    assert (found["cause"], [step["factor"] for step in found["steps"]]) == ("train.learning_rate", ["train.learning_rate"])


def test_a_hybrid_that_fails_alone_is_no_cause() -> None:
    """Other weights do not fit the network of the other run, and the width alone does all the harm."""

    def measure(switched: frozenset[str], _: int) -> float | None:
        return {frozenset(["images"]): None, frozenset(["train.alpha"]): 0.45}.get(switched, 0.4)

    found = ablation.walk([Factor("images", images=True), Factor("train.alpha")], QUIET, measure)
    assert found["cause"] == "train.alpha"
    found = ablation.walk([Factor("images", images=True), Factor("train.alpha")], QUIET, lambda switched, _: None)
    assert [step["after"] for step in found["steps"]] == [0.8, 0.4], "neither works alone, and both together take it all"


def test_a_hybrid_that_fails_as_the_end_does_has_come_to_it() -> None:
    ends = Ends({0: 0.80, 1: 0.81, 2: 0.79}, {0: 0.0})
    found = ablation.walk([RATE, DROPOUT], ends, lambda switched, _: 0.0 if "train.learning_rate" in switched else 0.79)
    assert found["margin"] > QUIET.margin, "three failures do not tell how seeds spread"
    assert (found["cause"], found["after"]) == ("train.learning_rate", 0.0)


def test_small_steps_that_add_up_have_no_single_cause() -> None:
    ends = Ends({0: 0.80, 1: 0.90, 2: 0.70}, {0: 0.40, 1: 0.50, 2: 0.30})
    world = World({"train.learning_rate": -0.2, "train.dropout": -0.2})
    found = ablation.walk([RATE, DROPOUT], ends, world.measure)
    assert found["cause"] is None
    assert found["sentence"].startswith("no single cause")


def test_a_difference_within_chance_has_no_cause_and_costs_no_path() -> None:
    noisy = Ends({0: 0.80, 1: 0.90, 2: 0.70}, {0: 0.75, 1: 0.85, 2: 0.65})
    world = World({"train.learning_rate": -0.05})
    found = ablation.walk([RATE, DROPOUT], noisy, world.measure)
    assert (found["cause"], found["steps"], world.asked) == (None, [], [])
    assert found["sentence"].startswith("no cause beyond chance")


def test_nothing_but_seeds_is_no_cause() -> None:
    world = World({}, noise=0.02)
    found = ablation.walk([], Ends({0: 0.8}, {}), world.measure)
    assert world.asked == [(frozenset(), 1), (frozenset(), 2)]
    assert found["cause"] is None
    assert "but seeds" in found["sentence"]


@pytest.mark.parametrize("num_factors", [1, 2, 3, 4])
@pytest.mark.parametrize("known", [{0: 0.0}, {"other seeds": 0.0}, {1: 0.0}, {}])
def test_no_more_is_trained_than_was_said(num_factors: int, known: dict[Any, float]) -> None:
    """Each factor harms, so that the whole path is walked. Seeds that are known are not trained again."""
    made = [Factor(f"factor {i}") for i in range(num_factors)]
    world = World({factor.name: -0.1 for factor in made}, noise=0.001)
    ends = Ends({0: 0.8}, dict.fromkeys(known, 0.8 - 0.1 * num_factors))
    ablation.walk(made, ends, world.measure)
    assert len(set(world.asked)) == len(world.asked) == ablation.num_trainings(num_factors, ends)
    everything = frozenset(factor.name for factor in made)
    assert not [(everything, shift) for shift in known if (everything, shift) in world.asked]


def difference(kind: Any, name: str) -> Difference:
    return Difference(kind, name, (1, 2))


def test_what_belongs_together_is_switched_together() -> None:
    found = [
        *(
            difference("param", name)
            for name in ("augment.zoom", "augment.shear", "augment.balancing", "train.seed", "evaluate.gates.accuracy.min")
        ),
        *(difference("param", name) for name in ("train.learning_rate", "ingest.source")),
        difference("data", "images relabelled"),
        difference("code", "stages/train.py"),
        difference("code", "stages/shared/model.py"),
        difference("package", "numpy"),
    ]
    ranked = [{"kind": "code", "name": "stages/train.py", "weight": 9.0}, {"kind": "param", "name": "train.learning_rate", "weight": 8.0}]
    made, untested = ablation.factors(found, ranked)
    assert [factor.name for factor in made[:2]] == ["code (stages/train.py, stages/shared/model.py)", "train.learning_rate"]
    assert len(made) == ablation.MAX_FACTORS
    rest = made[3]
    covered = {name for factor in made for name in factor.params}
    assert covered == {"augment.zoom", "augment.shear", "augment.balancing", "train.learning_rate"}
    assert [factor for factor in made if factor.images]
    assert rest.params or rest.images
    assert untested == ["package numpy"]
