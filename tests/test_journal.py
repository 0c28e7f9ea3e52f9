"""The journal survives being cut anywhere and written by several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.flight.record import journal
from stages.flight.runs.run import from_folder
from tests import tiny
from tests.imports import ROOT


@pytest.fixture
def written(tmp_path: Path) -> Path:
    log = journal.Journal(tmp_path)
    log.write("run", id="x")
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


def test_an_opening_survives_any_cut(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    journal.open_run(folder, id="run", host="here", stage="train")
    journal.Journal(folder).write("stage-start", stage="train")
    whole = journal.read_run(folder)
    content = (folder / journal.FILE_NAME).read_bytes()
    assert [record["type"] for record in whole] == ["run", "stage-start"]
    for length in range(len(content)):
        (folder / journal.FILE_NAME).write_bytes(content[:length])
        assert journal.read_run(folder)[0] == whole[0]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(FileExistsError):
        journal.open_run(folder, id="run")


def test_a_record_of_version_1_can_be_read(tmp_path: Path) -> None:
    """As the first recorder wrote it: without host and stage, the name in the opening."""
    opening = {"type": "run", "time": 1795545867.5, "pid": 7, "schema": 1, "id": "old", "name": "old", "experiment": None}
    opening |= {"root": "/gone", "workspace": "/gone", "anchor": {"pid": 1, "create_time": 0.0}, "command": ["dvc", "repro"]}
    ended = {"type": "stage-end", "time": 1795545868.5, "pid": 7, "stage": "train", "exit_code": None, "signal": 9, "seconds": 3.0}
    lines = [opening, {**ended, "last_lines": ""}]
    (tmp_path / journal.FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = from_folder(tmp_path)
    assert (run.id, run.name, run.status, run.failure) == (
        "old",
        "old",
        "RUNNING",
        {"stage": "train", "kind": "killed", "cause": "ended by SIGKILL", "traceback": None},
    )


def run_a_stage(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    code = f"from stages.flight.record import journal\ndef main(log):\n    {body}\njournal.run_stage('prepare', main)"
    environment = {**tiny.environment(), journal.RUN_FOLDER_VARIABLE: str(folder)}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "code", "types", "kind", "words"),
    [
        ("pass", 0, ["stage-done"], None, ""),
        ("raise ValueError('wrong')", 1, ["failure"], "exception", "wrong"),
        ("raise SystemExit(3)", 3, ["failure"], "exception", "code 3"),
        ("raise SystemExit", 0, ["failure"], "exception", "code None"),
        ("bytearray(1 << 60)", 1, ["failure"], "out-of-memory", ""),
        ("raise RuntimeError('CUDA error: out of memory')", 1, ["failure"], "out-of-memory", "CUDA"),
        ("raise RuntimeError('no table was made') from MemoryError()", 1, ["failure"], "out-of-memory", "no table"),
        ("raise ImportError('libparquet.so: cannot map zero-fill pages')", 1, ["failure"], "out-of-memory", "zero-fill"),
        ("import os; os._exit(0)", 0, [], None, ""),
    ],
)
def test_what_a_stage_tells_of_its_end(tmp_path: Path, body: str, code: int, types: list[str], kind: str | None, words: str) -> None:
    done = run_a_stage(tmp_path, body)
    records, _ = journal.read(tmp_path / journal.FILE_NAME)
    assert done.returncode == code
    assert [record["type"] for record in records] == types
    if kind:
        assert (records[0]["kind"], records[0]["stage"]) == (kind, "prepare")
        assert words in records[0]["message"]


LIMITED = """
import resource, sys
from stages.flight.record import journal

def main(log):
    if sys.argv[1] == "limited":
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used, used))
    raise SystemError("error return without exception set")

journal.run_stage("train", main)
"""


@pytest.mark.parametrize(("room", "kind"), [("limited", "out-of-memory"), ("free", "exception")])
def test_an_extension_that_does_not_tell_that_its_allocation_failed(tmp_path: Path, room: str, kind: str) -> None:
    environment = {**os.environ, journal.RUN_FOLDER_VARIABLE: str(tmp_path)}
    subprocess.run([sys.executable, "-c", LIMITED, room], env=environment, cwd=ROOT, check=False, capture_output=True)
    assert [record["kind"] for record in journal.read(tmp_path / journal.FILE_NAME)[0]] == [kind]
