"""Groups of equal and nearly equal images, by an exact join on two perceptual hashes."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def near_pairs(dhash: NDArray[np.uint64], phash: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """All pairs (i < j) whose dHash and pHash both differ in at most ``distance`` bits, shape (num_pairs, 2), sorted.

    Exact multi-index hashing (Norouzi et al., 2012): of distance + 1 chunks of a hash, two near ones share at least
    one. Joining on a chunk of each hash at once keeps apart the many images that are alike by one hash only.
    """
    found = [np.empty((0, 2), np.int64)]
    for first_chunk, second_chunk in itertools.product(_chunks(dhash, distance), _chunks(phash, distance)):
        order = np.lexsort((second_chunk, first_chunk))
        keys = np.stack([first_chunk[order], second_chunk[order]])
        for shift in range(1, len(order)):
            same = np.flatnonzero((keys[:, shift:] == keys[:, :-shift]).all(axis=0))
            if not len(same):
                break  # equal keys lie side by side, so no longer shift can match either
            left, right = order[same], order[same + shift]
            near = (np.bitwise_count(dhash[left] ^ dhash[right]) <= distance) & (np.bitwise_count(phash[left] ^ phash[right]) <= distance)
            found.append(np.sort(np.stack([left[near], right[near]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _chunks(hashes: NDArray[np.uint64], distance: int) -> list[NDArray[np.uint64]]:
    """``hashes`` cut into distance + 1 runs of bits."""
    bounds = np.linspace(0, 64, distance + 2).astype(int)
    return [(hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1) for low, high in itertools.pairwise(bounds)]


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
