"""Which recorded runs made what lies in the workspace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.flight.record import lock
from stages.flight.record.names import STAGES
from stages.flight.runs.run import Run


def which(recorded: Sequence[Run], root: Path) -> list[dict[str, Any]]:
    """A row a stage: the newest run that made the outs that dvc.lock names, all others with the same, and outs changed by hand since."""
    locked = lock.outs(lock.read_stages(root / "dvc.lock"))
    changed_since = _changed_outs(root)
    rows = []
    for stage in STAGES:
        outs = locked.get(stage, {})
        makers = [
            run for run in recorded if outs and not run.serves_another and run.stages.get(stage) == "ran" and run.made.get(stage) == outs
        ]
        rows.append(
            {
                "stage": stage,
                "run_id": makers[0].id if makers else None,
                "name": makers[0].name if makers else None,
                "also": [run.id for run in makers[1:]],
                "outs": sorted(outs),
                "changed_since": sorted(set(outs) & changed_since),
            }
        )
    return rows


def _changed_outs(root: Path) -> set[str]:
    """The outs that differ from dvc.lock, as DVC sees it."""
    command = [sys.executable, "-m", "dvc", "data", "status", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    try:
        uncommitted = json.loads(done.stdout).get("uncommitted", {})
    except ValueError:
        sys.stderr.write(f"flight: dvc data status failed, so what was changed by hand is not shown: {done.stderr.strip()}\n")
        return set()
    return {path.rstrip("/") for paths in uncommitted.values() for path in paths if isinstance(path, str)}
