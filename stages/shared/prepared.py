"""data/prepared: the images of each split as uint8 arrays in shards, with an index of labels and paths."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stages.shared import files
from stages.shared.errors import UnreadableImageError
from stages.shared.images import DECODING_ERRORS, load_square

if TYPE_CHECKING:
    import pandas as pd

# Small enough to copy and cache with ease, large enough that a data set of a million images has few files.
SHARD_BYTES = 256_000_000
BLOCK_IMAGES = 512


@dataclass(frozen=True)
class Prepared:
    """A split: ``labels`` (n,) int64 index ``classes``; images are memory-mapped and read by ``gather``; ``digest`` is of them all."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    image_paths: tuple[str, ...]
    size_px: int
    shards: tuple[NDArray[np.uint8], ...]
    digest: str

    def image(self, row: int) -> NDArray[np.uint8]:
        """One image as it lies in its file, (size_px, size_px, 3); read where it is used."""
        shard, position = divmod(row, len(self.shards[0]))
        found: NDArray[np.uint8] = self.shards[shard][position]
        return found

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of ``rows`` in that order, (len(rows), size_px, size_px, 3)."""
        images = np.empty((len(rows), self.size_px, self.size_px, 3), np.uint8)
        per_shard = len(self.shards[0]) if self.shards else 1
        for number in np.unique(rows // per_shard):
            here = rows // per_shard == number
            images[here] = self.shards[number][rows[here] % per_shard]
        return images

    def class_counts(self) -> NDArray[np.int64]:
        """Images a class, (num_classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes))


def write(split: pd.DataFrame, classes: Sequence[str], raw: Path, size_px: int, folder: Path) -> None:
    """Decode and resize the images of ``split`` (manifest rows) in parallel, block by block, with a progress bar."""
    folder.mkdir(parents=True)
    per_shard = max(1, SHARD_BYTES // (size_px * size_px * 3))
    position = {label: number for number, label in enumerate(classes)}
    labels = np.array([position[label] for label in split["label"]], np.int64)
    digest = hashlib.sha256(labels.tobytes())
    image_paths = list(split["path"])
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(image_paths), desc=folder.name, unit=" images", mininterval=1) as bar,
    ):
        for number, start in enumerate(range(0, len(image_paths), per_shard)):
            members = image_paths[start : start + per_shard]
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(members), size_px, size_px, 3)}
            with (folder / f"images-{number:05d}.npy").open("wb") as shard:  # cheaper than mapped memory, with its page faults
                np.lib.format.write_array_header_1_0(shard, header)
                for block in _blocks(len(members)):
                    for image, image_digest in pool.map(lambda path: _decode(raw / path, size_px), members[block]):
                        shard.write(image.data)
                        digest.update(image_digest)
                        bar.update()
    np.save(folder / "labels.npy", labels)
    files.write_text(folder / "paths.json", json.dumps(image_paths, ensure_ascii=False, indent=0) + "\n")
    files.write_json(folder / "digest.json", {"sha256": digest.hexdigest()})


def _decode(path: Path, size_px: int) -> tuple[NDArray[np.uint8], bytes]:
    try:
        image = load_square(path, size_px)
    except DECODING_ERRORS as error:
        raise UnreadableImageError(
            f"{path} cannot be decoded ({type(error).__name__}: {error}), and could when it was validated. "
            "Repair or remove it in the source; then type: dvc repro --force ingest"
        ) from error
    return image, hashlib.sha256(image.data).digest()


def _blocks(num_images: int) -> Iterator[slice]:
    for start in range(0, num_images, BLOCK_IMAGES):
        yield slice(start, min(start + BLOCK_IMAGES, num_images))


def read(prepared: Path, split: str) -> Prepared:
    """Open a split for reading; the images stay on disk."""
    description = files.read_json(prepared / "prepared.json")
    folder = prepared / split
    shards = tuple(np.load(path, mmap_mode="r") for path in sorted(folder.glob("images-*.npy")))
    return Prepared(
        tuple(description["classes"]),
        np.load(folder / "labels.npy"),
        tuple(files.read_json(folder / "paths.json")),
        int(description["image_size_px"]),
        shards,
        files.read_json(folder / "digest.json")["sha256"],
    )
