"""MobileNetV2 as a classifier: built, wrapped for augmented training, saved and loaded."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from stages.shared import files
from stages.shared.errors import SourceError

WEIGHTS_NAME = "weights.weights.h5"
ARCHITECTURE_NAME = "architecture.json"
# Its layers, one after the other.
INPUT_LAYER, BACKBONE_LAYER, POOL_LAYER, DROPOUT_LAYER, ANSWER_LAYER = "input_range", "backbone", "pool", "dropout", "probabilities"


def build_classifier(num_classes: int, size_px: int, *, alpha: float, dropout: float, batchnorm_momentum: float, seed: int) -> Any:
    """Images (n, size_px, size_px, 3), 0 to 255, to class probabilities (n, num_classes) float32.

    The input range of the backbone is [-1, 1] (``keras.applications.mobilenet_v2.preprocess_input``). BatchNorm's own
    momentum of 0.999 needs thousands of steps, so it is set on every layer.
    """
    backbone = keras.applications.MobileNetV2(
        input_shape=(size_px, size_px, 3), alpha=alpha, include_top=False, weights=None, name=BACKBONE_LAYER
    )
    for layer in _batchnorm_layers(backbone):
        layer.momentum = batchnorm_momentum
    images = keras.Input((size_px, size_px, 3), name="image")
    features = backbone(keras.layers.Rescaling(1 / 127.5, offset=-1, name=INPUT_LAYER)(images))
    pooled = keras.layers.GlobalAveragePooling2D(name=POOL_LAYER)(features)
    dropped = keras.layers.Dropout(dropout, seed=seed, name=DROPOUT_LAYER)(pooled)
    probabilities = keras.layers.Dense(num_classes, activation="softmax", dtype="float32", name=ANSWER_LAYER)(dropped)
    return keras.Model(images, probabilities, name="classifier")


def num_trainable(classifier: Any) -> int:
    """How many numbers training may change."""
    return int(sum(math.prod(variable.shape) for variable in classifier.trainable_variables))


def batchnorm_layers(classifier: Any) -> list[Any]:
    """All BatchNorm layers, in the order of the data."""
    return _batchnorm_layers(classifier.get_layer(BACKBONE_LAYER))


def _batchnorm_layers(backbone: Any) -> list[Any]:
    return [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]


class BackboneInTraining(keras.Model):  # type: ignore[misc]
    """Images to features with BatchNorm by the statistics of the batch, which also move its averages; also when it is asked to predict."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self._layers_in_order = [classifier.get_layer(name) for name in (INPUT_LAYER, BACKBONE_LAYER, POOL_LAYER)]

    def call(self, images: Any) -> Any:
        scale, backbone, pool = self._layers_in_order
        return pool(backbone(scale(images), training=True))


def load_backbone(classifier: Any, folder: Path) -> bool:
    """Load the frozen backbone's weights of ``folder``; False if it holds none.

    Raises:
        SourceError: if they are not those of this backbone (another alpha, a model with top).
    """
    name = files.read_json(folder / "backbone.json")["weights"]
    if not name:
        return False
    backbone = classifier.get_layer(BACKBONE_LAYER)
    before = backbone.get_weights()
    try:
        with warnings.catch_warnings(action="ignore"):  # Keras warns a hundred times of parts that it finds elsewhere in the file
            backbone.load_weights(folder / name)
    except (ValueError, KeyError, OSError) as error:
        raise _misfit(str(error).splitlines()[0]) from error
    missed = sum(old.ndim > 1 and np.array_equal(old, new) for old, new in zip(before, backbone.get_weights(), strict=True))
    if missed:  # Keras leaves random what it does not find, with a warning at most
        raise _misfit(f"the file lacks {missed} of its kernels")
    return True


def pooled_backbone(folder: Path, size_px: int, alpha: float) -> Any:
    """The backbone of ``folder`` as images (n, size_px, size_px, 3), 0 to 255, to features (n, num_features) float32."""
    classifier = build_classifier(2, size_px, alpha=alpha, dropout=0.0, batchnorm_momentum=0.9, seed=0)
    load_backbone(classifier, folder)
    return keras.Model(classifier.input, classifier.get_layer(POOL_LAYER).output, name="features")


def _misfit(reason: str) -> SourceError:
    return SourceError(
        f"ingest.backbone_weights do not fit this MobileNetV2: {reason}\n"
        "Expected the weights of keras.applications.MobileNetV2(include_top=False) with the alpha of train.alpha."
    )


def unfreeze(classifier: Any, fraction: float, *, batchnorm_training: bool) -> None:
    """Make the last ``fraction`` of the backbone's layers trainable; BatchNorm layers only if they are to be in training mode."""
    layers = classifier.get_layer(BACKBONE_LAYER).layers
    first = len(layers) - round(fraction * len(layers))
    classifier.get_layer(BACKBONE_LAYER).trainable = True
    for position, layer in enumerate(layers):
        is_batchnorm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = position >= first and (batchnorm_training or not is_batchnorm)


def save(classifier: Any, folder: Path) -> None:
    """Weights and architecture in files with stable bytes (a .keras archive holds its date)."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = keras.Model.from_config(classifier.get_config())  # without the optimizer, under a name that Keras counts up
    plain.set_weights(classifier.get_weights())
    plain.save_weights(folder / WEIGHTS_NAME)
    files.write_json(folder / ARCHITECTURE_NAME, json.loads(plain.to_json()))


def load(folder: Path) -> Any:
    """The classifier as saved."""
    classifier = keras.models.model_from_json((folder / ARCHITECTURE_NAME).read_text(encoding="utf-8"))
    classifier.load_weights(folder / WEIGHTS_NAME)
    return classifier
