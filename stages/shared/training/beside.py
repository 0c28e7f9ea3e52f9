"""A layer asked beside training: what it would remember is thrown away."""

from __future__ import annotations

from typing import Any

import keras


class Beside:
    """Calls a layer (or model) of a classifier without changing it; ``options`` are those of its own ``call``.

    On JAX as one compiled program for each shape of the inputs. Operation by operation each would be compiled by itself, a thousand in a
    training, which took 100 s on a GPU (JAX 0.11, H200).
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._compiled: Any = None
        if keras.backend.backend() == "jax":
            import jax

            self._compiled = jax.jit(self._stateless, static_argnames="training")

    def __call__(self, inputs: Any, **options: bool) -> Any:
        """What the layer makes of the inputs."""
        if self._compiled is not None:
            return self._compiled(*values(self._layer), inputs, **options)
        with keras.StatelessScope():
            return self._layer(inputs, **options)

    def _stateless(self, trainable: list[Any], rest: list[Any], inputs: Any, **options: bool) -> Any:
        return self._layer.stateless_call(trainable, rest, inputs, **options)[0]


def values(layer: Any) -> tuple[list[Any], list[Any]]:
    """What is in the variables of a layer: in those that are trained, and in all others."""
    return [variable.value for variable in layer.trainable_variables], [variable.value for variable in layer.non_trainable_variables]
