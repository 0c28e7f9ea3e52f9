"""What a person sees of a run at a glance: its description in Markdown, and its tags."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from stages.flight.record import names, recorder_process
from stages.flight.record.secrets import mask
from stages.shared import files

GATES = "reports/evaluate/gates.json"
DRIFT = "reports/drift/summary.json"
NO_VERDICT = {"verdict": "unknown", "sentence": "unknown: the record could not be diagnosed.", "findings": []}


def while_running(stage: str, since: float) -> str:
    """The description of a run that has not ended."""
    return f"running: {stage}, since {time.strftime('%H:%M:%S', time.localtime(since))}"


def verdict_of(folder: Path) -> dict[str, Any]:
    """The run's verdict; a record that could not be diagnosed is unknown."""
    path = folder / recorder_process.VERDICT_NAME
    return dict(files.read_json(path)) if path.is_file() else NO_VERDICT


def of_ended(folder: Path, name: str, ending: dict[str, Any]) -> str:
    """Outcome first, then where it failed, the fix, what is new in the run, its data, and what became of each stage."""
    verdict = verdict_of(folder)
    lines = [verdict["sentence"], ""]
    if failure := ending["failure"]:
        lines += [f"Failed in **{failure['stage']}** ({failure['kind']}): {failure['cause']}", ""]
    fixes: list[dict[str, str]] = next((finding["fix"] for finding in verdict["findings"]), [])
    for fix in dict.fromkeys(f"`{fix['command']}`" if "command" in fix else fix["action"] for fix in fixes):
        lines += [f"Fix: {fix}", ""]
    lines += [f"New in this run: {name}", ""]
    if drift := _read(folder / DRIFT):
        lines += [f"Data: {drift['sentence']}", ""]
    lines += ["| stage | |", "|---|---|", *(f"| {stage} | {state} |" for stage, state in ending["stages"].items())]
    return mask("\n".join(lines))


def tags_of_ended(folder: Path, name: str, ending: dict[str, Any]) -> dict[str, str]:
    """All tags that the end of a run decides."""
    tags = {names.stage_tag(stage): state for stage, state in ending["stages"].items()}
    tags[names.TAG_VERDICT] = verdict_of(folder)["verdict"]
    tags[names.TAG_DESCRIPTION] = of_ended(folder, name, ending)
    if ending["data_version"]:
        tags[names.TAG_DATA_VERSION] = ending["data_version"]
    if gates := _read(folder / GATES):
        missed = [metric for metric, gate in gates.items() if not gate["passed"]]
        tags[names.TAG_GATES] = f"missed: {', '.join(missed)}" if missed else "passed"
    if drift := _read(folder / DRIFT):
        tags[names.TAG_DRIFT] = drift["sentence"]
    if ending["failure"]:
        tags[names.TAG_FAILURE_STAGE], tags[names.TAG_FAILURE_KIND] = ending["failure"]["stage"], ending["failure"]["kind"]
    return tags


def _read(path: Path) -> dict[str, Any]:
    return dict(files.read_json(path)) if path.is_file() else {}
