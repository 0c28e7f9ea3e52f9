"""A run shared through a DVC remote and a git remote is whole in a colleague's clone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stages.flight.record import journal
from stages.flight.runs.run import from_folder
from stages.flight.runs.share import files_with_secrets
from tests import snapshot, tiny


@pytest.fixture(scope="module")
def origin(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with one run, of code with an uncommitted change."""
    folder = tiny.copy(trained, tmp_path_factory.mktemp("origin") / "clone")
    (folder / "notes.txt").write_text("password = 'hunter22hunter'\n")
    tiny.run(folder, "python", "-m", "stages", "augment")
    tiny.wait_for_recorders(folder)
    return folder


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    """A copy of ``origin`` with its record."""
    return shutil.copytree(origin, tmp_path / "clone", symlinks=True, ignore=shutil.ignore_patterns("mlflow.db", "mlruns"))


@pytest.fixture
def recorded(clone: Path) -> str:
    """The id of its run."""
    return next(clone.glob(".flight/runs/[!.]*/")).name


def test_a_colleague_gets_all_of_it(clone: Path, recorded: str, tmp_path: Path) -> None:
    tiny.run(tmp_path, "git", "init", "-q", "--bare", "remote.git")
    tiny.run(clone, "git", "remote", "add", "origin", str(tmp_path / "remote.git"))
    tiny.run(clone, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    before = tiny.run(clone, "git", "status", "--porcelain").stdout, tiny.run(clone, "git", "rev-parse", "HEAD").stdout
    refused = tiny.run(clone, "flight", "share", "latest", check=False)
    assert refused.returncode == 2
    assert "looks like a secret, in notes.txt" in refused.stderr
    assert tiny.run(tmp_path / "remote.git", "git", "for-each-ref").stdout == ""
    told = tiny.run(clone, "flight", "share", "--with-secrets", "latest").stdout
    assert (tiny.run(clone, "git", "status", "--porcelain").stdout, tiny.run(clone, "git", "rev-parse", "HEAD").stdout) == before
    tiny.run(clone, "git", "push", "-q", "origin", "HEAD:refs/heads/team")
    tiny.run(tmp_path, "git", "clone", "-q", "--branch", "team", "remote.git", "colleague")
    colleague = tmp_path / "colleague"  # which has no DVC remote: the one of who shares goes with the run
    before_replay = snapshot.take(colleague)
    told_there = tiny.run(colleague, "sh", "-c", told.splitlines()[-1]).stdout  # what it says that a colleague types
    tiny.wait_for_recorders(colleague)
    assert "\nweights: " in told_there
    assert snapshot.take(colleague) == before_replay
    folder = colleague / ".flight/runs" / recorded
    taken = from_folder(folder)
    assert taken.made == from_folder(clone / ".flight/runs" / recorded).made
    assert (folder / "params.yaml").read_bytes() == (clone / "params.yaml").read_bytes()
    assert "hunter22hunter" in tiny.run(colleague, "git", "show", f"{taken.commit}:notes.txt").stdout
    records = journal.read_run(folder)
    assert records[0]["id"] == recorded
    assert [record["level"] for record in records if record["type"] == "replay"] == ["weights"]
    assert recorded in tiny.run(colleague, "flight", "runs").stdout
    assert recorded not in {run.data.tags["flight.id"] for run in tiny.mlflow_runs(colleague)}
    assert tiny.run(clone, "flight", "share", recorded, "--with-secrets", "--json").stdout.startswith("{"), "a second time changes nothing"


def test_what_is_missing_is_told(clone: Path, recorded: str, tmp_path: Path) -> None:
    without_git_remote = tiny.run(clone, "flight", "share", recorded, check=False)
    assert without_git_remote.returncode == 2
    assert "git remote add origin" in without_git_remote.stderr
    tiny.run(tmp_path, "git", "init", "-q", "--bare", "remote.git")
    tiny.run(clone, "git", "remote", "add", "origin", str(tmp_path / "remote.git"))
    without_dvc_remote = tiny.run(clone, "flight", "share", recorded, "--with-secrets", check=False)
    assert without_dvc_remote.returncode == 2
    assert "dvc remote add --default" in without_dvc_remote.stderr
    assert "Traceback" not in without_dvc_remote.stderr
    assert tiny.run(tmp_path / "remote.git", "git", "for-each-ref").stdout == ""


def fetch_instead(clone: Path, run_id: str, lines: list[str], forged: Path) -> None:
    """In place of a recorded run, one of the same id whose journal has these lines, as if another had shared it."""
    folder = clone / ".flight/runs" / run_id
    (forged / "flight-record").mkdir(parents=True)
    (forged / "flight-record/journal.jsonl").write_text("\n".join(lines) + "\n")
    (forged / "flight-record/run.json").write_text(lines[0])
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(folder / name, forged / name)
    tiny.run(forged, "git", "init", "-q")
    tiny.commit(forged, "forged")
    shutil.rmtree(folder)
    tiny.run(clone, "git", "fetch", "-q", str(forged), f"+HEAD:refs/flight/{run_id}")


def test_a_forged_record_is_refused_and_harms_nothing(clone: Path, recorded: str, tmp_path: Path) -> None:
    """It has no end, so that a recorder would take it up, and names as a stage a folder that a recorder would replace."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    folder = clone / ".flight/runs" / recorded
    lines = [line for line in (folder / "journal.jsonl").read_text().splitlines() if json.loads(line)["type"] not in ("end", "kept")]
    ending = {"type": "stage-end", "time": 1.8e9, "pid": 1, "stage": str(victim), "exit_code": 0, "signal": None, "seconds": 1.0}
    fetch_instead(clone, recorded, [*lines, json.dumps(ending)], tmp_path / "forged")
    done = tiny.run(clone, "flight", "why", recorded, check=False)
    assert done.returncode == 2
    assert "is not one that flight share has made" in done.stderr
    assert (victim / "precious").read_text() == "x"
    assert not folder.exists()


@pytest.mark.parametrize("part", ["a number that is text", "a digest without values", "text that a terminal obeys"])
def test_what_a_forged_record_says_is_checked(clone: Path, recorded: str, tmp_path: Path, part: str) -> None:
    folder = clone / ".flight/runs" / recorded
    records = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    if part == "a digest without values":
        records.insert(1, {"type": "digest", "time": 1.8e9, "pid": 1, "epoch": 0})
    for record in records:
        if record["type"] == "metrics" and part == "a number that is text":
            record["values"] = dict.fromkeys(record["values"], "0.2")
        if record["type"] == "name" and part == "text that a terminal obeys":
            record["name"] = "\x1b]0;owned\x07[/x]"
    fetch_instead(clone, recorded, [json.dumps(record) for record in records], tmp_path / "forged")
    done = tiny.run(clone, "flight", "why", recorded, check=False)
    assert "Traceback" not in done.stderr
    assert ("is not one that flight share has made" in done.stderr) == (part != "text that a terminal obeys")
    assert "\x1b" not in tiny.run(clone, "flight", "runs").stdout


def test_secrets_are_looked_for_in_every_commit_that_is_pushed(tmp_path: Path) -> None:
    line = "password = 'hunter22hunter'\n"
    tiny.run(tmp_path, "git", "init", "-q", "--bare", "remote.git")
    repository = tmp_path / "repository"
    repository.mkdir()
    tiny.run(repository, "git", "init", "-q")
    tiny.run(repository, "git", "remote", "add", "origin", str(tmp_path / "remote.git"))
    (repository / "known.py").write_text(line)
    tiny.commit(repository, "one")
    tiny.run(repository, "git", "push", "-q", "origin", "HEAD:refs/heads/team")
    (repository / "known.py").unlink()
    tiny.commit(repository, "two")
    assert files_with_secrets("HEAD", "origin", repository) == [], "what is removed is not pushed"
    (repository / "nëw one.py").write_text(line)
    tiny.commit(repository, "three")
    (repository / "nëw one.py").unlink()
    tiny.commit(repository, "four")
    assert files_with_secrets("HEAD", "origin", repository) == ["nëw one.py"]


def test_a_masked_verdict_can_be_read(clone: Path, recorded: str, tmp_path: Path) -> None:
    verdict = clone / ".flight/runs" / recorded / "diagnosis/verdict.json"
    content = json.loads(verdict.read_text())
    verdict.write_text(json.dumps({**content, "sentence": 'cannot fetch "https://host/x?token=abcdefgh"'}, indent=2))
    tiny.run(tmp_path, "git", "init", "-q", "--bare", "remote.git")
    tiny.run(clone, "git", "remote", "add", "origin", str(tmp_path / "remote.git"))
    tiny.run(clone, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    tiny.run(clone, "flight", "share", "--with-secrets", recorded)
    shared = tiny.run(tmp_path / "remote.git", "git", "show", f"refs/flight/{recorded}:flight-record/diagnosis/verdict.json").stdout
    assert json.loads(shared)["sentence"] == 'cannot fetch "https://host/x?token=***"'


def test_images_that_are_missing_are_told_before_anything_is_pushed(clone: Path, recorded: str, tmp_path: Path) -> None:
    tiny.run(tmp_path, "git", "init", "-q", "--bare", "remote.git")
    tiny.run(clone, "git", "remote", "add", "origin", str(tmp_path / "remote.git"))
    tiny.run(clone, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    listing = from_folder(clone / ".flight/runs" / recorded).made["ingest"]["data/raw"]
    image = json.loads((clone / ".dvc/cache/files/md5" / listing[:2] / listing[2:]).read_text())[3]
    (clone / ".dvc/cache/files/md5" / image["md5"][:2] / image["md5"][2:]).unlink()
    done = tiny.run(clone, "flight", "share", recorded, "--with-secrets", check=False)
    assert done.returncode == 2
    assert f"data/raw/{image['relpath']}" in done.stderr
    assert tiny.run(tmp_path / "remote.git", "git", "for-each-ref").stdout == ""
