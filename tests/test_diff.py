"""``flight diff``: what differs is told and nothing else, what came of it, and whether chance explains it."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.flight.record import kept_manifests
from stages.flight.runs import diff, images, index, outcome, rerun
from stages.flight.runs.images import Image
from stages.flight.runs.run import Run, from_folder
from tests import tiny

PREDICTIONS, METRICS = "reports/evaluate/predictions.csv", "reports/evaluate/metrics.json"
Change = Callable[[Path], None]


@pytest.fixture
def kept(trained: Path, tmp_path: Path) -> Path:
    """A copy of ``trained`` with its record, of which nothing more is shipped to the store of other tests."""
    clone = Path(shutil.copytree(trained, tmp_path / "kept", symlinks=True))
    edit(first(clone).folder / "journal.jsonl", f"sqlite:///{trained}/mlflow.db", rerun.HELD_BACK)
    return clone


def first(clone: Path) -> Run:
    return from_folder(min((clone / ".flight/runs").iterdir()))


def another(clone: Path, *changes: Change) -> Run:
    """The record of a run that was as the first, but for ``changes``, which are made to its folder."""
    before = first(clone)
    number = len(list((clone / ".flight/runs").iterdir()))
    folder = before.folder.with_name(f"20990101-00000{number}-abcdef")
    shutil.copytree(before.folder, folder)
    (folder / "summary.json").unlink(missing_ok=True)
    edit(folder / "journal.jsonl", before.id, folder.name)
    for change in changes:
        change(folder)
    return from_folder(folder)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def in_file(name: str, old: str, new: str) -> Change:
    return lambda folder: edit(folder / name, old, new)


def with_code(clone: Path, name: str, text: str) -> Change:
    """Other code, committed as the recorder does it."""

    def change(folder: Path) -> None:
        (clone / name).write_text(text)
        before = first(clone).commit
        tiny.commit(clone, "other code")
        commit = tiny.run(clone, "git", "rev-parse", "HEAD").stdout.strip()
        edit(folder / "journal.jsonl", str(before), commit)

    return change


def without_answers(number: int) -> Change:
    """So many test images that were known are so no more."""

    def change(folder: Path) -> None:
        rows = list(csv.DictReader((folder / PREDICTIONS).open(encoding="utf-8")))
        known = [row for row in rows if row["predicted"] == row["actual"]]
        assert len(known) >= number
        for row in known[:number]:
            row["predicted"] = next(other["actual"] for other in rows if other["actual"] != row["actual"])
        pd.DataFrame(rows).to_csv(folder / PREDICTIONS, index=False)

    return change


def with_accuracy(value: float) -> Change:
    """In its report and in its journal."""

    def change(folder: Path) -> None:
        metrics = json.loads((folder / METRICS).read_text())
        (folder / METRICS).write_text(json.dumps({**metrics, "accuracy": value}))
        lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        for record in lines:
            if record["type"] == "metrics" and record["stage"] == "evaluate":
                record["values"]["accuracy"] = value
        (folder / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))

    return change


def compared(clone: Path, *runs: Run) -> dict[str, Any]:
    everyone, unreadable = index.load_all(clone)
    assert unreadable == []
    return diff.diff(runs, everyone, clone)


def named(answer: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {f"{one['kind']} {one['name']}": tuple(one["values"]) for one in answer["differences"]}


def test_the_same_run_twice(kept: Path) -> None:
    answer = compared(kept, first(kept), another(kept))
    assert answer["same"]
    assert answer["differences"] == []
    done = tiny.run(kept, "flight", "diff", first(kept).id, "20990101", check=False)
    assert (done.returncode, "nothing differs" in done.stdout) == (0, True)


def test_only_what_differs_is_told(kept: Path) -> None:
    code = with_code(kept, "stages/shared/sampling.py", (kept / "stages/shared/sampling.py").read_text() + "# a remark\n")
    package = in_file("journal.jsonl", '"keras": "3.', '"keras": "2.')
    threads = in_file("journal.jsonl", '"intra_op_threads": 0', '"intra_op_threads": 1')
    cpus = in_file("journal.jsonl", '"num_cpus": ', '"num_cpus": 9')
    rate = in_file("params.yaml", "learning_rate: 3e-3", "learning_rate: 1e-2")
    answer = compared(kept, first(kept), another(kept, code, package, threads, cpus, rate))
    found = named(answer)
    assert found.pop("param train.learning_rate") == (0.003, 0.01)
    assert {name.split()[0] for name in found} == {"code", "package", "setting", "hardware"}
    assert [name for name in found if name.startswith("code")] == ["code stages/shared/sampling.py"]
    assert "package keras" in found
    assert "hardware num_cpus" in found
    assert {name for name in found if name.startswith("setting")} <= {"setting train.intra_op_threads", "setting evaluate.intra_op_threads"}
    assert "+# a remark" in answer["patch"]
    assert not answer["same"]


def test_code_that_is_not_here_is_told_by_dvcs_hashes(kept: Path) -> None:
    changed = in_file(
        "dvc.lock", "path: stages/train.py\n      hash: md5\n      md5: ", "path: stages/train.py\n      hash: md5\n      md5: 0"
    )
    gone = in_file("journal.jsonl", str(first(kept).commit), "0123456789012345678901234567890123456789")
    answer = compared(kept, first(kept), another(kept, changed, gone))
    assert list(named(answer)) == ["code stages/train.py"]
    assert answer["patch"] == ""


def test_images_are_compared_by_content(kept: Path) -> None:
    def change(folder: Path) -> None:
        manifest = kept_manifests.find(first(kept).folder, first(kept).made)
        assert manifest is not None
        table = pd.read_parquet(manifest)
        table.loc[:2, "label"] = "coat"
        table.loc[3, "sha256"] = "0" * 64
        table = table.drop(index=[10, 11])
        table.to_parquet(manifest.with_name("f" * 32 + ".parquet"))
        edit(folder / "dvc.lock", manifest.stem, "f" * 32)

    answer = compared(kept, first(kept), another(kept, change))
    found = named(answer)
    assert {name: values for name, values in found.items() if name.startswith("data")} == {
        "data images removed": (0, 2),
        "data images changed": (0, 1),
        "data images relabelled": (0, 3),
    }
    assert next(one for one in answer["differences"] if one["name"] == "images relabelled")["by_class"] == {"coat": 3}


def test_images_that_are_not_known_are_not_said_to_be_the_same(kept: Path) -> None:
    def other_images(folder: Path) -> None:
        manifest = kept_manifests.find(first(kept).folder, first(kept).made)
        assert manifest is not None
        pd.read_parquet(manifest).drop(index=[10, 11]).to_parquet(manifest.with_name("f" * 32 + ".parquet"))
        edit(folder / "dvc.lock", manifest.stem, "f" * 32)

    def without_manifest(folder: Path) -> None:
        edit(folder / "dvc.lock", first(kept).made["validate"]["data/manifest.parquet"], "e" * 32)
        edit(folder / "journal.jsonl", '"data_version": "', '"data_version": "0')

    found = named(compared(kept, first(kept), another(kept, other_images), another(kept, without_manifest)))
    version = first(kept).made["ingest"]["data/raw"]
    assert found["data images removed"] == (0, 2, None)
    assert found["data images"] == (version, version, f"0{version}")


def test_images_by_what_became_of_them() -> None:
    before = [Image("a/1", "a", "train", "1"), Image("a/2", "a", "val", "2"), Image("a/3", "a", "", "3"), Image("a/4", "a", "test", "4")]
    after = [
        Image("b/1", "b", "train", "1"),
        Image("a/2", "a", "test", "2"),
        Image("a/3", "a", "train", "3"),
        Image("a/4", "a", "test", "5"),
    ]
    found = {name: [image.path for image in some] for name, some in images.changes(before, after).items() if some}
    assert found == {"changed": ["a/4"], "relabelled": ["b/1"], "moved between splits": ["a/2"], "newly used": ["a/3"]}
    assert images.by_class(after) == {"a": 3, "b": 1}


def test_lost_answers_count_beyond_chance_and_few_do_not(kept: Path) -> None:
    few, many = another(kept, without_answers(5)), another(kept, without_answers(9))
    for run, beyond in ((few, False), (many, True)):
        answers = outcome.flipped(first(kept).folder, run.folder)
        assert {flip.is_lost for flip in answers.flips} == {True}
        found = outcome.chance(first(kept), run, [], answers)
        assert found.beyond == beyond
        assert "McNemar" in found.how


def test_mcnemar_and_student_as_in_tables() -> None:
    """Five changes of one kind happen by chance in 1 of 16 (2 / 2**5); Student's t at 97.5 % from any table."""
    assert outcome.mcnemar(5, 0) == pytest.approx(0.0625)
    assert outcome.mcnemar(2, 9) == pytest.approx(0.0654, abs=1e-4)
    assert outcome.mcnemar(3, 3) == 1
    assert outcome.mcnemar(900, 1100) == pytest.approx(8.5e-6, rel=0.01), "as many as a large test split has"
    assert [outcome.student_t(degrees) for degrees in (3, 5, 12, 100)] == pytest.approx([3.182, 2.571, 2.179, 1.984], rel=8e-3)


