"""One file at a time: what its content holds, what is wrong with it, and the measures that later checks compare."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from stages.shared.images import DECODING_ERRORS, has_alpha, open_image, orientation, upright, upright_rgb
from stages.shared.quality import damage, hashes, issues

MEASURED_SIZE_PX = 64
JPEG_FORMATS = ("JPEG", "MPO")
# What tf.io.decode_image of TensorFlow 2.21 refuses, as tried on files of each kind.
UNPORTABLE_FORMATS = ("TIFF", "AVIF", "JPEG2000", "PPM")


@dataclass(frozen=True)
class ImageFacts:
    """What one decoding tells, a function of the content alone; fields of an undecodable image are 0.

    ``found`` is a mask of issues. Hashes are 64-bit. Brightness (the mean), ``dark_end`` and ``bright_end`` (5th and 99th percentile),
    ``contrast`` (standard deviation) and ``colour`` (mean difference between channels) are shares of the full range; ``sharpness``
    is the variance of the Laplacian, in grey levels squared; ``entropy`` is in bits, 0 to 8.
    """

    sha256: str
    num_bytes: int
    found: int
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    dhash: int = 0
    phash: int = 0
    dhash_mirrored: int = 0
    phash_mirrored: int = 0
    brightness: float = 0.0
    dark_end: float = 0.0
    bright_end: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0
    sharpness: float = 0.0
    entropy: float = 0.0


def examine(content: bytes) -> ImageFacts:
    """What a file's content holds; all of its compressed data is decoded."""
    digest = hashlib.sha256(content).hexdigest()
    if not content:
        return ImageFacts(digest, 0, issues.mask(["empty"]))
    try:
        image = open_image(content)
    except Image.DecompressionBombError:
        return ImageFacts(digest, len(content), issues.mask(["decompression-bomb"]))
    except DECODING_ERRORS:
        return ImageFacts(digest, len(content), issues.mask(["unreadable" if damage.has_signature(content) else "not-an-image"]))
    known: dict[str, Any] = {"width": image.width, "height": image.height, "mode": image.mode, "format": image.format}
    try:
        picture, damages = _decode(content, image)
        found = [*damages, *_peculiarities(content, image)]
    except DECODING_ERRORS as error:
        issue = "truncated" if damage.is_cut(content, image.format, error) else "unreadable"
        return ImageFacts(digest, len(content), issues.mask([issue]), **known)
    # Neither scaling down a JPEG nor scaling 16 bits to 8 makes a picture constant.
    if _is_constant(picture) and _is_constant(upright_rgb(image) if image.format in JPEG_FORMATS else image):
        found.append("constant")
    return ImageFacts(digest, len(content), issues.mask(found), **known, **_measures(picture))


def _decode(content: bytes, image: Image.Image) -> tuple[Image.Image, list[str]]:
    """An upright grey or RGB picture, of a JPEG scaled down, and the damage that did not hinder it."""
    if image.format not in JPEG_FORMATS:
        wrong = image.format == "PNG" and damage.has_wrong_checksum(content)
        return upright_rgb(image), ["corrupt"] if wrong else []
    try:
        pixels = damage.strict_jpeg(damage.without_trifles(content), MEASURED_SIZE_PX)
    except ValueError:
        return upright_rgb(image), ["corrupt"]
    except damage.UncommonSamplingError:
        return upright_rgb(image), []
    if damage.is_arithmetic(content):
        image.load()  # large ones are beyond Pillow, which decodes them for training
    if pixels.shape[2] == 4:
        return upright_rgb(image), []
    return upright(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels), orientation(image)), []


def _peculiarities(content: bytes, image: Image.Image) -> list[str]:
    """Names of what is unusual about a decodable image."""
    has_frames = image.format not in JPEG_FORMATS and getattr(image, "is_animated", False)
    tests = {
        "animated": has_frames,
        "alpha": has_alpha(image) and _darkest_alpha(image) < 255,
        "palette": image.mode in ("P", "PA"),
        "sixteen-bit": image.mode[0] in "IF" or (image.format == "PNG" and content[24] == 16),  # its IHDR's bit depth
        "cmyk": image.mode == "CMYK",
        "exif-orientation": orientation(image) != 1,
        "trailing-bytes": damage.num_trailing_bytes(content, image.format or "") > 0,
        "unportable-format": image.format in UNPORTABLE_FORMATS
        or (image.format == "WEBP" and has_frames)
        or (image.format == "PNG" and damage.PNG_END not in content),
    }
    return [name for name, found in tests.items() if found]


def _darkest_alpha(image: Image.Image) -> float:
    return float(np.asarray(image.convert("RGBA").getchannel("A")).min())


def _is_constant(picture: Image.Image) -> bool:
    lows_and_highs = picture.getextrema() if len(picture.getbands()) > 1 else [picture.getextrema()]
    return all(low == high for low, high in lows_and_highs)  # type: ignore[misc]


def _measures(picture: Image.Image) -> dict[str, Any]:
    """Hashes and measures, on a picture averaged down so far that both sides keep 64 px; thus sizes compare."""
    small = picture.reduce(max(1, min(picture.size) // MEASURED_SIZE_PX))
    grey = small.convert("L")
    tiny = grey.resize((hashes.SIZE_PX, hashes.SIZE_PX), Image.Resampling.LANCZOS)
    dhash, dhash_mirrored = hashes.difference_hashes(tiny)
    phash, phash_mirrored = hashes.perceptual_hashes(tiny)
    counts = np.array(grey.histogram())
    shares = counts / counts.sum()
    levels = np.arange(256) / 255
    mean = float(shares @ levels)
    cumulative = shares.cumsum()
    present = shares[shares > 0]
    return {
        "dhash": dhash,
        "phash": phash,
        "dhash_mirrored": dhash_mirrored,
        "phash_mirrored": phash_mirrored,
        "brightness": round(mean, 6),
        "dark_end": round(float(levels[np.searchsorted(cumulative, 0.05)]), 6),
        "bright_end": round(float(levels[np.searchsorted(cumulative, 0.99)]), 6),
        "contrast": round(float(np.sqrt(shares @ (levels - mean) ** 2)), 6),
        "colour": _colour(small),
        "sharpness": _sharpness(grey),
        "entropy": round(float(-(present @ np.log2(present))) + 0.0, 6),
    }


def _colour(picture: Image.Image) -> float:
    if picture.mode == "L":
        return 0.0
    red, green, blue = np.moveaxis(np.asarray(picture.resize((16, 16), Image.Resampling.BOX), np.int16), 2, 0)
    return round(float((np.abs(red - green) + np.abs(green - blue)).mean()) / 510, 6)


def _sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian where the longer side is at most 64 px; 0 for a picture of fewer than 3 pixels a side."""
    small = grey.copy()
    small.thumbnail((MEASURED_SIZE_PX, MEASURED_SIZE_PX), Image.Resampling.BILINEAR)
    values = np.asarray(small, np.int32)
    if min(values.shape) < 3:
        return 0.0
    neighbours = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:]
    return round(float((neighbours - 4 * values[1:-1, 1:-1]).var()), 4)
