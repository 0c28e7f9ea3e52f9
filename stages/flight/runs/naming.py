"""What a person calls a run: what is new in it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from stages.flight.record import journal
from stages.flight.record.git import git
from stages.flight.runs.changes import changed, read_params, shown

MAX_CHANGES = 2
MAX_VALUE_LENGTH = 30
FIRST, AGAIN = "first run", "again"
# What is no code of its own: parameters are named by themselves, locks follow from the rest.
NO_CODE = ("params.yaml", "dvc.lock")

Records = list[dict[str, Any]]


def name(folder: Path, records: Records) -> str:
    """The changes against the run before, after the DVC experiment's name where there is one."""
    before = _before(folder)
    what = FIRST if before is None else _changed_params(before, folder) or _changed_code(before, folder, records) or AGAIN
    experiment = records[0]["experiment"]
    return f"{experiment} ({what})" if experiment else what


def _before(folder: Path) -> Path | None:
    earlier = [other for other in folder.parent.glob("[!.]*/") if other.name < folder.name and (other / "params.yaml").is_file()]
    return next((other for other in sorted(earlier, reverse=True) if not _serves_another(other)), None)


def _serves_another(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, LookupError):
        return journal.serves_another(journal.read_run(folder))
    return False


def _changed_params(before: Path, folder: Path) -> str:
    differing = changed(read_params(before), read_params(folder))
    told = [f"{name}={_short(shown(new))}" for name, (_, new) in list(differing.items())[:MAX_CHANGES]]
    return ", ".join(told) + (f" and {len(differing) - MAX_CHANGES} more" if len(differing) > MAX_CHANGES else "")


def _short(text: str) -> str:
    return text if len(text) <= MAX_VALUE_LENGTH else f"…{text[-MAX_VALUE_LENGTH:]}"


def _changed_code(before: Path, folder: Path, records: Records) -> str:
    commits: list[str] = []
    with contextlib.suppress(OSError, ValueError, LookupError):
        commits = [_commit(journal.read_run(before)), _commit(records)]
    if not all(commits):
        return ""
    left_out = [f":(exclude){name}" for name in NO_CODE]
    options = ("-r", "--name-only", "--end-of-options")
    files = git(Path(records[0]["root"]), "diff-tree", *options, *commits, "--", ".", *left_out, or_else="").splitlines()
    return (
        f"code: {', '.join(Path(file).name for file in files[:MAX_CHANGES])}" + ("…" if len(files) > MAX_CHANGES else "") if files else ""
    )


def _commit(records: Records) -> str:
    return next((str(record["code"]["commit"] or "") for record in records if record.get("part") == "workspace"), "")