def test_other_test_images_are_no_pairs(kept: Path) -> None:
    def change(folder: Path) -> None:
        rows = list(csv.DictReader((folder / PREDICTIONS).open(encoding="utf-8")))
        pd.DataFrame(rows[:5]).to_csv(folder / PREDICTIONS, index=False)

    run = another(kept, change, with_accuracy(0.9))
    assert "by the intervals" in outcome.chance(first(kept), run, [], outcome.flipped(first(kept).folder, run.folder)).how


def with_seed(seed: int) -> Change:
    """A run with another seed, whose training leaves other evidence."""

    def change(folder: Path) -> None:
        edit(folder / "params.yaml", "seed: 0                       # of the weights", f"seed: {seed} #")
        lines = (folder / "dvc.lock").read_text().splitlines()
        where = [i for i, line in enumerate(lines) if "path: reports/train/evidence.json" in line]
        assert where
        for i in where:
            lines[i + 2] = f"      md5: '{seed:032x}'"
        (folder / "dvc.lock").write_text("\n".join(lines) + "\n")

    return change


def test_repetitions_with_other_seeds_tell_what_chance_does(kept: Path) -> None:
    accuracy = first(kept).metrics["evaluate/accuracy"]
    seeded = [another(kept, with_seed(i), with_accuracy(accuracy + i / 100)) for i in (1, 2, 3)]
    rate = in_file("params.yaml", "learning_rate: 3e-3", "learning_rate: 1e-2")
    near, far = another(kept, rate, with_accuracy(accuracy + 0.03)), another(kept, rate, with_accuracy(accuracy + 0.2))
    again = another(kept)  # the same seed once more tells nothing
    everyone = [first(kept), *seeded, again]
    none = outcome.Answers((), 0, 0)
    assert "other seeds (4 and 1)" in outcome.chance(first(kept), near, everyone, none).how
    assert outcome.chance(first(kept), near, everyone, none).beyond is False
    assert outcome.chance(first(kept), far, everyone, none).beyond is True
    assert "other seeds (4)" in outcome.chance(first(kept), seeded[2], everyone, none).how
    assert "other seeds" not in outcome.chance(first(kept), near, [first(kept), again, seeded[0]], none).how


