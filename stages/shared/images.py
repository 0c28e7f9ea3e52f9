"""One image's pixels as training and pages see them: opened safely, upright, in 8-bit RGB."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# As Pillow names its decoders; that of JPEG also opens a phone's MPO.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM")
# From where on Pillow warns. To decode so many takes a quarter of a gigabyte in 8-bit RGB, ten times that in other modes.
MAX_PIXELS = 89_478_485
EXIF_ORIENTATION = 0x0112  # EXIF 2.32, table 4
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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


# What a damaged file makes Pillow say is said by the checks. (A context would not do: filters belong to all threads.)
warnings.filterwarnings("ignore", module="PIL")


def load_rgb(path: Path) -> Image.Image:
    """The image upright, in RGB, as training sees it (a first frame; transparent parts white; more than 8 bits scaled to 8)."""
    return upright_rgb(open_image(path.read_bytes()))


def load_square(path: Path, size_px: int) -> NDArray[np.uint8]:
    """The image as (size_px, size_px, 3) uint8: shorter side resized to ``size_px``, centre cut out."""
    square = ImageOps.fit(load_rgb(path), (size_px, size_px), method=Image.Resampling.BILINEAR)
    return np.asarray(square, dtype=np.uint8)


def open_image(content: bytes) -> Image.Image:
    """Read the header; pixels are decoded later.

    Raises:
        Image.DecompressionBombError: above ``MAX_PIXELS``, and others of ``DECODING_ERRORS``.
    """
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Decode fully and convert to upright RGB."""
    image.load()
    turned = upright(image, orientation(image))
    if turned.mode[0] in "IF":
        turned = Image.fromarray(_eight_bits(np.asarray(turned)))
    if has_alpha(turned):
        layers = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return turned.convert("RGB")


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) where it is absent or damaged."""
    try:
        found = image.getexif().get(EXIF_ORIENTATION, 1)
    except DECODING_ERRORS:
        return 1
    return found if found in UPRIGHT else 1


def upright(image: Image.Image, turned: int) -> Image.Image:
    """The image turned and mirrored back from EXIF's orientation ``turned``."""
    return image.transpose(UPRIGHT[turned]) if turned in UPRIGHT else image


def has_alpha(image: Image.Image) -> bool:
    """Whether the image has transparency of any kind."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """16-bit integers by their high byte; floats, whose range no format states, as shares of 1 if none is above 1, else as grey levels."""
    if np.issubdtype(values.dtype, np.floating):
        finite = np.nan_to_num(values.astype(np.float64), posinf=255, neginf=0)
        return np.clip(finite * (255 if finite.max() <= 1 else 1), 0, 255).astype(np.uint8)
    return (np.clip(values.astype(np.int64), 0, 65535) >> 8).astype(np.uint8)


def thumbnail(path: Path, size_px: int) -> bytes:
    """A WebP picture whose longer side is at most ``size_px``; small originals are enlarged by whole pixels."""
    opened = open_image(path.read_bytes())
    opened.draft(None, (2 * size_px, 2 * size_px))  # a JPEG is decoded no larger than needed
    image = upright_rgb(opened)
    factor = size_px // max(image.size)
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80, method=4)
    return buffer.getvalue()
