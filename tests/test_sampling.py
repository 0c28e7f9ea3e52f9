"""Which image is drawn how often, and in which order."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from stages.shared.sampling import epoch_rows, plan_sampling

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (40, 7, 15)))
COUNTS = np.array([40, 7, 15])


def test_without_balancing_an_epoch_is_a_permutation() -> None:
    plan = plan_sampling(COUNTS, "none")
    assert plan.class_weights == (1.0, 1.0, 1.0)
    rows, draws = epoch_rows(LABELS, plan, 0, 0)
    assert sorted(rows) == list(range(62))
    assert sorted(draws) == list(range(62))
    assert rows.tolist() != sorted(rows)
    assert epoch_rows(LABELS, plan, 0, 0)[0].tolist() == rows.tolist()
    assert epoch_rows(LABELS, plan, 0, 1)[0].tolist() != rows.tolist()
    assert epoch_rows(LABELS, plan, 1, 0)[0].tolist() != rows.tolist()


@pytest.mark.parametrize(("balancing", "each"), [("oversample", 40), ("undersample", 7)])
def test_resampling_draws_each_class_equally_often(balancing: str, each: int) -> None:
    plan = plan_sampling(COUNTS, balancing)
    assert plan.draws_per_class == (each, each, each)
    assert plan.class_weights == (1.0, 1.0, 1.0)
    for epoch in range(3):
        rows, draws = epoch_rows(LABELS, plan, 0, epoch)
        assert np.bincount(LABELS[rows]).tolist() == [each] * 3
        assert sorted(draws) == list(range(3 * each))
        for label in range(3):
            times = np.bincount(rows, minlength=62)[label == LABELS]
            assert times.max() - times.min() <= 1


@pytest.mark.parametrize("balancing", ["oversample", "undersample"])
def test_who_is_drawn_once_more_changes_with_the_epoch(balancing: str) -> None:
    plan = plan_sampling(COUNTS, balancing)
    times = {tuple(np.bincount(epoch_rows(LABELS, plan, 0, epoch)[0], minlength=62)) for epoch in range(4)}
    assert len(times) == 4


def test_class_weights_equal_scikit_learn() -> None:
    plan = plan_sampling(COUNTS, "class_weight")
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    assert plan.class_weights == pytest.approx(tuple(wanted))
    assert plan.draws_per_class == (40, 7, 15)
    assert sum(np.array(plan.class_weights) * COUNTS) == pytest.approx(62)