def test_what_another_machine_tells_is_no_option_of_git_and_no_path(kept: Path) -> None:
    victim = kept / "victim"
    victim.write_text("precious")
    evil = another(kept, in_file("journal.jsonl", str(first(kept).commit), f"--output={victim}"))
    answer = compared(kept, first(kept), evil)
    assert victim.read_text() == "precious"
    answer["runs"][0]["id"] = "../../../../outside"
    assert diff.write(answer | {"test": None}, [evil], kept).is_relative_to(kept / ".flight/comparisons")


def test_failures_of_other_kinds_are_no_same(kept: Path) -> None:
    def fail(kind: str) -> Change:
        def change(folder: Path) -> None:
            lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
            failure = {"stage": "train", "kind": kind, "cause": kind, "traceback": None}
            ending = {**lines[-1], "status": "FAILED", "failure": failure}
            (folder / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*lines[:-1], ending]))

        return change

    assert not compared(kept, another(kept, fail("exception")), another(kept, fail("out-of-memory")))["same"]


def test_what_a_record_does_not_tell_is_said(kept: Path) -> None:
    def forget(folder: Path) -> None:
        lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
        (folder / "journal.jsonl").write_text("".join(line for line in lines if '"environment"' not in line))

    answer = compared(kept, first(kept), another(kept, forget))
    assert answer["not_compared"] == ["package", "hardware", "setting"]
    assert answer["differences"] == []


