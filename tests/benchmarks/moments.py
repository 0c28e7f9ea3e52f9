"""When a training has been imported, made, and through its first step: a line of ``FILE``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import keras
import psutil

FILE = Path("moments.jsonl")


def install() -> None:
    """Notes when the process began and now, when imports are done; then the beginning and end of the first step."""
    moments = {"process": psutil.Process().create_time(), "imported": time.time()}

    class Moments(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
            moments.setdefault("first_step", time.time())

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            if "trained" not in moments:
                moments["trained"] = time.time()
                with FILE.open("a") as file:
                    file.write(json.dumps(moments) + "\n")

    fit = keras.Model.fit

    def timed(self: Any, *arguments: Any, callbacks: list[Any], **options: Any) -> Any:
        return fit(self, *arguments, callbacks=[*callbacks, Moments()], **options)

    keras.Model.fit = timed
