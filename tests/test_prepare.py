"""The prepared arrays: which images, in which order, with which pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from stages import prepare as stage
from stages.shared import images, prepared
from stages.shared.errors import UnreadableImageError

SIZE_PX = 8
TURNED = {
    # EXIF orientation → how a viewer must turn what is stored, from EXIF 2.32, table 4.
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    6: lambda stored: np.rot90(stored, -1),
    8: lambda stored: np.rot90(stored, 1),
}


def noise(seed: int, channels: int = 3, size_px: int = SIZE_PX) -> NDArray[np.uint8]:
    shape = (size_px, size_px, channels) if channels > 1 else (size_px, size_px)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twelve images of random pixels at the wanted size, so that nothing is resized."""
    for number in range(12):
        path = tmp_path / "raw" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(noise(number)).save(path)
    return tmp_path / "raw"


def manifest(num_images: int = 12) -> pd.DataFrame:
    """Images 0 to 11, of classes b, a, b, a…: 0 to 6 train, 7 to 8 val, 9 to 10 test, the last quarantined."""
    split = ["train"] * 7 + ["val"] * 2 + ["test"] * 2 + [""]
    return pd.DataFrame(
        {
            "path": [f"{number:02d}.png" for number in range(num_images)],
            "label": ["b" if number % 2 == 0 else "a" for number in range(num_images)],
            "split": split,
            "status": ["quarantined" if not name else "ok" for name in split],
        }
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("images_a_shard", "num_shards"), [(1, 7), (3, 3), (7, 1), (1000, 1)])
def test_images_labels_and_paths_over_several_shards(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images_a_shard: int, num_shards: int
) -> None:
    monkeypatch.setattr(prepared, "SHARD_BYTES", images_a_shard * SIZE_PX * SIZE_PX * 3)
    monkeypatch.setattr(prepared, "BLOCK_IMAGES", 2)
    stage.write(stage.prepare(manifest(), SIZE_PX), raw, tmp_path / "prepared")
    train = prepared.read(tmp_path / "prepared", "train")
    assert train.classes == ("a", "b")
    assert train.size_px == SIZE_PX
    assert len(train.shards) == num_shards
    assert train.image_paths == tuple(f"{number:02d}.png" for number in range(7))
    assert train.labels.tolist() == [1, 0, 1, 0, 1, 0, 1]
    assert train.class_counts().tolist() == [3, 4]
    rows = np.array([6, 0, 3, 3, 5, 1, 2, 4])
    np.testing.assert_array_equal(train.gather(rows), np.stack([noise(row) for row in rows]))
    assert train.gather(np.empty(0, np.int64)).shape == (0, SIZE_PX, SIZE_PX, 3)


def test_each_split_holds_its_images_and_no_quarantined_one(raw: Path, tmp_path: Path) -> None:
    stage.write(stage.prepare(manifest(), SIZE_PX), raw, tmp_path / "prepared")
    found = {split: prepared.read(tmp_path / "prepared", split).image_paths for split in ("train", "val", "test")}
    assert found["val"] == ("07.png", "08.png")
    assert found["test"] == ("09.png", "10.png")
    assert not any("11.png" in names for names in found.values())
    assert prepared.read(tmp_path / "prepared", "test").labels.tolist() == [0, 1]


def test_a_class_of_quarantined_images_alone_is_no_class() -> None:
    table = manifest()
    table.loc[11, "label"] = "gone"
    assert stage.prepare(table, SIZE_PX).classes == ("a", "b")


def test_writing_twice_gives_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    plan = stage.prepare(manifest(), SIZE_PX)
    stage.write(plan, raw, tmp_path / "prepared")
    first = tree(tmp_path / "prepared")
    (tmp_path / "prepared/train/images-00001.npy").write_bytes(b"left over")
    stage.write(plan, raw, tmp_path / "prepared")
    assert tree(tmp_path / "prepared") == first


# Pixels


def square(path: Path) -> NDArray[np.uint8]:
    pixels = images.load_square(path, SIZE_PX)
    assert pixels.shape == (SIZE_PX, SIZE_PX, 3)
    assert pixels.dtype == np.uint8
    return pixels


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (SIZE_PX, SIZE_PX), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    pixels = square(tmp_path / name)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[:, :, channel], values // 256)


