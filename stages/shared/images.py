"""One image at a time: what a file holds, what is wrong with it, and its pixels as training sees them."""

from __future__ import annotations

import hashlib
import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM")
EXTENSIONS = {
    "PNG": {".png", ".apng"},
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "WEBP": {".webp"},
    "TIFF": {".tif", ".tiff"},
    "AVIF": {".avif"},
    "JPEG2000": {".jp2", ".j2k", ".jpx"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
}
# Twice Pillow's own warning threshold is its error; an image of 179 million pixels needs half a gigabyte.
MAX_PIXELS = 178_956_970
EXIF_ORIENTATION = 0x0112  # EXIF 2.32, table 4
SHARPNESS_SIZE_PX = 64
# What Pillow's decoders raise on damaged content; RuntimeError comes from AVIF, TypeError from TIFF.
DECODING_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    RuntimeError,
    TypeError,
    LookupError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ImageFacts:
    """What one decoding of a file tells. ``issues`` holds names of checks; fields of an undecodable image are 0."""

    num_bytes: int
    sha256: str
    issues: tuple[str, ...]
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    dhash: int = 0
    phash: int = 0
    brightness: float = 0.0
    sharpness: float = 0.0
    entropy: float = 0.0


def examine(path: Path) -> ImageFacts:
    """Read and decode a file once, completely; brightness in [0, 1], entropy in bits (0 to 8)."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if not content:
        return ImageFacts(0, digest, ("empty",))
    try:
        image = _open(content)
    except UnidentifiedImageError:
        return ImageFacts(len(content), digest, ("not-an-image",))
    except DECODING_ERRORS:
        return ImageFacts(len(content), digest, ("unreadable",))
    known = {"width": image.width, "height": image.height, "mode": image.mode, "format": image.format or ""}
    try:
        peculiarities = _peculiarities(image, path)
        rgb = upright_rgb(image)
    except DECODING_ERRORS as error:
        issue = "truncated" if _is_cut(content, image.format, error) else "unreadable"
        return ImageFacts(len(content), digest, (issue,), **known)  # type: ignore[arg-type]
    grey = rgb.convert("L")
    if all(low == high for low, high in rgb.getextrema()):  # type: ignore[misc]
        peculiarities.append("constant")
    return ImageFacts(
        len(content),
        digest,
        tuple(sorted(peculiarities)),
        **known,  # type: ignore[arg-type]
        dhash=difference_hash(grey),
        phash=perceptual_hash(grey),
        brightness=round(float(np.asarray(grey).mean()) / 255, 6),
        sharpness=round(_sharpness(grey), 4),
        entropy=round(grey.entropy(), 6),
    )


def load_rgb(path: Path) -> Image.Image:
    """The image upright, in RGB, as training sees it (a first frame; transparent parts white; 16 bits scaled to 8)."""
    return upright_rgb(_open(path.read_bytes()))


def load_square(path: Path, size_px: int) -> NDArray[np.uint8]:
    """The image as (size_px, size_px, 3) uint8: shorter side resized to ``size_px``, centre cut out."""
    square = ImageOps.fit(load_rgb(path), (size_px, size_px), method=Image.Resampling.BILINEAR)
    return np.asarray(square, dtype=np.uint8)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode fully and convert to upright RGB."""
    image.load()
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):
        values = np.clip(np.asarray(turned).astype(np.int64), 0, 65535) >> 8
        turned = Image.fromarray(values.astype(np.uint8))
    if _has_alpha(turned):
        layers = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return turned.convert("RGB")


def _open(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    return image


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _peculiarities(image: Image.Image, path: Path) -> list[str]:
    """Names of checks for what is unusual about a decodable image."""
    image.load()
    translucent = _has_alpha(image) and image.convert("RGBA").getchannel("A").getextrema()[0] < 255  # type: ignore[operator]
    tests = {
        "wrong-extension": path.suffix.lower() not in EXTENSIONS[image.format or "PNG"],
        "animated": image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
        "alpha": translucent,
        "sixteen-bit": image.mode.startswith("I"),
        "cmyk": image.mode == "CMYK",
        "exif-orientation": image.getexif().get(EXIF_ORIENTATION, 1) != 1,
    }
    return [name for name, found in tests.items() if found]


def _is_cut(content: bytes, image_format: str | None, error: Exception) -> bool:
    ends = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9", "GIF": b"\x3b"}
    end = ends.get(image_format or "")
    return "truncated" in str(error) or (end is not None and end not in content[-32:])


def difference_hash(grey: Image.Image) -> int:
    """64-bit dHash: whether each of 8 x 8 neighbours grows brighter to the right (Krawetz, 'Kind of like that', 2013)."""
    pixels = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS), dtype=np.int16)
    return _pack(pixels[:, 1:] > pixels[:, :-1])


def perceptual_hash(grey: Image.Image) -> int:
    """64-bit pHash: signs of the 8 x 8 lowest DCT-II coefficients against their median (Krawetz, 'Looks like it', 2011)."""
    pixels = np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = _DCT @ pixels @ _DCT.T
    return _pack(low > np.median(low))


def _pack(bits: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(bits.ravel()).tobytes(), "big")


def _dct_rows(num_frequencies: int, size: int) -> NDArray[np.float64]:
    frequencies, positions = np.arange(num_frequencies)[:, None], np.arange(size)[None, :]
    return np.cos(math.pi * frequencies * (2 * positions + 1) / (2 * size))


_DCT = _dct_rows(8, 32)


def _sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian after the longer side was brought to at most 64 px, so that sizes compare."""
    small = grey.copy()
    small.thumbnail((SHARPNESS_SIZE_PX, SHARPNESS_SIZE_PX), Image.Resampling.BILINEAR)
    kernel = ImageFilter.Kernel((3, 3), (0, 1, 0, 1, -4, 1, 0, 1, 0), scale=1, offset=128)
    return float(np.asarray(small.filter(kernel), dtype=np.float64).var())


def thumbnail(path: Path, size_px: int) -> bytes:
    """A WebP picture whose longer side is at most ``size_px``; small originals are enlarged by whole pixels."""
    image = load_rgb(path)
    factor = size_px // max(image.size)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()
