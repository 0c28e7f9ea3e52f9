"""A training kills itself, somewhere within the step that ``KILL_IN_STEP`` names."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

from stages.shared.training import resume
from stages.shared.training.collector import EvidenceCollector

MOST_S = 0.05  # about as long as a step of the tiny profile


def install() -> None:
    """Steps count over both phases, from 0; checkpoints come more often, so that many places are gone on from."""
    resume.COST_FACTOR = 5
    if "KILL_IN_STEP" not in os.environ:
        return
    wanted = int(os.environ["KILL_IN_STEP"])
    moment = MOST_S * random.Random(wanted).random()  # noqa: S311
    begin = EvidenceCollector.on_train_batch_begin
    num_steps = 0

    def on_train_batch_begin(self: Any, batch: int, logs: dict[str, float] | None = None) -> None:
        nonlocal num_steps
        if num_steps == wanted:
            threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
        num_steps += 1
        begin(self, batch, logs)

    EvidenceCollector.on_train_batch_begin = on_train_batch_begin  # type: ignore[method-assign]
