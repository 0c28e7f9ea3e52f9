"""Groups of equal and nearly equal images, by an exact join on two perceptual hashes, mirror images included."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Odd constants that mix two chunks into one 64-bit key; chunks that happen to share a key are told apart by their hashes.
MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
Hashes = tuple[NDArray[np.uint64], NDArray[np.uint64]]  # dHash and pHash, each of shape (num_images,)


def near_pairs(hashes: Hashes, mirrored: Hashes, distance: int) -> NDArray[np.int64]:
    """Pairs (i < j) that join all images whose dHash and pHash both differ in at most ``distance`` bits; shape (num_pairs, 2), sorted.

    ``mirrored`` holds the hashes of the mirror images; i and j are also near if i is near to the mirror image of j. Of images with the
    same hashes the first stands for all, and each of the others is paired with it: else a thousand blank pages were half a million pairs.

    Exact multi-index hashing (Norouzi et al., 'Fast Search in Hamming Space', 2012): of distance + 1 chunks of a hash, two near ones
    share at least one. Joining on a chunk of each hash at once keeps apart the many images that are alike by one hash only.
    """
    keys = pd.DataFrame(dict(enumerate((*hashes, *mirrored))))
    repeats = equal_pairs(keys.groupby(list(keys.columns), sort=False).ngroup())
    first = np.delete(np.arange(len(keys)), repeats[:, 1])
    num = len(first)
    dhash, phash = (np.concatenate([own[first], flipped[first]]) for own, flipped in zip(hashes, mirrored, strict=True))
    found = [repeats]
    for left, right in _sharing_a_chunk(dhash, phash, distance):
        near = (np.bitwise_count(dhash[left] ^ dhash[right]) <= distance) & (np.bitwise_count(phash[left] ^ phash[right]) <= distance)
        near &= (np.minimum(left, right) < num) & (left % num != right % num)  # two mirror images are as near as their originals
        found.append(np.sort(np.stack([first[left[near] % num], first[right[near] % num]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _sharing_a_chunk(dhash: NDArray[np.uint64], phash: NDArray[np.uint64], distance: int) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Left and right members of all pairs that agree in a chunk of each hash, in portions."""
    for first_chunk, second_chunk in itertools.product(_chunks(dhash, distance), _chunks(phash, distance)):
        keys = first_chunk * MIX[0] + second_chunk * MIX[1]
        order = np.argsort(keys)
        keys = keys[order]
        left = np.arange(len(keys))
        for shift in range(1, len(keys)):  # equal keys lie side by side: who has none at one distance has none farther on
            left = left[left + shift < len(keys)]
            left = left[keys[left] == keys[left + shift]]
            if not len(left):
                break
            yield order[left], order[left + shift]


def _chunks(hashes: NDArray[np.uint64], distance: int) -> list[NDArray[np.uint64]]:
    """``hashes`` cut into distance + 1 runs of bits."""
    bounds = np.linspace(0, 64, distance + 2).astype(int)
    return [(hashes >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1) for low, high in itertools.pairwise(bounds)]


def equal_pairs(values: pd.Series[Any]) -> NDArray[np.int64]:
    """Pairs of positions that join each value to its first occurrence, shape (num_pairs, 2)."""
    codes, _ = pd.factorize(values)
    _, first = np.unique(codes, return_index=True)
    firsts = first[codes]
    repeats = np.flatnonzero(firsts != np.arange(len(values)))
    return np.stack([firsts[repeats], repeats], axis=1).astype(np.int64)


def groups(pairs: NDArray[np.int64], num_images: int) -> NDArray[np.int64]:
    """The group of each image, named by the smallest index in it, shape (num_images,)."""
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(num_images, num_images))
    _, component = connected_components(graph, directed=False)
    smallest = np.full(component.max() + 1 if num_images else 0, num_images)
    np.minimum.at(smallest, component, np.arange(num_images))
    return np.asarray(smallest[component], np.int64)
