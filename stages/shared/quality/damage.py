"""Damage that decoders pass over: what a strict reading of the bytes says, and what follows the end of a picture."""

from __future__ import annotations

import io
import struct

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from stages.shared.images import DECODING_ERRORS

JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0 to RST7 and SOI (ITU-T T.81, table B.1)
JPEG_START_OF_SCAN, JPEG_END = 0xDA, b"\xff\xd9"
JFIF_VERSION = b"\1\1"
PNG_END = b"IEND\xaeB`\x82"
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  \r\n\x87\n")
ENDS = {"PNG": PNG_END, "JPEG": JPEG_END, "MPO": JPEG_END, "GIF": b"\x3b"}


class UncommonSamplingError(Exception):
    """A sound JPEG, as far as is known, that the strict decoder does not read."""


def strict_jpeg(content: bytes, smallest_px: int) -> NDArray[np.uint8]:
    """Decode a JPEG with libjpeg-turbo, any warning of which is an error.

    Returns (height, width, channels) uint8: RGB, grey, or all four of CMYK. The decoder scales down, in steps, so far that both sides
    keep ``smallest_px``; it reads all of the compressed data at any scale.

    Raises:
        ValueError: with libjpeg-turbo's words.
        UncommonSamplingError: if simplejpeg has no name for the sampling of the colours (4:4:1 and rarer), so the file cannot be judged.
    """
    try:
        _, _, colorspace, _ = simplejpeg.decode_jpeg_header(content)
    except KeyError as error:
        raise UncommonSamplingError from error
    except ValueError as error:
        if "subsampling" in str(error):
            raise UncommonSamplingError from error
        raise
    wanted = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}.get(colorspace, "RGB")
    decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, wanted, min_height=smallest_px, min_width=smallest_px)
    return decoded


def without_trifles(jpeg: bytes) -> bytes:
    """The file without what libjpeg-turbo warns of and what harms no picture: a strange JFIF version, and zeros before the end."""
    if jpeg[6:11] == b"JFIF\0":
        jpeg = jpeg[:11] + JFIF_VERSION + jpeg[13:]
    end = jpeg.rfind(JPEG_END)
    return jpeg[:end].rstrip(b"\0") + jpeg[end:] if jpeg[end - 2 : end] == b"\0\0" else jpeg


def is_arithmetic(jpeg: bytes) -> bool:
    """Whether the header may announce arithmetic coding (SOF9 or SOF10)."""
    header = jpeg[: jpeg.find(b"\xff\xda")]
    return b"\xff\xc9" in header or b"\xff\xca" in header


def has_signature(content: bytes) -> bool:
    """Whether the file begins as an image of a known format does."""
    return content.startswith(SIGNATURES) or (content[:4], content[8:12]) == (b"RIFF", b"WEBP") or content[4:12] == b"ftypavif"


def has_wrong_checksum(png: bytes) -> bool:
    """Whether a complete PNG holds a chunk whose checksum does not fit, which decoders may pass over."""
    if PNG_END not in png:
        return False
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            image.verify()
    except DECODING_ERRORS:
        return True
    return False


def is_cut(content: bytes, image_format: str | None, error: Exception) -> bool:
    """Whether decoding failed with ``error`` because the end is missing."""
    end = ENDS.get(image_format or "")
    return "truncated" in str(error) or (end is not None and end not in content[-32:])


def num_trailing_bytes(content: bytes, image_format: str) -> int:
    """How many bytes other than padding follow the end of a JPEG, PNG or WebP; 0 for other formats."""
    end = len(content)
    if image_format == "PNG" and PNG_END in content:
        end = content.index(PNG_END) + len(PNG_END)
    elif image_format == "JPEG":
        end = _end_of_jpeg(content)
    elif image_format == "WEBP":
        end = 8 + struct.unpack("<I", content[4:8])[0]
    return len(content[end:].strip(b"\0\xff\r\n"))


def _end_of_jpeg(content: bytes) -> int:
    """The offset behind EOI, which is searched after the header's segments, since an EXIF thumbnail has one of its own."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != JPEG_START_OF_SCAN:
        marker = content[position + 1]
        if marker == 0xFF:
            position += 1  # padding
        else:
            position += 2 if marker in JPEG_WITHOUT_LENGTH else 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    end = content.find(JPEG_END, position)
    return len(content) if end < 0 else end + len(JPEG_END)
