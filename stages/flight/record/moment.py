"""The batch of one training step as a person can look at it: each image as the step got it, its label, file and loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np

from stages.flight.record.journal import MOMENT, MOMENT_TABLE
from stages.shared import files

HEADER = ("picture", "file", "label", "target", "predicted", "probability", "loss", "weight")


def write(classifier: Any, batches: Any, epoch: int, step: int, folder: Path) -> None:
    """``moment/`` in ``folder``: a picture of each image, and a table of them, those of the highest loss first.

    The loss is the cross-entropy (in nats) of the classifier in inference mode, without label smoothing and without the weight.
    """
    images, targets, weights = batches.make(epoch, step)
    probabilities = np.asarray(keras.ops.convert_to_numpy(classifier(images, training=False)), np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        losses = -np.sum(np.where(targets > 0, targets * np.log(probabilities), 0.0), axis=1)
    first = step * batches.batch_size
    rows = batches.order(epoch)[first : first + len(images)]
    found = batches.images
    (folder / MOMENT).mkdir(parents=True, exist_ok=True)
    table = []
    for number in sorted(range(len(images)), key=lambda number: (np.isfinite(losses[number]), -losses[number])):
        name = f"{number:03d}.png"
        cv2.imwrite(str(folder / MOMENT / name), images[number][:, :, ::-1])
        answer = int(np.argmax(probabilities[number]))
        shares = [f"{found.classes[i]} {share:.2f}" for i, share in enumerate(targets[number]) if share > 0]
        table.append(
            (
                name,
                found.image_paths[rows[number]],
                found.classes[found.labels[rows[number]]],
                ", ".join(shares),
                found.classes[answer],
                f"{probabilities[number, answer]:.6f}",
                f"{losses[number]:.6f}",
                f"{weights[number]:.6f}",
            )
        )
    files.write_csv(folder / MOMENT / MOMENT_TABLE, HEADER, table)
