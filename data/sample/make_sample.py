"""Make the sample data set again: clean Fashion-MNIST photos plus planted defects.

Reads the idx files of the Debian package ``dataset-fashion-mnist`` and writes ``fashion_mnist.zip`` and
``planted.csv``. With the same versions of Python, Pillow and their codecs the output is the same byte for byte:
photos are put in order by a seeded hash, zip entries are sorted and carry a fixed time.
"""

import argparse
import csv
import gzip
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Bits = NDArray[np.bool_]

SEED = 20240607
DEFAULT_SOURCE = Path("/usr/share/datasets/fashion-mnist")
IMAGES_FILE = "train-images-idx3-ubyte.gz"
LABELS_FILE = "train-labels-idx1-ubyte.gz"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")
CLEAN_COUNT = 500
CLEAN_COUNT_RARE = {"trouser": 83}
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
NEAR_DISTANCE = 2
JPEG_QUALITY = 95
NEAR_JPEG_QUALITY = 98
EXIF_ORIENTATION_TAG = 0x0112

TEXT_NOTE = b"Upload failed: connection reset by peer.\nPlease try again later.\n"
TEXT_TABLE = b"sku,colour,size\n10442,navy,M\n10443,navy,L\n10444,grey,M\n"
HTML_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\n"
    b"<body><h1>Not Found</h1><p>The image you asked for is not on this server.</p></body></html>\n"
)


class SourceError(Exception):
    """The Fashion-MNIST files are missing or are not what they should be."""


@dataclass(frozen=True)
class Planted:
    """One row of ``planted.csv``."""

    path: str
    check: str
    original: str
    note: str


# --- reading the source -------------------------------------------------------------------------------------------