@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 255, 255, 0), (255, 0, 0)), ((255, 0, 255, 0), (0, 255, 0)), ((0, 0, 0, 255), (0, 0, 0)), ((0, 0, 0, 0), (255,) * 3)],
)
def test_cmyk_becomes_rgb(tmp_path: Path, ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    Image.new("CMYK", (SIZE_PX, SIZE_PX), ink).save(tmp_path / "ink.jpg", quality=100)
    assert np.abs(square(tmp_path / "ink.jpg").astype(int) - np.array(colour)).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "palette"])
def test_transparent_parts_become_white(tmp_path: Path, mode: str) -> None:
    colours = noise(0)
    alpha = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    alpha[:, :4] = 255
    if mode == "palette":
        numbers = np.where(alpha == 0, 2, noise(1, 1) % 2).astype(np.uint8)
        image = Image.fromarray(numbers).convert("P")
        image.putpalette([200, 10, 20, 30, 220, 40, 1, 2, 3])
        image.save(tmp_path / "clear.png", transparency=2)
        wanted = np.array([[200, 10, 20], [30, 220, 40], [255, 255, 255]], np.uint8)[numbers]
    else:
        opaque = Image.fromarray(colours).convert("RGB" if mode == "RGBA" else "L")
        wanted = np.asarray(opaque.convert("RGB")).copy()
        opaque.putalpha(Image.fromarray(alpha))
        opaque.save(tmp_path / "clear.png")
        wanted[alpha == 0] = 255
    np.testing.assert_array_equal(square(tmp_path / "clear.png"), wanted)


def test_palette_colours_are_looked_up(tmp_path: Path) -> None:
    numbers = (noise(0, 1) % 3).astype(np.uint8)
    palette = np.array([[255, 0, 0], [0, 128, 7], [9, 8, 250]], np.uint8)
    image = Image.fromarray(numbers).convert("P")
    image.putpalette(palette.ravel().tolist())
    image.save(tmp_path / "palette.png")
    with Image.open(tmp_path / "palette.png") as saved:
        assert saved.mode == "P"
    np.testing.assert_array_equal(square(tmp_path / "palette.png"), palette[numbers])


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    stored = noise(0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    turn: Any = TURNED[orientation]
    np.testing.assert_array_equal(square(tmp_path / "turned.png"), turn(stored))


def test_the_first_frame_is_used(tmp_path: Path) -> None:
    frames = [Image.fromarray(noise(number)) for number in range(3)]
    frames[0].save(tmp_path / "moving.png", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(square(tmp_path / "moving.png"), noise(0))


def test_the_centre_of_a_wide_image_is_kept_unsqueezed(tmp_path: Path) -> None:
    wide = np.zeros((SIZE_PX, 3 * SIZE_PX, 3), np.uint8)
    wide[:, SIZE_PX : 2 * SIZE_PX] = noise(0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "high.png")
    np.testing.assert_array_equal(square(tmp_path / "wide.png"), noise(0))
    np.testing.assert_array_equal(square(tmp_path / "high.png"), noise(0).transpose(1, 0, 2))


@pytest.mark.parametrize("size_px", [4, 32])
def test_another_size_keeps_the_picture(tmp_path: Path, size_px: int) -> None:
    halves = np.zeros((size_px, size_px, 3), np.uint8)
    halves[:, size_px // 2 :] = (10, 200, 90)
    Image.fromarray(halves).save(tmp_path / "halves.png")
    pixels = square(tmp_path / "halves.png")
    assert (pixels[:, :2] == 0).all()
    assert (pixels[:, -2:] == (10, 200, 90)).all()


def test_a_file_that_was_damaged_since_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / "03.png").write_bytes((raw / "03.png").read_bytes()[:60])
    with pytest.raises(UnreadableImageError, match=r"03\.png cannot be decoded \(.*dvc repro --force ingest"):
        prepared.write(manifest().query("split == 'train'"), ("a", "b"), raw, SIZE_PX, tmp_path / "prepared")
