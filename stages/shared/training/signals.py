"""Gradients and activations of one batch: measured beside training, without changing anything of it."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from stages.shared import model
from stages.shared.evidence import Activations, Gradients
from stages.shared.training.batches import Batch
from stages.shared.training.beside import Beside, values

# A unit that is above 0 in fewer of its outputs counts as dead, as in SageMaker Debugger's rule DeadRelu.
ACTIVE_SHARE = 0.01
# All outputs of the backbone are in memory at a time: 6 million numbers an image at 224 px and alpha 1.
MAX_IMAGES = 16


def gradients(classifier: Any, batch: Batch, phase: str, epoch: int) -> Gradients:
    """Of the compiled loss on a part of the batch, with dropout and BatchNorm as in training."""
    is_kernel = [variable.ndim > 1 for variable in classifier.trainable_variables]
    found = [np.asarray(keras.ops.convert_to_numpy(value), np.float64) for value in _gradients(classifier, batch)]
    by_kernel = [gradient for gradient, chosen in zip(found, is_kernel, strict=True) if chosen]
    return Gradients(
        phase=phase,
        epoch=epoch,
        norm=float(np.sqrt(sum((gradient**2).sum() for gradient in found))),
        means=tuple(float(np.abs(gradient).mean()) for gradient in by_kernel),
        zero_share=float(np.mean([(gradient == 0).mean() for gradient in by_kernel])) if by_kernel else 1.0,
    )


def _gradients(classifier: Any, batch: Batch) -> list[Any]:
    """One array for each trainable variable; zeros where none arrives."""
    images, targets, weights = (part[:MAX_IMAGES] for part in batch)
    if keras.backend.backend() == "jax":
        return list(_compiled(classifier)(*values(classifier), images, targets, weights))
    import tensorflow as tf

    variables = [variable.value for variable in classifier.trainable_variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        with keras.StatelessScope():
            loss = classifier.loss(targets, classifier(images, training=True), weights)
    return [
        tf.zeros_like(variable) if gradient is None else gradient
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True)
    ]


@functools.lru_cache(1)
def _compiled(classifier: Any) -> Any:
    """On JAX one program, for the reason that ``Beside`` gives."""
    import jax

    def loss(trained: list[Any], rest: list[Any], images: Any, targets: Any, weights: Any) -> Any:
        answers, _ = classifier.stateless_call(trained, rest, images, training=True)
        return classifier.loss(targets, answers, weights)

    return jax.jit(jax.grad(loss))


def activations(classifier: Any, images: NDArray[np.uint8], phase: str, epoch: int) -> Activations:
    """Of every ReLU6 of the backbone on some of the images, in inference mode."""
    at_zero, at_six, dead = [], [], []
    for output in _observed(classifier)(classifier.get_layer(model.INPUT_LAYER)(images[:MAX_IMAGES]), training=False):
        units = np.asarray(keras.ops.convert_to_numpy(output), np.float32)
        at_zero.append(float((units <= 0).mean()))
        at_six.append(float((units >= 6).mean()))
        dead.append(float(((units > 0).mean(axis=(0, 1, 2)) < ACTIVE_SHARE).mean()))
    return Activations(phase=phase, epoch=epoch, at_zero=tuple(at_zero), at_six=tuple(at_six), dead_units=tuple(dead))


@functools.lru_cache(1)
def _observed(classifier: Any) -> Beside:
    backbone = classifier.get_layer(model.BACKBONE_LAYER)
    return Beside(keras.Model(backbone.inputs, [layer.output for layer in backbone.layers if isinstance(layer, keras.layers.ReLU)]))
