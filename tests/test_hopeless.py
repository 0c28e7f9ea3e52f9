"""When a training is stopped because nothing can come of it, and when not."""

from __future__ import annotations

import math
from typing import Any

import pytest

from stages.shared.evidence import Epoch, Step, TrainEvidence
from stages.shared.training import hopeless
from tests.rule_cases import setup

UNTRAINED = math.log(10)
SETUP = setup(num_head_epochs=20, num_fine_tune_epochs=5)


def training(
    losses: list[float], ratio: float = 1e-3, unchanged_share: float = 0.0, phase: str = "head", accuracy: float = 0.1
) -> TrainEvidence:
    usual: dict[str, Any] = {"phase": phase, "num_steps": 100, "has_validation": True, "learning_rate": 1e-3}
    epochs = tuple(
        Epoch(epoch=i, loss=loss, val_loss=loss, accuracy=accuracy, val_accuracy=accuracy, **usual) for i, loss in enumerate(losses)
    )
    ratios: dict[str, Any] = dict.fromkeys(("update_ratio", "highest_ratio"), ratio)
    steps = tuple(
        Step(phase=phase, epoch=i // 2, step=i, loss=1.0, unchanged_share=unchanged_share, norm_share=1.0, **ratios)
        for i in range(2 * len(losses) + 6)
    )
    return TrainEvidence(setup=SETUP, epochs=epochs, steps=steps)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (training([3 * UNTRAINED, 10 * UNTRAINED, 50 * UNTRAINED]), "has diverged"),
        (training([UNTRAINED] * 2, ratio=0.0, unchanged_share=1.0), "Nothing trains"),
        (training([UNTRAINED] * 4, ratio=1e-8), "stuck"),
        (training([UNTRAINED] * 4, ratio=0.3), "stuck"),
        (training([UNTRAINED] * 4, ratio=math.nan), "stuck"),
    ],
)
def test_hopeless(found: TrainEvidence, told: str) -> None:
    reason = hopeless.reason(found)
    assert reason is not None
    assert told in reason


@pytest.mark.parametrize(
    "found",
    [
        TrainEvidence(setup=SETUP),
        training([2.3, 1.8, 1.5]),
        training([10 * UNTRAINED]),  # a violent first epoch
        training([10 * UNTRAINED, 4 * UNTRAINED]),  # that is coming back
        training([UNTRAINED] * 3, ratio=1e-8),  # too early to tell
        training([10 * UNTRAINED] * 3, accuracy=0.9),  # sure of itself where it is wrong, and mostly right
        training([UNTRAINED, 0.8 * UNTRAINED], ratio=0.0, unchanged_share=1.0),  # it learns: the samples missed the changes
        training([UNTRAINED], ratio=0.0, unchanged_share=1.0),
        training([UNTRAINED] * 6),  # stuck with ordinary steps: some trainings start late
        training([UNTRAINED, UNTRAINED, UNTRAINED, 0.95 * UNTRAINED], ratio=1e-8),  # falls, if slowly
        training([UNTRAINED] * 2, ratio=1e-9, unchanged_share=0.9),
    ],
)
def test_not_hopeless(found: TrainEvidence) -> None:
    assert hopeless.reason(found) is None


def test_the_present_phase_decides() -> None:
    """A head that learned late is no reason to stop fine-tuning, nor is a head that learned one to go on with a phase that does not."""
    head, tuning = training([UNTRAINED] * 4, ratio=0.3), training([1.0, 0.9], phase="fine-tune")
    both = TrainEvidence(setup=SETUP, epochs=head.epochs + tuning.epochs, steps=head.steps + tuning.steps)
    assert hopeless.reason(both) is None
    learned, broken = training([1.0, 0.5]), training([9.0 * UNTRAINED] * 2, phase="fine-tune")
    both = TrainEvidence(setup=SETUP, epochs=learned.epochs + broken.epochs, steps=learned.steps + broken.steps)
    assert "diverged" in str(hopeless.reason(both))
