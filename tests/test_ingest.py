"""What ingest freezes, and what it refuses without leaving a trace."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stages import ingest
from stages.shared import archives, files
from stages.shared.errors import SourceError
from stages.shared.params import Params, load
from tests.tiny import ROOT

HDF5 = ingest.HDF5_SIGNATURE + b"weights"
CLASSES = {"cat/1.png": b"one", "cat/2.png": b"two", "dog/1.png": b"three"}
SPLITS = {
    "train/cat/1.png": b"one",
    "train/dog/1.png": b"two",
    "val/cat/2.png": b"three",
    "val/dog/2.png": b"four",
    "test/cat/3.png": b"five",
    "test/dog/3.png": b"six",
}


def make_folder(path: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def make_zip(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def make_tar(path: Path, content: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make(kind: str, parent: Path, content: dict[str, bytes]) -> Path:
    makers = {"folder": make_folder, "zip": make_zip, "tar.gz": make_tar}
    return makers[kind](parent / f"source.{kind}", content)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` with its bytes; folders and links with a mark."""
    return {
        str(path.relative_to(folder)): b"link" if path.is_symlink() else path.read_bytes() if path.is_file() else b"folder"
        for path in sorted(folder.rglob("*"))
    }


def only_files(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if (folder / name).is_file()}


def params_for(source: Path, weights: str = "none") -> Params:
    params = load(ROOT / "params.yaml")
    section = params.ingest.model_copy(update={"source": str(source), "backbone_weights": weights})
    return params.model_copy(update={"ingest": section})


def refusal(source: Path, tmp_path: Path, weights: str = "none") -> str:
    """Ingest ``source``, which must be refused and change nothing below ``tmp_path``."""
    before = tree(tmp_path)
    with pytest.raises(SourceError) as error:
        ingest.write(params_for(source, weights), tmp_path / "raw", tmp_path / "backbone")
    assert tree(tmp_path) == before
    return str(error.value)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("content", [CLASSES, SPLITS])
def test_layouts_are_frozen_as_they_are(tmp_path: Path, kind: str, content: dict[str, bytes]) -> None:
    frozen = ingest.ingest(make(kind, tmp_path, content), tmp_path / "raw")
    assert only_files(tmp_path / "raw") == content
    assert frozen.num_ignored == 0
    assert frozen.class_counts == ({"cat": 2, "dog": 1} if content is CLASSES else {"cat": 3, "dog": 3})


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("content", [CLASSES, SPLITS])
@pytest.mark.parametrize("wrapping", ["photos", "a/b"])
def test_wrapping_folders_are_dropped(tmp_path: Path, kind: str, content: dict[str, bytes], wrapping: str) -> None:
    source = make(kind, tmp_path, {f"{wrapping}/{name}": data for name, data in content.items()})
    ingest.ingest(source, tmp_path / "raw")
    assert only_files(tmp_path / "raw") == content


def test_a_single_class_is_not_taken_for_a_wrapping_folder(tmp_path: Path) -> None:
    frozen = ingest.ingest(make_folder(tmp_path / "source", {"cat/1.png": b"one"}), tmp_path / "raw")
    assert frozen.class_counts == {"cat": 1}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_single_split_is_not_taken_for_a_wrapping_folder(tmp_path: Path, split: str) -> None:
    content = {f"{split}/cat/1.png": b"one", f"{split}/dog/1.png": b"two"}
    ingest.ingest(make_folder(tmp_path / "source", content), tmp_path / "raw")
    assert only_files(tmp_path / "raw") == content


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_files_outside_of_class_folders_are_counted_and_left_out(tmp_path: Path, kind: str) -> None:
    source = make(kind, tmp_path, {"README.txt": b"hello", "labels.csv": b"a,b", **CLASSES})
    frozen = ingest.ingest(source, tmp_path / "raw")
    assert frozen.num_ignored == 2
    assert only_files(tmp_path / "raw") == CLASSES


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_files_of_systems_are_left_out(tmp_path: Path, kind: str) -> None:
    source = make(
        kind, tmp_path, {"__MACOSX/cat/._1.png": b"x", ".git/config": b"x", "cat/.DS_Store": b"x", "cat/Thumbs.db": b"x", **CLASSES}
    )
    frozen = ingest.ingest(source, tmp_path / "raw")
    assert only_files(tmp_path / "raw") == CLASSES
    assert frozen.num_ignored == 0


@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "{outside}/evil/1.png", "cat\\..\\..\\evil.png", "..\\evil.png"])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    source = make(kind, inner, {**CLASSES, name.format(outside=tmp_path): b"evil"})
    before = tree(tmp_path)
    assert "leads outside" in refusal(source, inner)
    assert tree(tmp_path) == before


