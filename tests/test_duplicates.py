"""The join of near-duplicates is exact, its groups are the components of its pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from stages.shared.quality import duplicates


def flip_bits(value: int, bits: NDArray[np.int64]) -> int:
    for bit in bits:
        value ^= 1 << int(bit)
    return value


@pytest.mark.parametrize("distance", [0, 1, 2, 4, 8])
def test_near_pairs_equal_brute_force(distance: int) -> None:
    generator = np.random.default_rng(distance)
    hashes: list[tuple[int, int]] = [(0, 0), (2**64 - 1, 2**64 - 1), (0, 0)]
    hashes += [(int(a), int(b)) for a, b in generator.integers(0, 2**64 - 1, (40, 2), dtype=np.uint64)]
    for _ in range(200):
        first, second = hashes[generator.integers(len(hashes))]
        num_bits = generator.integers(0, distance + 3, 2)
        first = flip_bits(first, generator.choice(64, num_bits[0], replace=False))
        hashes.append((first, flip_bits(second, generator.choice(64, num_bits[1], replace=False))))
    mirrored = [hashes[number] if number % 7 == 0 else (first ^ 0xF0F0, second) for number, (first, second) in enumerate(hashes)]
    mirrored[5:15] = [(hashes[number][0] ^ 1, hashes[number][1]) for number in range(30, 40)]

    def close(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return all((a ^ b).bit_count() <= distance for a, b in zip(one, other, strict=True))

    near = np.array(
        [
            [i, j]
            for i in range(len(hashes))
            for j in range(i + 1, len(hashes))
            if close(hashes[i], hashes[j]) or close(hashes[i], mirrored[j]) or close(hashes[j], mirrored[i])
        ]
    )
    assert len(near) > 10
    arrays = [tuple(np.array([pair[i] for pair in pairs], np.uint64) for i in (0, 1)) for pairs in (hashes, mirrored)]
    found = duplicates.near_pairs(arrays[0], arrays[1], distance)  # type: ignore[arg-type]
    assert {tuple(pair) for pair in found.tolist()} <= {tuple(pair) for pair in near.tolist()}
    assert set(found.ravel().tolist()) == set(near.ravel().tolist())
    assert duplicates.groups(found, len(hashes)).tolist() == duplicates.groups(near, len(hashes)).tolist()


def test_near_pairs_of_nothing() -> None:
    nothing = np.empty(0, np.uint64)
    assert duplicates.near_pairs((nothing, nothing), (nothing, nothing), 2).shape == (0, 2)


def test_a_thousand_equal_pictures_are_joined_by_a_thousand_pairs() -> None:
    same = np.full(1000, 7, np.uint64)
    assert len(duplicates.near_pairs((same, same), (same, same), 2)) == 999


def test_groups_are_named_by_their_smallest_member() -> None:
    pairs = np.array([[4, 5], [1, 3], [3, 5], [2, 6]], np.int64)
    assert duplicates.groups(pairs, 8).tolist() == [0, 1, 2, 1, 1, 1, 2, 7]
    assert duplicates.groups(np.empty((0, 2), np.int64), 0).tolist() == []


def test_equal_pairs_join_each_copy_to_the_first() -> None:
    assert duplicates.equal_pairs(pd.Series(["b", "a", "b", "c", "b", "a"])).tolist() == [[0, 2], [0, 4], [1, 5]]
