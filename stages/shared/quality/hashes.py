"""Perceptual hashes of a picture and of its mirror image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE_PX = 32  # of the grey picture, squeezed to a square, that both hashes are made of


def difference_hashes(grey: Image.Image) -> tuple[int, int]:
    """64-bit dHash: whether each of 8 x 8 neighbours grows brighter to the right (Krawetz, 'Kind of like that', 2013)."""
    pixels = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    mirrored = pixels[:, ::-1]
    return _pack(pixels[:, 1:] > pixels[:, :-1]), _pack(mirrored[:, 1:] > mirrored[:, :-1])


def perceptual_hashes(grey: Image.Image) -> tuple[int, int]:
    """64-bit pHash: the 8 x 8 lowest DCT-II coefficients against their median (Krawetz, 'Looks like it', 2011)."""
    low = _DCT @ np.asarray(grey, np.float64) @ _DCT.T
    mirrored = low * _MIRRORED
    return _pack(low > _median(low)), _pack(mirrored > _median(mirrored))


def _median(values: NDArray[np.float64]) -> float:
    ordered = np.sort(values, axis=None)
    return float(ordered[31] + ordered[32]) / 2  # of 64; np.median takes five times as long


def _pack(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big")


def _dct_rows(num_frequencies: int, size: int) -> NDArray[np.float64]:
    frequencies, positions = np.arange(num_frequencies)[:, None], np.arange(size)[None, :]
    return np.cos(math.pi * frequencies * (2 * positions + 1) / (2 * size))


_DCT = _dct_rows(8, SIZE_PX)
_MIRRORED = np.where(np.arange(8) % 2, -1.0, 1.0)  # mirroring negates the coefficients of odd horizontal frequencies
