"""``flight diff``: recorded runs beside each other, as one plain value, and its page."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages.flight.record import journal, lock, recorder_process
from stages.flight.runs.differences import differences, not_compared, patch, recorded
from stages.flight.runs.outcome import outcome
from stages.flight.runs.run import Run
from stages.flight.runs.suspects import suspects
from stages.shared import files, page, paths

PAGE = Path(__file__).parent / "pages/diff.html"
FOLDER = "comparisons"
MAX_PICTURES = 24
# The kinds of differences in the order in which they are told, with their headings.
GROUPS = {
    "param": "parameters",
    "data": "images",
    "code": "code",
    "package": "packages",
    "hardware": "hardware",
    "setting": "settings",
}


def diff(runs: Sequence[Run], everyone: Sequence[Run], root: Path) -> dict[str, Any]:
    """What differs between two or more runs, what came out of each, and which difference may be why; the last is seen against the first."""
    read = [recorded(run, root) for run in runs]
    found = differences(read)
    came_out = outcome(runs, everyone)
    results = [metric["values"] for metric in came_out["metrics"]] + [came_out[name] for name in ("statuses", "verdicts", "failures")]
    is_equal = all(value == values[0] for values in [*results, *came_out["curves"].values()] for value in values)
    return {
        "runs": [_described(run) for run in runs],
        "same": not found and is_equal and not came_out["flips"],
        "not_compared": not_compared(read),
        "differences": [asdict(one) for one in found],
        "outcome": came_out,
        "suspects": suspects(found, runs[0], runs[-1]),
        "patch": patch(read[0], read[-1]) if any(one.kind == "code" for one in found) else "",
    }


def _described(run: Run) -> dict[str, Any]:
    version = run.made.get("ingest", {}).get(str(paths.RAW))
    described = {"id": run.id, "name": run.name, "status": run.status, "started": run.started, "host": run.host}
    return described | {"data_version": version}


def write(answer: dict[str, Any], runs: Sequence[Run], root: Path) -> Path:
    """The page of an answer; one for the same runs takes the place of an earlier one. The newest run's record gets it too, for MLflow."""
    name = "-".join(run["id"] for run in answer["runs"])
    if len(name) > 100 or not re.fullmatch(r"[\w-]+", name, re.ASCII):  # what a file system takes, and no way out of the folder
        name = f"{len(answer['runs'])}-runs-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    name += "-tested" if answer["test"] else ""  # which a plain comparison does not take the place of
    path = root / journal.RECORDS_FOLDER / FOLDER / name / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = _pictures([flip["path"] for flip in answer["outcome"]["flips"][:MAX_PICTURES]], answer["runs"][-1]["data_version"], root)
    text = page.render(PAGE, **answer, pictures=pictures, max_pictures=MAX_PICTURES, groups=GROUPS)
    files.write_text(path, text)
    newest = max(runs, key=lambda run: (run.started, run.id))
    if newest.ended is not None and newest.folder.parent == root / journal.RECORDS_FOLDER / "runs":
        _log(text, Path(FOLDER) / name / "index.html", newest, root)
    return path


def _log(text: str, name: Path, run: Run, root: Path) -> None:
    """Have a recorded run show the page in MLflow, unless it does."""
    path = run.folder / name
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, text)
        journal.Journal(run.folder).write("comparison", page=str(name))
        recorder_process.ensure(run.folder, root)


def _pictures(names: Sequence[str], data_version: str | None, root: Path) -> dict[str, str]:
    """Small pictures of images by path, as data: URIs; none if the workspace has the images of another version."""
    from stages.shared.thumbnails import thumbnails  # loads OpenCV, which most comparisons do without

    raw = root / paths.RAW
    present = lock.outs(lock.read_stages(root / "dvc.lock")).get("ingest", {}).get(str(paths.RAW))
    inside = [name for name in names if (raw / name).resolve().is_relative_to(raw.resolve())]
    return thumbnails(raw, inside) if inside and data_version is not None and data_version == present else {}
