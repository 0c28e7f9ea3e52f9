"""A recorded run again: proved where it is the same, told where it is not, and nothing of the user's touched."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.flight.record import capture, journal, lock, recorder_process
from stages.flight.runs import proof, rerun
from stages.flight.runs.differences import recorded
from stages.flight.runs.run import Run, from_folder
from tests import snapshot, tiny


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained clone with its record, and a second run that went up to ``augment``, whose ``validate`` DVC had cached."""
    clone = tmp_path_factory.mktemp("replay") / "clone"
    shutil.copytree(trained, clone, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db", "mlruns", recorder_process.STATE_NAME))
    journal.Journal(next(clone.glob(".flight/runs/[!.]*/"))).write("address", tracking_uri=f"sqlite:///{clone}/mlflow.db")
    tiny.set_params(clone, {"augment.zoom": 0.1})
    tiny.run(clone, "dvc", "repro", "augment")
    tiny.wait_for_recorders(clone)
    return clone


def ids(clone: Path) -> list[str]:
    return sorted(path.name for path in clone.glob(".flight/runs/[!.]*/"))


def replay(clone: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = tiny.run(clone, "flight", "replay", *arguments, "--json", check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_a_run_is_the_same_bit_for_bit_and_nothing_is_touched(folder: Path) -> None:
    original = ids(folder)[0]
    before = snapshot.take(folder)
    code, answer, _ = replay(folder, original)
    tiny.wait_for_recorders(folder)
    assert (code, answer["level"], answer["expected_level"], answer["identical"]) == (0, "weights", "weights", True)
    assert answer["first_difference"] is None
    compared = {check["name"] for check in answer["checks"]}
    assert compared >= {"data/raw", "data/model", "reports/evaluate", "order, images, loss and weights of 2 epochs"}
    assert snapshot.take(folder) == before
    assert rerun.HELD_BACK not in (folder / ".flight/runs" / answer["replay"] / "mlflow.json").read_text()
    runs = {run.data.tags["flight.id"]: run for run in tiny.mlflow_runs(folder)}
    again, first = runs[answer["replay"]], runs[original]
    assert (again.data.tags["replay.of"], again.data.tags["replay.level"], again.info.status) == (original, "weights", "FINISHED")
    assert again.info.run_name == f"replay of {original}"
    assert "champion" not in again.data.tags
    assert (first.data.tags["replay.level"], first.info.status) == ("weights", "FINISHED")
    assert str(folder) in again.info.artifact_uri
    assert json.loads(tiny.run(folder, "flight", "diff", original, answer["replay"], "--json", check=False).stdout)["same"]
    assert tiny.run(folder, "git", "rev-parse", "--verify", f"refs/flight/{answer['replay']}").stdout


def test_cached_stages_are_executed_and_a_changed_pixel_is_named(folder: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(folder, clone, symlinks=True)
    run = from_folder(clone / ".flight/runs" / ids(folder)[1])
    assert run.stages["validate"] == "cached"
    listing = json.loads(in_cache(clone, run.made["ingest"]["data/raw"]).read_text())
    place = in_cache(clone, listing[5]["md5"])
    place.chmod(0o644)
    content = bytearray(place.read_bytes())
    content[-20] ^= 1  # inside of the compressed pixels
    place.write_bytes(content)
    code, answer, told = replay(clone, run.id)
    assert (code, answer["level"]) == (1, "none")
    assert answer["first_difference"]["name"] == f"data/raw/{listing[5]['relpath']}"
    assert answer["first_difference"]["original"] == listing[5]["md5"]
    tiny.wait_for_recorders(clone)
    assert "validate …" in told
    again = from_folder(clone / ".flight/runs" / answer["replay"])
    assert [again.stages[stage] for stage in ("validate", "prepare", "augment", "train")] == ["ran", "ran", "ran", "not-reached"]


def in_cache(clone: Path, md5: str) -> Path:
    return clone / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (lambda clone, run: in_cache(clone, run.made["ingest"]["data/raw"]).unlink(), "neither in DVC's cache"),
        (lambda clone, run: tamper(run, str(run.commit), "0" * 40), "git no longer has the code"),
        (lambda clone, run: tamper(run, str(run.commit), "--output=x"), "was not captured"),
        (lambda clone, run: (run.folder / "dvc.lock").write_text(""), "before its images were frozen"),
    ],
    ids=["images", "code", "an option for git", "record"],
)
def test_what_is_missing_is_said_before_any_work(folder: Path, tmp_path: Path, missing: Callable[[Path, Run], None], told: str) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(folder, clone, symlinks=True)
    run = from_folder(clone / ".flight/runs" / ids(folder)[0])
    missing(clone, run)
    code, _, stderr = replay(clone, run.id)
    assert code == 2
    assert told in stderr
    assert "Type: " in stderr or "types: " in stderr
    assert "Traceback" not in stderr
    assert ids(clone) == ids(folder)


def tamper(run: Run, old: str, new: str, name: str = journal.FILE_NAME) -> None:
    path = run.folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_replay_that_is_ended_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    clone, temporary = tmp_path / "clone", tmp_path / "temporary"
    shutil.copytree(folder, clone, symlinks=True)
    temporary.mkdir()
    before = snapshot.take(clone)
    flight = subprocess.Popen(
        ["flight", "replay", ids(folder)[0]],
        cwd=clone,
        env={**tiny.environment(), "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert flight.stderr is not None
    assert any("prepare …" in line for line in flight.stderr), "it has begun"
    flight.send_signal(signal.SIGTERM)
    flight.communicate()
    assert flight.returncode == 130
    assert list(temporary.iterdir()) == []
    assert snapshot.take(clone) == before
    assert ids(clone) == ids(folder)
    assert not tiny.left_running(temporary)


def test_a_training_is_stopped_before_a_step_and_its_batch_shown(folder: Path, tmp_path: Path) -> None:
    original, before = ids(folder)[0], snapshot.take(folder)
    code, answer, _ = replay(folder, original, "--until", "3")
    tiny.wait_for_recorders(folder)
    assert snapshot.take(folder) == before
    assert (code, answer["original"], answer["until"]) == (0, original, 3)
    moment = Path(answer["moment"])
    rows = list(csv.DictReader((moment.parent / journal.MOMENT_TABLE).open(encoding="utf-8")))
    losses = [float(row["loss"]) for row in rows]
    assert len(rows) == 32
    assert losses == sorted(losses, reverse=True)
    page = moment.read_text(encoding="utf-8")
    assert all((folder / "data/raw" / row["file"]).is_file() and row["file"] in page for row in rows)
    assert len(list(moment.parent.glob("*.png"))) == 32
    assert tiny.run(folder, "git", "rev-parse", "--verify", f"refs/flight/{answer['replay']}").stdout
    clone = tmp_path / "clone"
    shutil.copytree(folder, clone, symlinks=True)
    run = from_folder(clone / ".flight/runs" / original)
    old = tiny.run(clone, "git", *tiny.GIT_IDENTITY, "commit-tree", capture.EMPTY_TREE, "-m", "old").stdout.strip()
    tamper(run, str(run.commit), old)
    code, _, stderr = replay(clone, original, "--until", "3")
    assert (code, "is older than --until" in stderr) == (2, True)


def test_a_failure_is_replayed_as_one(folder: Path, tmp_path: Path) -> None:
    """Of uncommitted code, with a file that git has never seen."""
    clone = tmp_path / "clone"
    shutil.copytree(folder, clone, symlinks=True, ignore=shutil.ignore_patterns(*tiny.MADE_BY_RUNS))
    (clone / "stages/helper.py").write_text("def fail(size: int) -> None:\n    raise ValueError(f'no such size: {size}')\n")
    path = clone / "stages/augment.py"
    path.write_text(
        path.read_text().replace("def main(log: journal.Journal) -> None:\n", f"def main(log: journal.Journal) -> None:\n{CALL}")
    )
    tiny.run(clone, "dvc", "repro", check=False)
    tiny.wait_for_recorders(clone)
    path.write_text(path.read_text().replace(CALL, ""))  # meanwhile it has been mended
    (clone / "stages/helper.py").unlink()
    code, answer, _ = replay(clone, "latest")
    assert (code, answer["level"], answer["identical"]) == (0, "failure", True)
    again = from_folder(clone / ".flight/runs" / answer["replay"])
    assert again.failure is not None
    assert "no such size: 7" in again.failure["cause"]


CALL = "    from stages import helper\n\n    helper.fail(7)\n"


@pytest.fixture
def pair(folder: Path, tmp_path: Path) -> tuple[Run, Run, Path]:
    """A run and a copy of its record, as if it were its replay."""
    home = tmp_path / "home/.flight/runs"
    source = folder / ".flight/runs" / ids(folder)[0]
    shutil.copytree(source, home / source.name)
    shutil.copytree(source, home / "20990101-000000-abcdef")
    return from_folder(home / source.name), from_folder(home / "20990101-000000-abcdef"), home


def proved(original: Run, replay: Run) -> dict[str, Any]:
    runs = [recorded(from_folder(run.folder), run.folder) for run in (original, replay)]
    checks = proof.compare(runs[0], runs[1], {})
    return proof.answer(checks, proof.level(checks, runs[0].run, runs[1].run, []), *(run.run for run in runs))


@pytest.mark.parametrize(
    ("name", "old", "new", "level", "expected", "first"),
    [
        ("dvc.lock", "learning_rate: 0.003", "learning_rate: 0.004", "none", "weights", "train.learning_rate"),
        ("journal.jsonl", '"numpy": "', '"numpy": "9', "weights", "metrics", "package numpy"),
        ("journal.jsonl", '"rich": "', '"rich": "9', "weights", "weights", "package rich"),
        (
            "journal.jsonl",
            '"settings": {',
            '"settings": {"OMP_NUM_THREADS": "1"}, "were": {',
            "weights",
            "metrics",
            "setting OMP_NUM_THREADS",
        ),
        ("journal.jsonl", '"num_usable_cpus": ', '"num_usable_cpus": 9', "weights", "metrics", "hardware num_usable_cpus"),
    ],
)
def test_what_is_not_as_recorded_is_the_first_difference(
    pair: tuple[Run, Run, Path], name: str, old: str, new: str, level: str, expected: str, first: str
) -> None:
    original, again, _ = pair
    assert proved(original, again)["first_difference"] is None
    tamper(again, old, new, name)
    answer = proved(original, again)
    assert (answer["level"], answer["expected_level"], answer["first_difference"]["name"]) == (level, expected, first)


def test_a_changed_line_of_code_is_named(pair: tuple[Run, Run, Path]) -> None:
    original, again, _ = pair
    entry = next(dep for dep in lock.read_stages(again.folder / "dvc.lock")["train"]["deps"] if dep["path"] == "stages/shared/model.py")
    tamper(again, entry["md5"], "f" * 32, "dvc.lock")
    answer = proved(original, again)
    assert (answer["level"], answer["first_difference"]["name"]) == ("none", "stages/shared/model.py")


def test_the_first_digest_that_differs_is_named(pair: tuple[Run, Run, Path]) -> None:
    original, again, _ = pair
    digests = [record for record in journal.read_run(again.folder) if record["type"] == "digest"]
    tamper(again, digests[1]["values"]["loss"], "0x1p+0")
    tamper(again, original.made["train"]["data/model"], "0" * 32 + ".dir", "dvc.lock")
    answer = proved(original, again)
    assert answer["first_difference"]["name"] == "epoch 1, loss"
    assert answer["level"] == "predictions", "its predictions are the original's still"
    predictions = again.folder / "reports/evaluate/predictions.csv"
    lines = predictions.read_text().splitlines()
    path, actual, predicted, probability = lines[1].split(",")
    predictions.write_text("\n".join([lines[0], f"{path},{actual},{predicted},{float(probability) + 0.01}", *lines[2:]]) + "\n")
    assert proved(original, again)["level"] == "metrics", "no answer has changed, but a probability has"


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_levels_of_a_run_that_failed(pair: tuple[Run, Run, Path], stage: str) -> None:
    original, again, _ = pair
    for run in (original, again):
        end = next(record for record in journal.read_run(run.folder) if record["type"] == "end")
        failure = {"stage": stage, "kind": "exception", "cause": "x", "traceback": None}
        stages = {**end["stages"], "evaluate": "not-reached", "diagnose": "not-reached", stage: "failed"}
        journal.Journal(run.folder).write(
            "end", **{**{k: end[k] for k in ("data_version",)}, "status": "FAILED", "failure": failure, "stages": stages}
        )
    assert proved(original, again)["level"] == "failure"
    records = (again.folder / journal.FILE_NAME).read_text().splitlines()
    restored = sorted(records, key=lambda line: json.loads(line)["type"] == "digest")  # as of a training that has gone on
    (again.folder / journal.FILE_NAME).write_text("\n".join(restored) + "\n")
    assert proved(original, again)["level"] == "failure"
    digest = next(json.loads(line)["values"]["weights"] for line in records if json.loads(line)["type"] == "digest")
    tamper(again, digest, "f" * 64)
    assert proved(original, again)["level"] == "inputs"
    tamper(again, '"model": "', '"model": "another ')
    answer = proved(original, again)
    assert (answer["level"], answer["expected_level"]) == ("failure", "failure"), "another processor makes other bits"
    assert "without its numbers" in answer["expected_because"]
    journal.Journal(again.folder).write(
        "end", status="FAILED", failure={**failure, "kind": "out-of-memory"}, stages=stages, data_version=end["data_version"]
    )
    answer = proved(original, again)
    differing = [check["name"] for check in answer["checks"] if not check["equal"]]
    assert answer["level"] == "inputs"
    assert "failure: kind" in differing
