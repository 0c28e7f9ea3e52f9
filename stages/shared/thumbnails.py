"""Small pictures for pages, inline."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from stages.shared import images

MAX_THUMBNAILS = 24  # for one finding
SIZE_PX = 96


def thumbnails(raw: Path, image_paths: Sequence[str]) -> dict[str, str]:
    """Path → data URI of a small picture; files that cannot be decoded have none."""
    pictures = {}
    for path in image_paths:
        try:
            content = images.thumbnail(raw / path, SIZE_PX)
        except images.DECODING_ERRORS:
            continue
        pictures[path] = data_uri(content)
    return pictures


def data_uri(webp: bytes) -> str:
    """A WebP picture as the value of ``src``."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()