def read_idx(path: Path, dimensions: int) -> Pixels:
    """Read a gzip-compressed idx file of unsigned bytes with the given number of dimensions."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise SourceError(f"{path} not found: apt-get install dataset-fashion-mnist") from None
    except (OSError, EOFError) as error:
        raise SourceError(f"{path} cannot be read ({error}): apt-get install dataset-fashion-mnist") from error
    if raw[:4] != bytes((0, 0, 8, dimensions)):
        raise SourceError(f"{path} is not an idx-ubyte file with {dimensions} dimension(s)")
    header = 4 + 4 * dimensions
    shape = tuple(int(size) for size in np.frombuffer(raw[4:header], dtype=">u4"))
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)


def seeded_key(name: str) -> bytes:
    """Return a sort key that puts names in an order that depends on the seed only."""
    return hashlib.sha256(f"{SEED}:{name}".encode()).digest()


class PhotoSource:
    """Hands out photos of each class in a seeded order, never two with equal pixels."""

    def __init__(self, folder: Path) -> None:
        """Read the train files in the folder."""
        self._images = read_idx(folder / IMAGES_FILE, 3)
        labels = read_idx(folder / LABELS_FILE, 1)
        self._seen: set[bytes] = set()
        self._queues: dict[str, Iterator[int]] = {}
        for label, name in enumerate(CLASSES):
            indexes = [int(index) for index in np.flatnonzero(labels == label)]
            self._queues[name] = iter(sorted(indexes, key=lambda index: seeded_key(f"train-{index}")))

    def take(self, name: str) -> Image.Image:
        """Return the next photo of the class whose pixels were not handed out before, in any class."""
        for index in self._queues[name]:
            pixels = self._images[index]
            key = pixels.tobytes()
            if key not in self._seen:
                self._seen.add(key)
                return Image.fromarray(pixels)
        raise SourceError(f"the source has too few different photos of class {name}")


# --- encoding -----------------------------------------------------------------------------------------------------


def to_png(image: Image.Image) -> bytes:
    """Encode as an optimized PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def to_jpeg(image: Image.Image, quality: int = JPEG_QUALITY) -> bytes:
    """Encode as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def cut_png(data: bytes) -> bytes:
    """Cut a PNG in the middle of its first IDAT chunk."""
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    return data[: start + 4 + length // 2]


def cut_jpeg(data: bytes) -> bytes:
    """Cut a JPEG in the middle of its entropy-coded pixels."""
    scan = data.rindex(b"\xff\xda")
    start = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    return data[: (start + len(data)) // 2]


def with_alpha(photo: Image.Image) -> Image.Image:
    """Make the dark background transparent and the garment opaque, with a soft step between the two."""
    grey = np.asarray(photo)
    alpha = np.minimum(grey.astype(np.uint16) * 8, 255).astype(np.uint8)
    return Image.fromarray(np.dstack([grey, grey, grey, alpha]))


def sixteen_bit(photo: Image.Image) -> Image.Image:
    """Stretch grey values 0..255 to 0..65535."""
    return Image.fromarray(np.asarray(photo).astype(np.uint16) * 257)


def jpeg_with_orientation(photo: Image.Image, orientation: int) -> bytes:
    """Store the photo turned, with the EXIF orientation that turns it upright again."""
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[EXIF_ORIENTATION_TAG] = orientation
    buffer = io.BytesIO()
    photo.transpose(turns[orientation]).save(buffer, "JPEG", quality=JPEG_QUALITY, exif=exif)
    return buffer.getvalue()


def animation(photo: Image.Image, image_format: str, frames: int) -> bytes:
    """Let the photo slide to the right, two pixels a frame."""
    grey = np.asarray(photo)
    images = [Image.fromarray(np.roll(grey, 2 * step, axis=1)) for step in range(frames)]
    options = {"lossless": True} if image_format == "WEBP" else {}
    buffer = io.BytesIO()
    images[0].save(buffer, image_format, save_all=True, append_images=images[1:], duration=200, loop=0, **options)
    return buffer.getvalue()


# --- perceptual hashes, to choose near-duplicates that every usual variant finds -----------------------------------


def difference_hashes(image: Image.Image) -> Bits:
    """Return the 64-bit dHash in four variants: two resize filters, two ways to treat equal neighbours."""
    rows = []
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.LANCZOS):
        grey = np.asarray(image.convert("L").resize((9, 8), resample))
        rows.append((grey[:, 1:] > grey[:, :-1]).ravel())
        rows.append((grey[:, 1:] < grey[:, :-1]).ravel())
    return np.stack(rows)


def cosine_hashes(image: Image.Image) -> Bits:
    """Return the 64-bit pHash in four variants: two resize filters, median with and without the DC term."""
    size = 32
    steps = np.arange(size)
    basis = np.cos(np.pi / size * np.outer(steps, steps + 0.5))
    rows = []
    for resample in (Image.Resampling.BILINEAR, Image.Resampling.LANCZOS):
        grey = np.asarray(image.convert("L").resize((size, size), resample)).astype(np.float64)
        low = (basis @ grey @ basis.T)[:8, :8].ravel()
        rows.append(low > np.median(low))
        rows.append(low > np.median(low[1:]))
    return np.stack(rows)


def are_near(first: Image.Image, second: Image.Image) -> bool:
    """Tell whether every hash variant differs by at most ``NEAR_DISTANCE`` bits."""
    return all(int((hashes(first) ^ hashes(second)).sum(axis=1).max()) <= NEAR_DISTANCE for hashes in (difference_hashes, cosine_hashes))


# --- building the archive -----------------------------------------------------------------------------------------


@dataclass
class Sample:
    """The archive being built: its files, the list of planted defects and the next number of each class."""

    source: PhotoSource
    files: dict[str, bytes] = field(default_factory=dict)
    planted: list[Planted] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLASSES, 0))
    _clean: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in CLASSES})

    def _add(self, name: str, extension: str, data: bytes) -> str:
        self._counts[name] += 1
        path = f"{name}/{name}-{self._counts[name]:04d}.{extension}"
        self.files[path] = data
        return path

    def add_clean(self) -> None:
        """Add the clean photos of all classes and put the originals for duplicates in a seeded order."""
        for name in CLASSES:
            count = CLEAN_COUNT_RARE.get(name, CLEAN_COUNT)
            paths = [self._add(name, "png", to_png(self.source.take(name))) for _ in range(count)]
            self._clean[name] = sorted(paths, key=seeded_key)

    def plant(self, check: str, name: str, extension: str, data: bytes, note: str, original: str = "") -> None:
        """Add one defective file under the next number of its class."""
        path = self._add(name, extension, data)
        self.planted.append(Planted(path, check, original, note))

    def take_original(self, name: str) -> str:
        """Return the path of a clean file of the class; each file serves at most once."""
        return self._clean[name].pop(0)

    def plant_near(self, name: str, extension: str, scale: tuple[int, Image.Resampling] | None, note: str) -> None:
        """Plant a re-encoded (no scale) or resized copy of the first clean photo whose hashes survive it."""
        for original in self._clean[name]:
            with Image.open(io.BytesIO(self.files[original])) as opened:
                photo = opened.convert("L")
            data = to_jpeg(photo, NEAR_JPEG_QUALITY) if scale is None else to_png(photo.resize((scale[0], scale[0]), scale[1]))
            with Image.open(io.BytesIO(data)) as copy:
                near = are_near(photo, copy)
            if near:
                self._clean[name].remove(original)
                self.plant("near-duplicate", name, extension, data, note, original)
                return
        raise SourceError(f"no clean photo of class {name} suits the near-duplicate '{note}'")


def plant_unreadable(sample: Sample) -> None:
    """Plant files that cannot be decoded: cut, empty or no image at all."""
    for name in ("coat", "sandal"):
        data = cut_png(to_png(sample.source.take(name)))
        sample.plant("truncated", name, "png", data, "PNG cut in the middle of its IDAT chunk")
    for name in ("t-shirt", "bag"):
        data = cut_jpeg(to_jpeg(sample.source.take(name)))
        sample.plant("truncated", name, "jpg", data, "JPEG cut in the middle of its scan data")
    for name, extension in (("pullover", "png"), ("sneaker", "png"), ("ankle-boot", "jpg")):
        sample.plant("empty", name, extension, b"", "file of 0 bytes")
    sample.plant("not-an-image", "dress", "png", HTML_PAGE, "HTML error page named .png")
    sample.plant("not-an-image", "shirt", "png", TEXT_NOTE, "plain text named .png")
    sample.plant("not-an-image", "sneaker", "png", TEXT_TABLE, "CSV text named .png")


def plant_wrong_extensions(sample: Sample) -> None:
    """Plant good images whose name claims another format."""
    for name in ("trouser", "shirt"):
        sample.plant("wrong-extension", name, "png", to_jpeg(sample.source.take(name)), "JPEG bytes named .png")
    for name in ("ankle-boot", "dress"):
        sample.plant("wrong-extension", name, "jpg", to_png(sample.source.take(name)), "PNG bytes named .jpg")


def plant_duplicates(sample: Sample) -> None:
    """Plant exact copies, copies under another label and near-duplicates of clean photos."""
    for name in ("t-shirt", "sneaker", "bag"):
        original = sample.take_original(name)
        note = "byte-equal copy in the same class"
        sample.plant("exact-duplicate", name, "png", sample.files[original], note, original)
    for name, other in (("shirt", "t-shirt"), ("coat", "pullover"), ("sandal", "ankle-boot")):
        original = sample.take_original(other)
        note = f"byte-equal copy of a clean image of class {other}"
        sample.plant("conflicting-labels", name, "png", sample.files[original], note, original)
    bicubic, lanczos = Image.Resampling.BICUBIC, Image.Resampling.LANCZOS
    for name in ("pullover", "bag"):
        sample.plant_near(name, "jpg", None, f"re-encoded as JPEG, quality {NEAR_JPEG_QUALITY}")
    sample.plant_near("coat", "png", (42, bicubic), "resized to 42x42, bicubic")
    sample.plant_near("trouser", "png", (56, lanczos), "resized to 56x56, Lanczos")
    sample.plant_near("ankle-boot", "png", (56, bicubic), "resized to 56x56, bicubic")


def plant_unusual(sample: Sample) -> None:
    """Plant images that decode but are constant, of an unusual mode, turned or animated."""
    for name, value in (("dress", 0), ("sandal", 127), ("bag", 255)):
        data = to_png(Image.new("L", (28, 28), value))
        sample.plant("constant", name, "png", data, f"every pixel is {value}")
    for name in ("t-shirt", "dress", "sneaker"):
        data = to_png(with_alpha(sample.source.take(name)))
        sample.plant("alpha", name, "png", data, "RGBA PNG with a transparent background")
    for name in ("pullover", "sandal", "shirt"):
        data = to_png(sixteen_bit(sample.source.take(name)))
        sample.plant("sixteen-bit", name, "png", data, "16-bit greyscale PNG")
    for name in ("coat", "sneaker", "ankle-boot"):
        data = to_jpeg(sample.source.take(name).convert("CMYK"))
        sample.plant("cmyk", name, "jpg", data, "CMYK JPEG")
    for name, orientation in (("trouser", 6), ("t-shirt", 3), ("pullover", 8)):
        data = jpeg_with_orientation(sample.source.take(name), orientation)
        sample.plant("exif-orientation", name, "jpg", data, f"JPEG stored turned, EXIF orientation {orientation}")
    for name, image_format, frames in (("shirt", "GIF", 3), ("bag", "GIF", 4), ("coat", "WEBP", 3)):
        data = animation(sample.source.take(name), image_format, frames)
        note = f"animated {image_format} of {frames} frames"
        sample.plant("animated", name, image_format.lower(), data, note)


def zip_bytes(files: dict[str, bytes]) -> bytes:
    """Pack the files in sorted order, uncompressed (images are compressed already), with a fixed time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(files):
            info = zipfile.ZipInfo(path, ZIP_TIME)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, files[path])
    return buffer.getvalue()