def test_a_run_that_failed_is_compared_by_what_it_has(kept: Path) -> None:
    def fail(folder: Path) -> None:
        shutil.rmtree(folder / "reports/evaluate")
        lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        failure = {"stage": "train", "kind": "out-of-memory", "cause": "MemoryError", "traceback": None}
        ending = {**lines[-1], "status": "FAILED", "failure": failure}
        (folder / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*lines[:-1], ending]))

    answer = compared(kept, first(kept), another(kept, fail))
    assert answer["outcome"]["failures"][1]["kind"] == "out-of-memory"
    assert "failed, and the other did not" in answer["outcome"]["chance"]["how"]
    done = tiny.run(kept, "flight", "diff", "latest~1", "latest", check=False)
    assert done.returncode == 1
    assert "out-of-memory" in done.stdout


def test_what_the_diagnosis_names_is_suspected_first(kept: Path) -> None:
    def diagnosed(folder: Path) -> None:
        verdict = json.loads((folder / "diagnosis/verdict.json").read_text())
        fix = {"param": "train.dropout", "from": 0.9, "to": 0.2, "command": ""}
        finding = {"fault": "over-regularised", "score": 0.9, "severity": "warning", "evidence": {}, "explanation": "", "fix": [fix]}
        (folder / "diagnosis/verdict.json").write_text(json.dumps({**verdict, "findings": [finding]}))

    changed = [in_file("params.yaml", "dropout: 0.2", "dropout: 0.9"), in_file("params.yaml", "learning_rate: 3e-3", "learning_rate: 1e-2")]
    answer = compared(kept, first(kept), another(kept, *changed, diagnosed, with_accuracy(0.1)))
    assert [suspect["name"] for suspect in answer["suspects"]] == ["train.dropout", "train.learning_rate"]
    assert "over-regularised" in answer["suspects"][0]["reason"]


def test_the_page_escapes_what_it_shows(kept: Path) -> None:
    evil = in_file("params.yaml", "fill_mode: nearest ", "fill_mode: '<script>alert(1)</script>' ")
    another(kept, evil, without_answers(9))
    done = tiny.run(kept, "flight", "diff", "latest~1", "latest", check=False)
    path = Path(done.stdout.rsplit("page: ", 1)[1].strip())
    text = path.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "data:image/webp;base64," in text
    assert "http" not in text.replace("http-equiv", "")


def test_one_run_is_too_few(kept: Path) -> None:
    done = tiny.run(kept, "flight", "diff", "latest", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "two runs or more" in done.stderr


def test_nothing_of_the_workspace_changes(kept: Path) -> None:
    another(kept, without_answers(9))
    before = state(kept)
    tiny.run(kept, "flight", "diff", "latest~1", "latest", check=False)
    assert state(kept) == before


def state(clone: Path) -> list[str]:
    commands = (["git", "status", "--porcelain"], ["git", "for-each-ref"], ["dvc", "status"])
    return [subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True).stdout for command in commands]
