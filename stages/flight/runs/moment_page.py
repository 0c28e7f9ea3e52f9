"""The page of one training step's batch, from what the training has left of it."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

from stages.flight.record.journal import MOMENT, MOMENT_TABLE
from stages.shared import files, page

PAGE = Path(__file__).parent / "pages/moment.html"


def write(folder: Path, until: int) -> Path | None:
    """``moment/index.html`` in the run's folder; None if the training did not come to the step."""
    table = folder / MOMENT / MOMENT_TABLE
    if not table.is_file():
        return None
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = {row["picture"]: _data_uri(folder / MOMENT / row["picture"]) for row in rows}
    losses = [float(row["loss"]) for row in rows]
    path = folder / MOMENT / "index.html"
    files.write_text(path, page.render(PAGE, rows=rows, pictures=pictures, until=until, run=folder.name, mean=sum(losses) / len(losses)))
    return path


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
