"""The journal survives being cut anywhere and written by several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stages.flight.record import journal
from tests.imports import ROOT


@pytest.fixture
def written(tmp_path: Path) -> Path:
    log = journal.Journal(tmp_path)
    log.write("run", schema=journal.SCHEMA, id="x")
    log.metrics("train", {"loss": 0.5, "näme": float("nan")}, step=1)
    log.write("failure", stage="train", message="zwei\nZeilen \udc80")
    return tmp_path / journal.FILE_NAME


def test_cut_at_any_byte_gives_the_whole_records_before(written: Path) -> None:
    whole, _ = journal.read(written)
    content = written.read_bytes()
    assert [record["type"] for record in whole] == ["run", "metrics", "failure"]
    for length in range(len(content) + 1):
        written.write_bytes(content[:length])
        records, offset = journal.read(written)
        assert records == whole[: content[:length].count(b"\n")] or length == 0
        assert offset <= length


def test_writing_after_a_cut_loses_only_the_cut_record(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-9])
    journal.Journal(written.parent).write("end", status="FINISHED")
    assert [record["type"] for record in journal.read(written)[0]] == ["run", "metrics", "end"]


def test_reading_goes_on_where_it_stopped(written: Path) -> None:
    _, offset = journal.read(written)
    assert journal.read(written, offset) == ([], offset)
    journal.Journal(written.parent).write("end", status="FAILED")
    assert [record["type"] for record in journal.read(written, offset)[0]] == ["end"]


def test_damaged_lines_are_skipped(written: Path) -> None:
    with written.open("ab") as file:
        file.write(b'\x00\x00\xff\n[1, 2]\n{"type": 3, "time": 1.0}\n{"no": "type"}\n')
    assert len(journal.read(written)[0]) == 3


def test_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stages.flight.record.journal import Journal\n"
        "log = Journal(Path(sys.argv[1]))\n"
        "for step in range(300): log.metrics(sys.argv[2], {'loss': step / 7, 'text': 'x' * 500}, step)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=ROOT) for name in "abcd"]
    assert [writer.wait() for writer in writers] == [0] * 4
    records, _ = journal.read(tmp_path / journal.FILE_NAME)
    for name in "abcd":
        assert [record["step"] for record in records if record["stage"] == name] == list(range(300))


def test_a_bare_stage_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal.Journal(None).metrics("train", {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []
