"""The diagnosis as files: verdict.json and its page."""

from __future__ import annotations

from pathlib import Path

from stages.shared import files, page
from stages.shared.evidence import Evidence
from stages.shared.rules import Verdict


def write(verdict: Verdict, evidence: Evidence, folder: Path) -> None:
    """The page, then verdict.json, so that who finds the verdict finds its page."""
    files.write_text(folder / "index.html", page.render("diagnose.html", verdict=verdict, evidence=evidence))
    files.write_json(folder / "verdict.json", verdict.model_dump(mode="json"))
