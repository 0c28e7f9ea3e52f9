"""The scan of a folder: complete, in order, the same with and without earlier results, and no file examined twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pytest

from stages.shared.errors import SourceError
from stages.shared.quality import kept
from stages.shared.quality.examine import ImageFacts
from stages.shared.quality.scan import FEW_FILES, RACY_NS, scan
from tests import bad_images
from tests.tiny import ROOT

NUM_IMAGES = 30


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number in range(NUM_IMAGES):
        path = tmp_path / "raw" / f"class-{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bad_images.encode(bad_images.scene(number, (40, 30)), "PNG"))
    return tmp_path / "raw"


def age(folder: Path) -> None:
    """Wait until no file counts as just changed."""
    newest = max(path.stat().st_ctime_ns for path in folder.rglob("*"))
    while time.time_ns() < newest + RACY_NS:
        os.sched_yield()


def parts(results: Path) -> list[pa.Table]:
    """What each scan has added, oldest first."""
    found = sorted((results / kept.version()).glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    return [pa.parquet.read_table(path) for path in found]


def test_a_row_a_file_in_order(raw: Path, tmp_path: Path) -> None:
    table = scan(raw, tmp_path / "kept")
    assert list(table["path"]) == sorted(path.relative_to(raw).as_posix() for path in raw.rglob("*.png"))
    assert list(table.columns) == ["path", *kept.FACT_SCHEMA.names]
    assert (table["width"] == 40).all()
    assert [field.name for field in fields(ImageFacts)] == kept.FACT_SCHEMA.names


def test_untouched_files_are_not_read_again(raw: Path, tmp_path: Path) -> None:
    age(raw)
    first = scan(raw, tmp_path / "kept")
    state = (raw / "class-0/00.png").stat()
    hidden = raw.with_name("hidden")
    raw.rename(hidden)
    shutil.copytree(hidden, raw, copy_function=os.link)
    age(raw)
    assert (raw / "class-0/00.png").stat().st_ino == state.st_ino
    second = scan(raw, tmp_path / "kept")
    third = scan(raw, tmp_path / "kept")
    pd.testing.assert_frame_equal(first, second)
    pd.testing.assert_frame_equal(first, third)
    assert len(parts(tmp_path / "kept")) == 2  # to link the files changed their state, once; the third scan had nothing to add


def test_only_new_content_is_examined(raw: Path, tmp_path: Path) -> None:
    scan(raw, tmp_path / "kept")
    shutil.copytree(raw, tmp_path / "again")
    (tmp_path / "again/class-1/new.png").write_bytes(bad_images.encode(bad_images.scene(99), "PNG"))
    table = scan(tmp_path / "again", tmp_path / "kept")
    assert len(table) == NUM_IMAGES + 1
    assert parts(tmp_path / "kept")[-1].num_rows == 1
    pd.testing.assert_frame_equal(table, scan(tmp_path / "again", tmp_path / "elsewhere"))


def test_a_changed_file_is_examined_again(raw: Path, tmp_path: Path) -> None:
    before = scan(raw, tmp_path / "kept")
    path = raw / "class-0/00.png"
    state = path.stat()
    content = bad_images.overwrite(path.read_bytes(), len(path.read_bytes()) // 2, b"\0\1\2\3")
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # same size, same time
    after = scan(raw, tmp_path / "kept")
    assert before["found"][0] == 0
    assert after["found"][0] != 0


def test_results_of_other_code_are_removed_and_damaged_ones_passed_over(raw: Path, tmp_path: Path) -> None:
    expected = scan(raw, tmp_path / "kept")
    (tmp_path / "kept/0123456789abcdef").mkdir()
    for path in (tmp_path / "kept" / kept.version()).glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    pd.testing.assert_frame_equal(expected, scan(raw, tmp_path / "kept"))
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [kept.version()]


def test_many_scans_leave_few_files(raw: Path, tmp_path: Path) -> None:
    for number in range(kept.MAX_PARTS + 3):
        (raw / "class-2" / f"more-{number}.png").write_bytes(bad_images.encode(bad_images.scene(200 + number), "PNG"))
        scan(raw, tmp_path / "kept")
    assert len(parts(tmp_path / "kept")) <= kept.MAX_PARTS
    assert kept.read(tmp_path / "kept").num_rows >= NUM_IMAGES + kept.MAX_PARTS + 3


def test_a_folder_for_results_that_cannot_be_made_costs_nothing(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(scan(raw, tmp_path / "file")) == NUM_IMAGES


def test_a_file_that_cannot_be_read_is_named(raw: Path, tmp_path: Path) -> None:
    (raw / "class-0/memory.png").symlink_to("/proc/self/mem")
    with pytest.raises(SourceError, match=r"class-0/memory\.png cannot be read"):
        scan(raw, tmp_path / "kept")


def many(folder: Path) -> Path:
    """More files than one process examines alone."""
    (folder / "many/a").mkdir(parents=True)
    content = bad_images.encode(bad_images.scene(0, (16, 16)), "PNG")
    for number in range(FEW_FILES):
        (folder / "many/a" / f"{number}.png").write_bytes(content)
    return folder / "many"


def test_many_files_are_examined_by_processes(tmp_path: Path) -> None:
    table = scan(many(tmp_path), tmp_path / "kept")
    assert len(table) == FEW_FILES
    assert table["sha256"].nunique() == 1


def test_a_killed_scan_leaves_no_process(tmp_path: Path) -> None:
    folder = many(tmp_path)
    code = "import sys; from pathlib import Path; from stages.shared.quality.scan import scan; scan(Path(sys.argv[1]), Path(sys.argv[2]))"
    scanning = subprocess.Popen([sys.executable, "-c", code, str(folder), str(tmp_path / "kept")], cwd=ROOT, stderr=subprocess.DEVNULL)
    process = psutil.Process(scanning.pid)
    deadline = time.monotonic() + 60
    while not (workers := [child for child in process.children(recursive=True) if "loky" in " ".join(child.cmdline())]):
        assert time.monotonic() < deadline
        assert scanning.poll() is None, "the scan ended before its workers were seen"
    scanning.send_signal(signal.SIGKILL)
    scanning.wait()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert alive == []
