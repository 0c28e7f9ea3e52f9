"""The tiny profile: a clone of this working tree with a few hundred 32 px images and two epochs, for tests and trials.

``python -m tests.tiny FOLDER`` makes one to play in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from stages.flight.record import journal

ROOT = Path(__file__).parent.parent
CLASSES = ("bag", "coat", "sandal", "sneaker", "trouser")
IMAGES_PER_CLASS = 70
TINY = {
    "ingest.source": "data/sample/tiny.zip",
    "prepare.image_size_px": 32,
    "train.batch_size": 32,
    "train.epochs": 2,
    "evaluate.gates": {"accuracy": {"min": 0.0}},
    "evaluate.export": [],
}
MADE_BY_RUNS = (".flight", "mlflow.db", "mlruns")
GIT_IDENTITY = ("-c", "user.name=tiny", "-c", "user.email=tiny@localhost")


def make(folder: Path) -> Path:
    """Copy every file of the working tree that git does not ignore, add the tiny data, and commit it all."""
    listed = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    write_images(folder / TINY["ingest.source"])  # type: ignore[operator]
    set_params(folder, TINY)
    run(folder, "git", "init", "-q")
    commit(folder, "tiny")
    return folder


def write_images(archive: Path) -> None:
    """The first clean images of some classes of the sample."""
    with zipfile.ZipFile(ROOT / "data/sample/fashion_mnist.zip") as sample, zipfile.ZipFile(archive, "w") as tiny:
        for label in CLASSES:
            names = sorted(name for name in sample.namelist() if name.startswith(f"{label}/"))
            for name in names[:IMAGES_PER_CLASS]:
                tiny.writestr(zipfile.ZipInfo(name), sample.read(name))


def set_params(folder: Path, values: dict[str, Any]) -> None:
    """Change parameters by dotted name, as a person would in the file."""
    yaml = YAML()
    content = yaml.load(folder / "params.yaml")
    for key, value in values.items():
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section[part]
        section[name] = value
    yaml.dump(content, folder / "params.yaml")


def commit(folder: Path, message: str) -> None:
    """Commit everything."""
    run(folder, "git", "add", "--all")
    run(folder, "git", *GIT_IDENTITY, "commit", "-q", "-m", message)


def environment() -> dict[str, str]:
    """The environment of a shell in which this Python's environment is active."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "FLIGHT_", "MLFLOW_", "GIT_", "MAKE", "MFLAGS"))
    }
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder`` and return what it wrote."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """Start a command in ``folder`` in a session of its own."""
    return subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def processes(folder: Path) -> list[psutil.Process]:
    """Every process that works in ``folder`` or names it in its command."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (process.cwd() == str(folder) or str(folder) in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def left_running(folder: Path) -> list[psutil.Process]:
    """Every process of ``folder`` that does not end of itself; one that is told to end takes its time on a busy machine."""
    left: list[psutil.Process] = psutil.wait_procs(processes(folder), timeout=60)[1]
    return left


def _is_recorder(process: psutil.Process) -> bool:
    try:
        return "stages.flight.record.recorder" in process.cmdline()
    except psutil.NoSuchProcess:  # it has just ended
        return False


def wait_for_recorders(folder: Path, timeout_s: float = 120) -> None:
    """Wait until every recorder of ``folder``, and each that one starts for an older run, has closed and shipped its run."""
    while living := list(filter(_is_recorder, processes(folder))):
        _, left = psutil.wait_procs(living, timeout=timeout_s)
        assert not left, f"still recording: {left}"


def wait_for_record(folder: Path, **wanted: str) -> dict[str, Any]:
    """Follow the journal of the newest run until it has a record with the fields wanted."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in sorted(folder.glob(".flight/runs/[!.]*/journal.jsonl"))[-1:]:
            for record in journal.read(path)[0]:
                if all(record.get(name) == value for name, value in wanted.items()):
                    return record
    raise AssertionError(f"no record with {wanted}")


def mlflow_runs(folder: Path) -> list[Any]:
    """All runs in the SQLite store of ``folder``, newest first."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def copy(folder: Path, target: Path) -> Path:
    """A copy with its DVC cache, without the records of runs."""
    shutil.copytree(folder, target, symlinks=True, ignore=shutil.ignore_patterns(*MADE_BY_RUNS))
    return target


if __name__ == "__main__":
    made = make(Path(sys.argv[1]).resolve())
    sys.stdout.write(f"Type: cd {made} && dvc repro\n")
