"""The command ``flight`` and the launcher, as typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from stages.flight.record import capture, closing, lock, session
from stages.flight.record.secrets import mask, mask_named
from stages.flight.record.stage_stderr import StageStderr
from tests import tiny


def the_id(folder: Path) -> str:
    return next((folder / ".flight/runs").iterdir()).name


def test_runs(trained: Path) -> None:
    rows = json.loads(tiny.run(trained, "flight", "runs", "--json").stdout)
    assert [row["id"] for row in rows] == [the_id(trained)]
    assert rows[0]["status"] == "FINISHED"
    metrics = json.loads((trained / "reports/evaluate/metrics.json").read_text())
    assert rows[0]["accuracy"] == metrics["accuracy"]
    assert rows[0]["mlflow_run_id"] == tiny.mlflow_runs(trained)[0].info.run_id
    assert the_id(trained) in tiny.run(trained, "flight", "runs", "--limit", "1").stdout


def test_why_is_the_verdict_with_who_and_how(trained: Path) -> None:
    verdict = json.loads((trained / "reports/diagnose/verdict.json").read_text())
    done = tiny.run(trained, "flight", "why", "--json", check=False)
    answer = json.loads(done.stdout)
    assert {name: answer[name] for name in verdict} == verdict
    assert (answer["run_id"], answer["status"], answer["failure"], answer["speed"]) == (the_id(trained), "FINISHED", None, [])
    assert done.returncode == (0 if verdict["verdict"] == "healthy" else 1)
    assert verdict["sentence"].split(":")[0] in tiny.run(trained, "flight", "why", check=False).stdout


@pytest.mark.parametrize("how", ["latest", "best", "prefix", "mlflow"])
def test_a_run_has_many_names(trained: Path, how: str) -> None:
    names = {"prefix": the_id(trained)[:18], "mlflow": tiny.mlflow_runs(trained)[0].info.run_id}
    done = tiny.run(trained, "flight", "why", names.get(how, how), "--json", check=False)
    assert json.loads(done.stdout)["run_id"] == the_id(trained)


def test_from_a_folder_below(trained: Path) -> None:
    done = tiny.run(trained / "stages/shared", "flight", "runs", "--json")
    assert len(json.loads(done.stdout)) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("why", "19990101"), "no run is called"),
        (("why", "latest~9"), "there are 1"),
        (("why", "latest~" + 5000 * "9"), "no run is called"),
        (("runs", "--limit", "0"), "at least 1"),
        (("runs", "--limit", "abc"), "at least 1"),
        (("wy",), "invalid choice"),
        ((), "COMMAND"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_2(trained: Path, arguments: tuple[str, ...], told: str) -> None:
    done = tiny.run(trained, "flight", *arguments, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_any_run(tmp_path: Path) -> None:
    assert json.loads(tiny.run(tmp_path, "flight", "runs", "--json").stdout) == []
    done = tiny.run(tmp_path, "flight", "why", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "dvc repro" in done.stderr


def test_a_stage_without_dvc_is_a_run_of_its_own(clone: Path) -> None:
    tiny.run(clone, "python", "-m", "stages", "augment")
    tiny.wait_for_recorders(clone)
    run = tiny.mlflow_runs(clone)[0]
    assert run.info.status == "FINISHED"
    assert run.data.tags["stage.augment"] == "ran"


def test_a_run_can_be_asked_for_once(clone: Path) -> None:
    """FLIGHT_RUN_ID names the MLflow run of the next record; one that holds a record already is left as it is."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{clone / 'mlflow.db'}")
    asked = client.create_run(client.create_experiment("flight-recorder", (clone / "mlruns").as_uri())).info.run_id
    for _ in range(2):
        tiny.run(clone, "env", f"FLIGHT_RUN_ID={asked}", "python", "-m", "stages", "augment")
        tiny.wait_for_recorders(clone)
    second, first = (json.loads(path.read_text()) for path in sorted(clone.glob(".flight/runs/[!.]*/mlflow.json"), reverse=True))
    assert first["run_id"] == asked != second["run_id"]
    assert first["complete"] is second["complete"] is True
    assert first["notice"] is None
    assert f"FLIGHT_RUN_ID is {asked}, but it holds the record of" in second["notice"]
    runs = tiny.mlflow_runs(clone)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len({run.data.tags["flight.id"] for run in runs}) == 2


