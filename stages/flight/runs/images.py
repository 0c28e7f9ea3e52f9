"""How the images of two runs differ, by content: a pure comparison of two manifests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("path", "label", "split", "sha256")


@dataclass(frozen=True)
class Image:
    """A row of a manifest; ``split`` is empty for an image that is left out."""

    path: str
    label: str
    split: str
    sha256: str


def read(manifest: Path) -> list[Image]:
    """All images of a manifest.parquet."""
    import pyarrow.parquet  # takes a moment to load, and most comparisons are of the same images

    columns = pyarrow.parquet.read_table(manifest, columns=list(COLUMNS)).to_pydict()
    return [Image(*values) for values in zip(*(columns[name] for name in COLUMNS), strict=True)]


def of_table(manifest: pd.DataFrame) -> list[Image]:
    """All images of a manifest that has been read already."""
    return [Image(*values) for values in manifest[list(COLUMNS)].itertuples(index=False, name=None)]


def changes(before: Iterable[Image], after: Iterable[Image]) -> dict[str, list[Image]]:
    """Images by what became of them, sorted by path: as they are now, and those removed as they were.

    The first of several with the same content stands for all; one that has another content at the same path is changed.
    """
    old, new = ({image.sha256: image for image in reversed(list(images))} for images in (before, after))
    pairs = [(old[digest], image) for digest, image in new.items() if digest in old]
    added, removed = ([image for digest, image in some.items() if digest not in others] for some, others in ((new, old), (old, new)))
    both = {image.path for image in added} & {image.path for image in removed}
    found = {
        "added": [image for image in added if image.path not in both],
        "removed": [image for image in removed if image.path not in both],
        "changed": [image for image in added if image.path in both],
        "relabelled": [now for then, now in pairs if then.label != now.label],
        "moved between splits": [now for then, now in pairs if then.split and now.split and then.split != now.split],
        "newly left out": [now for then, now in pairs if then.split and not now.split],
        "newly used": [now for then, now in pairs if now.split and not then.split],
    }
    return {name: sorted(images, key=lambda image: image.path) for name, images in found.items()}


def by_class(images: Sequence[Image]) -> dict[str, int]:
    """How many of each class."""
    labels = [image.label for image in images]
    return {label: labels.count(label) for label in sorted(set(labels))}
