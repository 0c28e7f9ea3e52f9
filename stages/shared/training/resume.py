"""A training's whole state into a checkpoint and back, so that one that was cut off goes on as if it had not been."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from stages.shared.training.batches import Batches
from stages.shared.training.checkpoints import Checkpoints

# A checkpoint is written when training has gone on for so many times what the last one took: it costs at most half a percent.
COST_FACTOR = 200


class Stateful(Protocol):
    """Whatever beside the model remembers something from epoch to epoch."""

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON; lists of arrays under the key ``weights``."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what ``state`` of another process gave."""


@dataclass(frozen=True)
class Position:
    """How far a training has come: ``epoch`` (within its phase) and ``step`` come next, or the next phase if this one is ``done``.

    ``first_epoch`` is how many epochs the phases before had.
    """

    phase: str
    first_epoch: int
    epoch: int
    step: int
    done: bool = False


class Checkpointer(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes checkpoints now and then, and puts the newest back. Comes last of all callbacks, so that the others have had their say.

    It holds no random state: order and augmentation follow from the position, and dropout's generator is a variable of the model.
    """

    def __init__(self, store: Checkpoints, batches: Batches, observers: Mapping[str, Stateful], origin: str) -> None:
        super().__init__()
        self._store, self._batches, self._observers, self._origin = store, batches, dict(observers), origin
        self._found = store.load()
        self._of_phase: dict[str, Stateful] = {}
        self._phase, self._first_epoch = "", 0
        self._metrics: list[NDArray[Any]] = []
        self._saved_at, self._cost_s = time.monotonic(), 0.0
        self._has_told = False

    @property
    def position(self) -> Position | None:
        """Where the training was when it was cut off; None if it begins."""
        return Position(**self._found[1]["position"]) if self._found else None

    @property
    def origin(self) -> str:
        """The run that wrote the checkpoint from which this one goes on."""
        return str(self._found[1]["origin"]) if self._found else ""

    def enter(self, training: Any, phase: str, first_epoch: int, of_phase: Mapping[str, Stateful]) -> Position:
        """Begin a phase with its freshly compiled model: at its start, or, if it was cut off in it, where it was."""
        self._phase, self._first_epoch, self._of_phase = phase, first_epoch, dict(of_phase)
        training.optimizer.build(training.trainable_variables)  # else TensorFlow traces the step twice, to find variables being made
        position = self.position
        if self._found is None or position is None or position.phase != phase:
            return Position(phase, first_epoch, 0, 0)
        arrays, state = self._found
        for name, variables in (("model", training.variables), ("optimizer", training.optimizer.variables)):
            for variable, value in zip(variables, _listed(arrays, name), strict=True):
                variable.assign(value)
        for name, observer in (self._observers | self._of_phase).items():
            observer.restore({**state["observers"][name], "weights": _listed(arrays, f"observer-{name}")})
        self._metrics = _listed(arrays, "metric")
        self._found = None
        return position

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._metrics:  # of the part of the epoch before the cut; `fit` has just reset them
            if len(self.model.metrics_variables) < len(self._metrics):  # TensorFlow's trainer makes them with the first step only
                answer = np.zeros((1, *self.model.output_shape[1:]), np.float32)
                self.model.compute_metrics(None, answer, answer)
            for variable, value in zip(self.model.metrics_variables, self._metrics, strict=True):
                variable.assign(value)
            self._metrics = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        step = self._batches.first_step + batch + 1
        if self._is_due() and step < self._batches.num_steps:
            epoch = self._batches.epoch - self._first_epoch
            self._save(Position(self._phase, self._first_epoch, epoch, step), self.model.metrics_variables)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._is_due():
            self._save(Position(self._phase, self._first_epoch, epoch + 1, 0, done=self.model.stop_training), [])

    def _is_due(self) -> bool:
        return self._store.is_ours and time.monotonic() - self._saved_at >= COST_FACTOR * self._cost_s

    def _save(self, position: Position, metrics: list[Any]) -> None:
        begun = time.monotonic()
        arrays = dict(_numbered("metric", metrics))
        arrays |= dict(_numbered("model", self.model.variables)) | dict(_numbered("optimizer", self.model.optimizer.variables))
        states = {name: observer.state() for name, observer in (self._observers | self._of_phase).items()}
        for name, state in states.items():
            arrays |= dict(_numbered(f"observer-{name}", state.pop("weights", [])))
        number = (position.first_epoch + position.epoch) * self._batches.num_steps + position.step
        try:
            self._store.save(number, arrays, {"origin": self._origin, "position": asdict(position), "observers": states})
        except OSError as error:  # a full disk: the training itself goes on
            if not self._has_told:
                sys.stderr.write(
                    f"A checkpoint could not be written to {self._store.folder}: {error}. Make room; training goes on meanwhile.\n"
                )
            self._has_told = True
        self._saved_at = time.monotonic()
        self._cost_s = self._saved_at - begun


def _numbered(name: str, values: list[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    for number, value in enumerate(values):
        yield f"{name}/{number:04d}", np.asarray(keras.ops.convert_to_numpy(value))


def _listed(arrays: Mapping[str, NDArray[Any]], name: str) -> list[NDArray[Any]]:
    return [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}/")]


class _Patient:
    """What Keras's callbacks that wait for the validation loss need in a phase that may be cut off and gone on with.

    They do not forget when ``fit`` is called again. A rate that has been reduced is a variable of the optimizer.
    """

    wait: int
    best: float | None

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Keep what is known."""

    def state(self) -> dict[str, Any]:
        return {"wait": self.wait, "best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.wait, self.best = state["wait"], state["best"]


class EarlyStopping(_Patient, keras.callbacks.EarlyStopping):  # type: ignore[misc]
    """Keras's, for one phase."""


class ReduceLearningRateOnPlateau(_Patient, keras.callbacks.ReduceLROnPlateau):  # type: ignore[misc]
    """Keras's, for one phase."""
