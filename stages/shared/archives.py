"""Files of a folder, a zip or a tar archive, in a fixed order; what could do harm is refused before anything is written."""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from stages.shared.errors import SourceError

CHUNK_BYTES = 1 << 20
# Images hardly compress: an honest archive expands by less than 10, a bomb by a thousand and more.
MAX_EXPANSION = 100
ALWAYS_ALLOWED_BYTES = 1 << 28
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class Member:
    """A regular file: its path inside the source, and its bytes in chunks."""

    path: PurePosixPath
    chunks: Callable[[], Iterator[bytes]]


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a zip or a (compressed) tar archive, by content."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def members_of_folder(folder: Path) -> Iterator[Member]:
    """All files below ``folder`` by name, without hidden ones and those of operating systems."""
    seen: set[Path] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        if (real := Path(parent).resolve()) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(names):
            path = Path(parent, name)
            relative = PurePosixPath(path.relative_to(folder).as_posix())
            if path.is_file() and not _is_system_file(relative):
                _check_name(str(relative), folder)
                yield Member(relative, lambda path=path: _chunks(path.open("rb")))  # type: ignore[misc]


def members_of_archive(archive: Path) -> Iterator[Member]:
    """All regular files of a zip or tar archive by order in it.

    Raises:
        SourceError: for a path that leads outside, a link, a damaged or encrypted archive, or one that expands beyond
            MAX_EXPANSION times its size.
    """
    budget = _Budget(archive)
    opener = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    with _explained(archive):
        for path, open_member in opener(archive):
            if not _is_system_file(path):
                yield Member(path, lambda open_member=open_member: budget.spend(open_member))  # type: ignore[misc]


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        ValueError,
        OSError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        raise SourceError(f"{archive} cannot be unpacked: {error}\nExpected an undamaged zip or tar archive without password.") from error


def _zip_members(archive: Path) -> Iterator[tuple[PurePosixPath, Callable[[], IO[bytes]]]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            path = _safe_path(info.filename, archive)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise SourceError(f"{archive} holds the link {info.filename!r}; expected regular files only.")
            if not info.is_dir() and not info.filename.endswith("\\"):  # some Windows programs end folders so
                yield path, lambda info=info: opened.open(info)  # type: ignore[misc]


def _tar_members(archive: Path) -> Iterator[tuple[PurePosixPath, Callable[[], IO[bytes]]]]:
    with tarfile.open(archive) as opened:
        for info in opened:
            path = _safe_path(info.name, archive)
            if info.isdir():
                continue
            if not info.isreg():
                raise SourceError(f"{archive} holds {info.name!r}, a link or device; expected regular files only.")
            yield path, lambda info=info: opened.extractfile(info)  # type: ignore[misc]
        while opened.fileobj is not None and opened.fileobj.read(CHUNK_BYTES):
            pass  # a compressed archive's checksum stands at its end


def _safe_path(name: str, archive: Path) -> PurePosixPath:
    _check_name(name, archive)
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise SourceError(f"{archive} holds {name!r}, which leads outside of its target; nothing of it is used.")
    return path


def _check_name(name: str, origin: Path) -> None:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise SourceError(
            f"{origin} holds the file name {name!r}; expected UTF-8 without control characters. Rename it and type: dvc repro"
        )


def _is_system_file(path: PurePosixPath) -> bool:
    return any(part.startswith(".") or part.lower() in SYSTEM_FILES for part in path.parts)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


class _Budget:
    """Bytes that an archive may still expand to, counted as they come, since headers can lie."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.allowed = max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * archive.stat().st_size)
        self.left = self.allowed

    def spend(self, open_member: Callable[[], IO[bytes]]) -> Iterator[bytes]:
        with _explained(self.archive):
            for chunk in _chunks(open_member()):
                self.left -= len(chunk)
                if self.left < 0:
                    raise SourceError(
                        f"{self.archive} expands to more than {self.allowed:,} bytes, over {MAX_EXPANSION} times its size: "
                        "a decompression bomb?\nIf it is meant, unpack it yourself and set ingest.source to the folder."
                    )
                yield chunk
