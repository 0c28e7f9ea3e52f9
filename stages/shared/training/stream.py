"""What the stream of training batches shows: whether classes come mixed, and whether an image looks different in the next epoch."""

from __future__ import annotations

import numpy as np

from stages.shared.evidence import Order, Variants
from stages.shared.training.batches import TrainBatches

SHUFFLE_SEED = 0
MIN_COMPARED, MAX_BATCHES = 16, 8


def order(batches: TrainBatches, epoch: int) -> Order:
    """Classes a batch in the epoch's order, and in a random one of the same images."""
    labels = batches.images.labels[batches.order(epoch)]
    shuffled = np.random.default_rng(SHUFFLE_SEED).permutation(labels)
    starts = np.arange(batches.batch_size, len(labels), batches.batch_size)
    found, expected = (float(np.mean([len(np.unique(part)) for part in np.split(values, starts)])) for values in (labels, shuffled))
    return Order(epoch=epoch, distinct_labels=found, expected_distinct_labels=expected)


def variants(batches: TrainBatches, epoch: int) -> Variants:
    """Compare images of the first batch of ``epoch`` with the same images in the next one, in the batches that hold most of them."""
    first_rows = batches.order(epoch)[: batches.batch_size]
    first_images, _, _ = batches.make(epoch, 0)
    next_rows = batches.order(epoch + 1)
    places = np.flatnonzero(np.isin(next_rows, first_rows))
    steps, counts = np.unique(places // batches.batch_size, return_counts=True)
    num_compared = num_different = 0
    for step in steps[np.argsort(-counts, kind="stable")][:MAX_BATCHES]:
        if num_compared >= MIN_COMPARED:
            break
        images, _, _ = batches.make(epoch + 1, int(step))
        rows = next_rows[step * batches.batch_size : (step + 1) * batches.batch_size]
        for place in np.flatnonzero(np.isin(rows, first_rows)):
            earlier = first_images[first_rows == rows[place]]  # an image that is drawn twice has two variants
            num_compared += 1
            num_different += not any(np.array_equal(images[place], image) for image in earlier)
    return Variants(num_compared=num_compared, num_different=num_different)
