"""The diagnosis on the kept runs of its benchmark, whose faults are known: what it once told right it still does."""

from __future__ import annotations

import pytest

from stages.shared.evidence import PHASES, Epoch, Step
from stages.shared.training import hopeless
from tests.benchmarks.diagnosis import tables
from tests.benchmarks.diagnosis.recipes import DATASETS
from tests.benchmarks.diagnosis.score import by_signals, counted, score, wilson, with_configuration


@pytest.mark.parametrize("dataset", DATASETS)
def test_known_faults_are_named_and_healthy_runs_left_alone(dataset: str) -> None:
    runs = counted(tables.read(dataset))
    found = score(runs, with_configuration)
    assert len(runs.hurt) > 50
    assert found.top_1 >= 0.9
    assert found.false_alarms <= 2  # heads that miss a gate set for a training that is fine-tuned
    assert score(runs, by_signals).top_1 >= 0.8


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_healthy_training_is_hopeless_at_any_time(dataset: str) -> None:
    for control in counted(tables.read(dataset)).controls:
        train = control.evidence.train
        assert train is not None
        for count, last in enumerate(train.epochs, 1):
            steps = tuple(step for step in train.steps if _place(step) <= _place(last))
            assert hopeless.reason(train.model_copy(update={"epochs": train.epochs[:count], "steps": steps})) is None, control.unit.name


def _place(piece: Step | Epoch) -> tuple[int, int]:
    return PHASES.index(piece.phase), piece.epoch


def test_wilson_interval() -> None:
    """Wilson 1927: of 0 in n the upper end is z² / (n + z²)."""
    assert wilson(0, 60) == pytest.approx((0.0, 1.96**2 / (60 + 1.96**2)))
    assert wilson(30, 60) == pytest.approx((0.3773, 0.6227), abs=1e-3)
