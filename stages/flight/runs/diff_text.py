"""``flight diff`` on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stages.flight.runs.answers import printable
from stages.flight.runs.changes import shown
from stages.flight.runs.diff import GROUPS

MAX_ROWS = 12
MAX_COLUMNS = 6
MAX_LENGTH = 32


def show(answer: dict[str, Any], page: Path, console: Console) -> None:
    """What differs, by group; what came of it; the suspects. Long lists are cut here, and whole on the page."""
    answer = printable(answer)
    if answer["same"]:
        console.print("[bold]nothing differs[/]: neither what went in nor what came out")
        return
    heads = [run["id"] for run in answer["runs"]][:MAX_COLUMNS]
    for kind, heading in GROUPS.items():
        rows = [(one["name"], one["values"]) for one in answer["differences"] if one["kind"] == kind]
        if rows:
            _table(heading, heads, [(name, [_short(value) for value in values]) for name, values in rows], console)
    came_out = answer["outcome"]
    rows = [(metric["name"], [_figure(value) for value in metric["values"]]) for metric in came_out["metrics"]]
    rows += [("verdict", [verdict or "" for verdict in came_out["verdicts"]])]
    rows += (
        [("failure", [f"{one['stage']}: {one['kind']}" if one else "" for one in came_out["failures"]])]
        if any(came_out["failures"])
        else []
    )
    _table("outcome", heads, rows, console)
    chance = came_out["chance"]
    beyond = {True: "[bold]more than chance[/]", False: "no more than chance", None: "not known whether by chance"}[chance["beyond"]]
    console.print(f"\n{beyond}: {escape(chance['how'])}", highlight=False)
    if answer["suspects"] and chance["beyond"] is not False:
        console.print("\n[bold]suspects[/], the likeliest first")
        for number, suspect in enumerate(answer["suspects"][:MAX_ROWS], 1):
            reason = f" ({suspect['reason']})" if suspect["reason"] else ""
            console.print(f"  {number}. {escape(suspect['name'] + reason)}", highlight=False)
    console.print(f"\npage: {page}", style="dim", highlight=False, soft_wrap=True)


def _table(heading: str, heads: list[str], rows: list[tuple[str, list[str]]], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left")
    for column in (heading, *heads):
        table.add_column(column, overflow="fold")
    for name, values in rows[:MAX_ROWS]:
        table.add_row(escape(name), *(escape(value) for value in values[:MAX_COLUMNS]))
    console.print()
    console.print(table)
    if len(rows) > MAX_ROWS:
        console.print(f"and {len(rows) - MAX_ROWS} more, on the page", style="dim")


def _short(value: Any) -> str:
    text = shown(value) if value is not None else "-"
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