def test_a_damaged_record_is_left_out(clone: Path) -> None:
    tiny.run(clone, "python", "-m", "stages", "augment")
    tiny.wait_for_recorders(clone)
    broken = clone / ".flight/runs/20200101-000000-broken"
    broken.mkdir()
    (broken / "journal.jsonl").write_bytes(b"\x00\xff not a journal")
    (clone / ".flight/runs/empty").mkdir()
    for number, line in enumerate(
        ('{"type": "end", "time": 1.5}', '{"type": "run", "time": 1.5}', '{"type": "run", "time": 1.5, "id": "x"}')
    ):
        (clone / f".flight/runs/cut{number}").mkdir()
        (clone / f".flight/runs/cut{number}/journal.jsonl").write_text(line + "\n")
    done = tiny.run(clone, "flight", "runs", "--json")
    assert len(json.loads(done.stdout)) == 1
    assert done.stderr.count("holds no readable record") == 5
    assert tiny.run(clone, "flight", "why", "20200101", check=False).returncode == 2


def test_a_pipe_that_closes_early_is_no_error(trained: Path) -> None:
    done = tiny.run(trained, "sh", "-c", "flight why --json | true; flight runs --json 2>&1 | head -c 5")
    assert done.stderr == ""
    ended = tiny.run(trained, "bash", "-c", "flight diff latest latest --json | true; echo ${PIPESTATUS[0]}")
    assert ended.stdout.strip() == "130", "what nobody has read has not ended well"


def test_the_hash_of_a_folder_is_dvcs(tmp_path: Path) -> None:
    """Also where sorting by parts and by the whole path differ."""
    tiny.run(tmp_path, "git", "init", "-q")
    tiny.run(tmp_path, "dvc", "init", "-q")
    for name in ("cat/1.png", "cat-big/1.png", "cat.x/1.png", "zoë/ä b.png", "single"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    tiny.run(tmp_path, "dvc", "add", "-q", "data")
    assert lock.md5(tmp_path / "data") in (tmp_path / "data.dvc").read_text()


def test_a_lock_cut_anywhere_is_whole_or_empty(trained: Path, tmp_path: Path) -> None:
    """As it is found while DVC writes it: every entry that is read can be relied on."""
    content = (trained / "dvc.lock").read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "dvc.lock").write_bytes(content[:length])
        for entry in lock.read_stages(tmp_path / "dvc.lock").values():
            assert all(item["path"] and item["md5"] for item in (*entry.get("deps", []), *entry.get("outs", [])))


def test_a_stage_that_was_not_asked_for_makes_none_stale() -> None:
    """Of ``dvc repro --single-item validate``, whose images were frozen with other parameters."""
    stages: dict[str, Any] = {
        "ingest": {"params": {"params.yaml": {"ingest.source": "b.zip"}}, "outs": [{"path": "data/raw", "md5": "1.dir"}]},
        "validate": {"deps": [{"path": "data/raw", "md5": "1.dir"}], "params": {"params.yaml": {"validate.seed": 0}}},
    }
    params = {"ingest": {"source": "a.zip"}, "validate": {"seed": 0}}
    assert lock.up_to_date(stages, params, None) == []
    assert lock.up_to_date(stages, params, None, among=["validate"]) == ["validate"]


def test_large_untracked_files_are_left_out_and_named(tmp_path: Path) -> None:
    tiny.run(tmp_path, "git", "init", "-q")
    (tmp_path / "small.txt").write_bytes(b"a\r\nb")
    for number in range(4):
        (tmp_path / f"large{number}.bin").write_bytes(bytes([number]) * 9_000_000)
    (tmp_path / "run").mkdir()
    found = capture.capture_code(tmp_path, tmp_path / "run")
    assert found["left_out"] == ["large0.bin", "large1.bin"]
    assert found["dirty"] is True
    assert tiny.run(tmp_path, "git", "show", f"{found['ref']}:small.txt").stdout == "a\nb"  # text mode reads \r\n as \n
    assert tiny.run(tmp_path, "git", "status", "--porcelain").stdout.count("??") == 5
    tiny.run(tmp_path / "run", "git", "init", "-q", "../nested")  # has no commit, which git refuses to add
    assert capture.capture_code(tmp_path, tmp_path / "run")["commit"]
    (tmp_path / "nested/helper.py").touch()
    tiny.commit(tmp_path / "nested", "one")
    found = capture.capture_code(tmp_path, tmp_path / "run")
    assert "nested/" in found["left_out"], "git would take its name alone"
    assert "nested" not in tiny.run(tmp_path, "git", "ls-tree", "--name-only", found["ref"]).stdout