def test_symlinks_in_zip_are_refused(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "source.zip", CLASSES)
    with zipfile.ZipFile(source, "a") as archive:
        info = zipfile.ZipInfo("cat/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert "holds the link 'cat/link.png'" in refusal(source, tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    source = tmp_path / "source.tar"
    with tarfile.open(source, "w") as archive:
        plain = tarfile.TarInfo("cat/1.png")
        plain.size = 3
        archive.addfile(plain, io.BytesIO(b"one"))
        info = tarfile.TarInfo("cat/link.png")
        info.type, info.linkname = kind, "cat/1.png"
        archive.addfile(info)
    assert "a link or device" in refusal(source, tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(kind, tmp_path, {**CLASSES, "dog/bomb.png": bytes(300_000)})
    monkeypatch.setattr(archives, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED_BYTES", 100_000)
    assert "expands to more than 100,000 bytes" in refusal(source, tmp_path)
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED_BYTES", 300_011)
    assert ingest.ingest(source, tmp_path / "raw").class_counts == {"cat": 2, "dog": 2}


def test_the_budget_is_for_all_files_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_zip(tmp_path / "source.zip", {f"cat/{number}.png": bytes(50_000) for number in range(5)})
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED_BYTES", 200_000)
    assert "expands to more than" in refusal(source, tmp_path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_zip_is_refused(tmp_path: Path, compression: int) -> None:
    source = tmp_path / "source.zip"
    payload = np.random.default_rng(0).integers(0, 200, 5000, dtype=np.uint8).tobytes()
    with zipfile.ZipFile(source, "w", compression) as archive:
        archive.writestr("cat/1.png", payload)
        archive.writestr("dog/1.png", payload)
    content = bytearray(source.read_bytes())
    for offset in range(2000, 2040):
        content[offset] ^= 0xFF
    source.write_bytes(content)
    assert "cannot be unpacked" in refusal(source, tmp_path)


@pytest.mark.parametrize("name", ["source.tar", "source.tar.gz"])
def test_a_tar_that_is_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    payload = np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8).tobytes()
    source = make_tar(tmp_path / name, {"cat/1.png": payload, "dog/1.png": payload})
    source.write_bytes(source.read_bytes()[:70_000])
    assert "cannot be unpacked" in refusal(source, tmp_path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "source.zip", CLASSES)
    content = bytearray(source.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := content.find(signature, start + 1)) >= 0:
            content[start + offset] |= 1  # general purpose bit 0: encrypted (APPNOTE 4.4.4)
    source.write_bytes(content)
    assert "without password" in refusal(source, tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_empty_archive_is_refused(tmp_path: Path, kind: str) -> None:
    assert "holds no images in class folders (0 files lie outside" in refusal(make(kind, tmp_path, {}), tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source/cat").mkdir(parents=True)
    assert "holds no images in class folders" in refusal(tmp_path / "source", tmp_path)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", {"1.png": b"one", "2.png": b"two"})
    assert "(2 files lie outside" in refusal(source, tmp_path)


def test_plain_and_missing_files_are_refused(tmp_path: Path) -> None:
    text = make_folder(tmp_path, {"source.zip": b"this is no archive"}) / "source.zip"
    assert "neither a folder nor a zip or tar archive" in refusal(text, tmp_path)
    assert "neither a folder nor a zip or tar archive" in refusal(tmp_path / "missing", tmp_path)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize("name", ["cat/a\nb.png", "c\x1bat/a.png", "cat/\x7f.png"])
def test_control_characters_in_names_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    message = refusal(make(kind, tmp_path, {**CLASSES, name: b"x"}), tmp_path)
    assert repr(name) in message
    assert "control characters" in message


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", CLASSES)
    Path(os.fsdecode(os.fsencode(source) + b"/cat/\xff.png")).write_bytes(b"x")
    with pytest.raises(SourceError, match="expected UTF-8"):
        ingest.ingest(source, tmp_path / "raw")


def test_freezing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = make_zip(tmp_path / "source.zip", {"README": b"x", **SPLITS})
    raw, backbone = tmp_path / "raw", tmp_path / "backbone"
    ingest.write(params_for(source), raw, backbone)
    first = tree(raw), tree(backbone)
    (raw / "train/cat/left-over.png").write_bytes(b"old")
    ingest.write(params_for(source), raw, backbone)
    assert (tree(raw), tree(backbone)) == first
    assert only_files(raw) == SPLITS


def test_a_refused_source_takes_the_former_copy_away(tmp_path: Path) -> None:
    raw, backbone = tmp_path / "raw", tmp_path / "backbone"
    ingest.write(params_for(make_folder(tmp_path / "source", CLASSES)), raw, backbone)
    with pytest.raises(SourceError):
        ingest.write(params_for(tmp_path / "missing"), raw, backbone)
    assert not raw.exists()
    assert not backbone.exists()


def test_backbone_none_is_described(tmp_path: Path) -> None:
    ingest.freeze_backbone("none", 1.0, 96, tmp_path / "backbone")
    assert set(only_files(tmp_path / "backbone")) == {"backbone.json"}
    assert files.read_json(tmp_path / "backbone/backbone.json") == {"weights": ""}


@pytest.mark.parametrize(("name", "kept"), [("mine.weights.h5", "backbone.weights.h5"), ("mine.h5", "backbone.h5")])
def test_backbone_file_is_copied(tmp_path: Path, name: str, kept: str) -> None:
    (tmp_path / name).write_bytes(HDF5)
    ingest.freeze_backbone(str(tmp_path / name), 1.0, 96, tmp_path / "backbone")
    assert files.read_json(tmp_path / "backbone/backbone.json") == {"weights": kept}
    assert (tmp_path / "backbone" / kept).read_bytes() == HDF5


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "is not a file"), (b"PK\x03\x04", "is not an HDF5 file"), (b"", "is not an HDF5 file")]
)
def test_backbone_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    weights = tmp_path / "mine.weights.h5"
    if content is not None:
        weights.write_bytes(content)
    source = make_folder(tmp_path / "source", CLASSES)
    assert reason in refusal(source, tmp_path, str(weights))
