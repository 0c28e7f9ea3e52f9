"""A bare ``model.fit`` that takes turns with a training, some steps each: on a machine whose speed wavers, nothing else compares."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import keras
import numpy as np

from stages.shared import paths, prepared
from stages.shared.model import build_classifier
from stages.shared.params import load
from stages.shared.training.resume import Checkpointer

SECONDS = Path("seconds.jsonl")
STEPS_A_TURN = 22


def install() -> None:
    """From now on ``SECONDS`` gets a line an epoch: seconds of training, of these waiting for data, and of the bare fit."""
    from tensorflow.python.framework import config

    train_step, train_epoch = Checkpointer.on_train_batch_end, Checkpointer.on_epoch_end
    bare = BareFit()
    ours_s, waited_s, began = 0.0, 0.0, time.perf_counter()

    def hand_over(batches: Any) -> None:
        nonlocal ours_s, began
        wait(batches._made.values())  # what is made ahead is training's expense
        ours_s += time.perf_counter() - began
        config.disable_op_determinism()
        bare.take_turn()
        config.enable_op_determinism()
        began = time.perf_counter()

    def on_train_batch_end(self: Checkpointer, batch: int, logs: dict[str, float] | None = None) -> None:
        train_step(self, batch, logs)
        if is_turn_over(batch, self._batches.num_steps):
            hand_over(self._batches)

    def on_epoch_end(self: Checkpointer, epoch: int, logs: dict[str, float] | None = None) -> None:
        nonlocal ours_s, waited_s
        train_epoch(self, epoch, logs)
        hand_over(self._batches)
        with SECONDS.open("a") as file:
            file.write(json.dumps([ours_s, self._batches.waited_s - waited_s, bare.seconds]) + "\n")
        ours_s, waited_s, bare.seconds = 0.0, self._batches.waited_s, 0.0

    Checkpointer.on_train_batch_end, Checkpointer.on_epoch_end = on_train_batch_end, on_epoch_end  # type: ignore[method-assign]


def is_turn_over(batch: int, num_steps: int) -> bool:
    """Whether to hand over after a step; the last turn of an epoch ends after its validation."""
    return (batch + 1) % STEPS_A_TURN == 0 and batch + 1 < num_steps


class BareFit(threading.Thread):
    """Trains and validates, in batches of the same sizes, one cached batch again and again, whenever it has its turn."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds = 0.0
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self.start()

    def take_turn(self) -> None:
        """Let it train for a turn."""
        self._mine.release()
        self._theirs.acquire()

    def run(self) -> None:
        self._mine.acquire()
        params = load(paths.PARAMS).train
        images, validation = (prepared.read(paths.PREPARED, split) for split in ("train", "val"))
        num_steps = -(-len(images.labels) // params.batch_size)
        model = build_classifier(len(images.classes), images.size_px, alpha=params.alpha, dropout=0.2, batchnorm_momentum=0.9, seed=0)
        model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
        began = time.perf_counter()

        def hand_over() -> None:
            nonlocal began
            self.seconds += time.perf_counter() - began
            self._theirs.release()
            self._mine.acquire()
            began = time.perf_counter()

        turns = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: hand_over() if is_turn_over(batch, num_steps) else None,
            on_epoch_end=lambda epoch, logs: hand_over(),
        )
        data, val_data = (repeated(split, params.batch_size) for split in (images, validation))
        model.fit(data, validation_data=val_data, epochs=params.epochs, verbose=0, callbacks=[turns])


def repeated(images: prepared.Prepared, batch_size: int) -> Any:
    """One cached batch, as often as the split has batches (with the rest of one, where its last is not full)."""
    import tensorflow as tf

    pixels = images.gather(np.arange(batch_size))
    targets = np.eye(len(images.classes), dtype=np.float32)[images.labels[:batch_size]]
    num_whole, rest = divmod(len(images.labels), batch_size)
    whole, last = (tf.data.Dataset.from_tensors((pixels[:size], targets[:size])).cache() for size in (batch_size, rest))
    made = whole.repeat(num_whole).concatenate(last) if rest else whole.repeat(num_whole)
    options = tf.data.Options()
    options.autotune.enabled = False  # else it takes up to twice as long; see ``Batches.for_fit``
    return made.prefetch(2).with_options(options)
