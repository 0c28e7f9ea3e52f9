"""Groups of equal and nearly equal images, by an exact join on two perceptual hashes."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def near_pairs(dhash: NDArray[np.uint64], phash: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """All pairs (i < j) whose dHash and pHash both differ in at most ``distance`` bits, shape (num_pairs, 2), sorted.

    Exact multi-index hashing (Norouzi et al., 2012): of distance + 1 chunks of a hash, two near ones share at least one.
    """
    found = [np.empty((0, 2), np.int64)]
    bounds = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in itertools.pairwise(bounds):
        chunk = (dhash >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(chunk, kind="stable")
        ordered = chunk[order]
        for shift in range(1, len(order)):
            same = np.flatnonzero(ordered[shift:] == ordered[:-shift])
            if not len(same):
                break  # equal values lie side by side, so no longer shift can match either
            first, second = order[same], order[same + shift]
            near = (_distance(dhash[first], dhash[second]) <= distance) & (_distance(phash[first], phash[second]) <= distance)
            found.append(np.sort(np.stack([first[near], second[near]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _distance(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return np.asarray(np.bitwise_count(first ^ second))


def equal_pairs(values: NDArray[np.object_]) -> NDArray[np.int64]:
    """Pairs that join each value to its first occurrence, shape (num_pairs, 2)."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    firsts = first[inverse]
    repeats = np.flatnonzero(firsts != np.arange(len(values)))
    return np.stack([firsts[repeats], repeats], axis=1).astype(np.int64)


def groups(pairs: NDArray[np.int64], num_images: int) -> NDArray[np.int64]:
    """The group of each image, named by the smallest index in it, shape (num_images,)."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(num_images, num_images))
    _, component = connected_components(graph, directed=False)
    smallest = np.full(component.max() + 1 if num_images else 0, num_images)
    np.minimum.at(smallest, component, np.arange(num_images))
    return np.asarray(smallest[component], np.int64)