def planted_csv(planted: list[Planted]) -> str:
    """Return the text of ``planted.csv``, sorted by path."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("path", "check", "original", "note"))
    for row in sorted(planted, key=lambda row: row.path):
        writer.writerow((row.path, row.check, row.original, row.note))
    return buffer.getvalue()


def build(source: Path) -> Sample:
    """Build the whole sample in memory."""
    sample = Sample(PhotoSource(source))
    sample.add_clean()
    plant_unreadable(sample)
    plant_wrong_extensions(sample)
    plant_duplicates(sample)
    plant_unusual(sample)
    return sample


def main() -> None:
    """Write ``fashion_mnist.zip`` and ``planted.csv``."""
    parser = argparse.ArgumentParser(description="Make the sample data set again from dataset-fashion-mnist.")
    parser.add_argument("--source", type=Path, default=DEFAULT_SOURCE, help="folder with the idx .gz files")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent, help="folder to write to")
    options = parser.parse_args()
    try:
        sample = build(options.source)
    except SourceError as error:
        sys.exit(f"error: {error}")
    archive = zip_bytes(sample.files)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "fashion_mnist.zip").write_bytes(archive)
    (options.output / "planted.csv").write_text(planted_csv(sample.planted), encoding="utf-8", newline="\n")
    summary = f"{len(sample.files)} files, {len(sample.planted)} of them planted, {len(archive)} bytes, seed {SEED}"
    sys.stdout.write(summary + "\n")


if __name__ == "__main__":
    main()