def test_a_queued_experiment_is_captured_with_its_path_in_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC runs it in a clone in a temporary folder, below which the project lies as deep as in the repository."""
    for place in (tmp_path / "own", tmp_path / "temporary"):
        (place / "project").mkdir(parents=True)
        tiny.run(place, "git", "init", "-q")
        (place / "project/params.yaml").write_text(place.name)
        tiny.commit(place, "one")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "own/project"))
    (tmp_path / "run").mkdir()
    found = capture.capture_code(tmp_path / "temporary/project", tmp_path / "run")
    assert tiny.run(tmp_path / "own", "git", "show", f"{found['ref']}:project/params.yaml").stdout == "temporary"


def test_without_git_the_reason_is_recorded(tmp_path: Path) -> None:
    found = capture.workspace(tmp_path, tmp_path)
    assert found["code"]["ref"] is None
    assert "not a git repository" in found["code"]["reason"]


def test_a_closed_terminal_does_not_block_a_stage(tmp_path: Path) -> None:
    """More than a pipe holds is written to a standard error that nobody reads any more."""
    code = (
        "import os; from stages.flight.record.stage_stderr import StageStderr\n"
        "reading, writing = os.pipe(); os.dup2(writing, 2); os.close(writing); os.close(reading)\n"
        "stderr = StageStderr()\n"
        "for _ in range(400): os.write(stderr.writing_end, b'x' * 1000 + b'\\n')\n"
        "stderr.finish(10); print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny.ROOT, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.stdout == "done\n"


def test_the_launcher_knows_its_stages(tmp_path: Path, trained: Path) -> None:
    done = tiny.run(trained, "python", "-m", "stages", "trian", check=False)
    assert done.returncode == 2
    assert "usage: python -m stages {ingest,validate" in done.stderr


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("+password = 'hunter22hunter'", "hunter22hunter"),
        ("+url: https://me:s3cr3tword@host/x", "s3cr3tword"),
        ("+url: https://me:s3cr3t@word@host/x", "word@host"),
        ("+url: https://abcdef0123456789@host/x", "abcdef0123456789"),
        ("+password: |\n+  block of words", "block of words"),
        ("+run --password hunter22hunter", "hunter22hunter"),
        ("+db_pass: hunter22hunter", "hunter22hunter"),
        ("+AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCY", "wJalrXUtnFEMIK7MDENGbPxRfiCY"),
        ('+password: "my secret pass word"', "my secret pass word"),
        ("+origin https://:tok3n@host/x", "tok3n"),
        ("+maps AIzaSyA0123456789abcdefghij", "AIzaSyA0123456789abcdefghij"),
        ("+key = AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("+token: ghp_0123456789abcdefghij0123", "ghp_0123456789abcdefghij0123"),
        ("+Authorization: Bearer abcdef0123456789abcdef", "abcdef0123456789abcdef"),
        ("+-----BEGIN RSA PRIVATE KEY-----\n+MIIEow\n+-----END RSA PRIVATE KEY-----", "MIIEow"),
    ],
)
def test_secrets_are_masked(text: str, secret: str) -> None:
    masked = mask(f" learning_rate: 0.1\n{text}\n+epochs: 3\n")
    assert secret not in masked
    assert "learning_rate: 0.1" in masked
    assert "epochs: 3" in masked


def test_a_value_is_masked_by_its_name() -> None:
    assert mask_named("ingest.api_key", "plain words") == "***"
    assert mask_named("train.optimizer", "adam") == "adam"


def test_a_process_is_told_from_another_with_its_number() -> None:
    me = session.identity(psutil.Process())
    assert me.process() is not None
    assert session.Identity(me.pid, me.create_time - 0.5, me.boot).process() is None
    assert session.Identity(me.pid, me.create_time, "another boot").process() is None


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("dvc repro", 7),
        ("python -u -m dvc repro -f", 7),
        ("dvc repro train", 5),
        ("dvc exp run -n train -S evaluate.gates.accuracy.min=0.9", 7),
        ("dvc exp run --set-param=train.seed=1 dvc.yaml:augment", 4),
        ("dvc repro -fs augment", 1),
        ("dvc repro --glob aug*", 0),
        ("dvc repro --downstream train", 0),
        ("python -m stages train", 0),
    ],
)
def test_what_a_command_asks_for(command: str, wanted: int) -> None:
    assert len(closing._wanted(command.split(), tiny.ROOT)) == wanted


def test_the_log_of_a_stage_passes_without_tensorflows_notes(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    stderr = StageStderr()
    note = b"I0000 00:00:1795545867.162482    7452 port.cc:153] oneDNN custom operations are on.\n"
    lite = b"fully_quantize: 0, inference_type: 6\n"
    for part in (
        b"validate:  10%\rvalid",
        b"ate: 100%\n",
        note[:30],
        note[30:],
        lite[:9],
        lite[9:60],
        lite[60:],
        b"fully yours\nImportant",
        b" message\n",
        b"Warning: keep\nlast",
    ):
        os.write(stderr.writing_end, part)
    kept = stderr.finish(timeout_s=10)
    assert capfd.readouterr().err == "validate:  10%\rvalidate: 100%\nfully yours\nImportant message\nWarning: keep\nlast"
    assert "oneDNN" in kept
    assert kept.splitlines()[-2:] == ["Warning: keep", "last"]
    assert "Important message" in kept
    assert "validate: 100%" in kept, "a line that came in pieces"
