"""Small pictures for pages, inline."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stages.shared import images

SIZE_PX = 96


def thumbnails(raw: Path, image_paths: Sequence[str]) -> dict[str, str]:
    """Path → data URI of a small picture; files that cannot be decoded have none."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        contents = pool.map(lambda path: _picture(raw / path), image_paths)
        return {path: data_uri(content) for path, content in zip(image_paths, contents, strict=True) if content}


def _picture(path: Path) -> bytes | None:
    try:
        return images.thumbnail(path, SIZE_PX)
    except images.DECODING_ERRORS:
        return None


def data_uri(webp: bytes) -> str:
    """A WebP picture as the value of ``src``."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()
