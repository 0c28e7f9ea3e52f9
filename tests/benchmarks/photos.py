"""Photos outside the repository, for measurements."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.tiny import ROOT

PHOTOS = ROOT.parent / "shared/data"
needs_photos = pytest.mark.skipif(not (PHOTOS / "cats_dogs_photos.zip").is_file(), reason="needs the photos in ../shared/data")


def unpacked(name: str, folder: Path) -> Path:
    """The photos of an archive as a folder with one folder a class."""
    with zipfile.ZipFile(PHOTOS / name) as archive:
        archive.extractall(folder / name.removesuffix(".zip"))
    return folder / name.removesuffix(".zip")


def rows(photos: Path) -> pd.DataFrame:
    """All JPEG photos of a folder as rows of a manifest: path and label."""
    paths = sorted(photos.rglob("*.jpg"))
    return pd.DataFrame({"path": [str(path.relative_to(photos)) for path in paths], "label": [path.parent.name for path in paths]})
