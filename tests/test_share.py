"""A run shared through a DVC remote and a git remote is whole in a colleague's clone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stages.flight.record import journal
from stages.flight.runs.run import from_folder
from tests import snapshot, tiny


@pytest.fixture
def recorded(clone: Path) -> str:
    """The id of a run with an uncommitted change."""
    (clone / "notes.txt").write_text("password = 'hunter22hunter'\n")
    tiny.run(clone, "python", "-m", "stages", "augment")
    tiny.wait_for_recorders(clone)
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
    assert "weights" in told_there
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


def test_a_forged_record_is_refused_and_harms_nothing(clone: Path, recorded: str, tmp_path: Path) -> None:
    """It has no end, so that a recorder would take it up, and names as a stage a folder that a recorder would replace."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    folder = clone / ".flight/runs" / recorded
    lines = [line for line in (folder / "journal.jsonl").read_text().splitlines() if json.loads(line)["type"] not in ("end", "kept")]
    ending = {"type": "stage-end", "time": 1.8e9, "pid": 1, "stage": str(victim), "exit_code": 0, "signal": None, "seconds": 1.0}
    forged = tmp_path / "forged"
    (forged / "flight-record").mkdir(parents=True)
    (forged / "flight-record/journal.jsonl").write_text("\n".join([*lines, json.dumps(ending)]) + "\n")
    (forged / "flight-record/run.json").write_text(lines[0])
    for name in ("params.yaml", "dvc.lock"):
        shutil.copy(folder / name, forged / name)
    tiny.run(forged, "git", "init", "-q")
    tiny.commit(forged, "forged")
    shutil.rmtree(folder)
    tiny.run(clone, "git", "fetch", "-q", str(forged), f"+HEAD:refs/flight/{recorded}")
    done = tiny.run(clone, "flight", "why", recorded, check=False)
    assert done.returncode == 2
    assert "is not one that flight share has made" in done.stderr
    assert (victim / "precious").read_text() == "x"
    assert not folder.exists()


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
