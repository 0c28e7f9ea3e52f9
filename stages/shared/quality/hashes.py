"""Perceptual hashes of a picture and of its mirror image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SCALE = 4096  # of the cosines, in whole numbers
NOISE = 32  # as if each of the 32 x 32 pixels were one grey level off at random: the square root of their number
SIZE_PX = 32  # of the grey picture, squeezed to a square, that both hashes are made of


def difference_hashes(grey: Image.Image) -> tuple[int, int]:
    """64-bit dHash: whether each of 8 x 8 neighbours grows brighter to the right (Krawetz, 'Kind of like that', 2013)."""
    pixels = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    mirrored = pixels[:, ::-1]
    return _pack(pixels[:, 1:] > pixels[:, :-1]), _pack(mirrored[:, 1:] > mirrored[:, :-1])


def perceptual_hashes(grey: Image.Image) -> tuple[int, int]:
    """64-bit pHash: the 8 x 8 lowest DCT-II coefficients against their median (Krawetz, 'Looks like it', 2011).

    In whole numbers, for the same bits on every processor. Coefficients that noise could give count as 0: of a symmetric picture half are
    0 but for noise, and so is their median.
    """
    low = _DCT @ np.asarray(grey, np.int64) @ _DCT.T
    low[np.abs(low) < NOISE * SCALE**2] = 0
    return _above_median(low), _above_median(low * _MIRRORED)


def _above_median(values: NDArray[np.int64]) -> int:
    ordered = np.sort(values, axis=None)
    return _pack(2 * values > ordered[31] + ordered[32])  # of 64; np.median takes five times as long


def _pack(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big")


def _dct_rows(num_frequencies: int, size: int) -> NDArray[np.int64]:
    frequencies, positions = np.arange(num_frequencies)[:, None], np.arange(size)[None, :]
    cosines = np.cos(math.pi * frequencies * (2 * positions + 1) / (2 * size))
    return np.asarray(np.rint(SCALE * cosines), np.int64)


_DCT = _dct_rows(8, SIZE_PX)
_MIRRORED = np.where(np.arange(8) % 2, -1, 1)  # mirroring negates the coefficients of odd horizontal frequencies
