"""``flight diff`` on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stages.flight.runs.changes import shown
from stages.flight.runs.diff import GROUPS

MAX_ROWS = 12
MAX_COLUMNS = 6
MAX_LENGTH = 32
MAX_CLASSES = 5


def show(answer: dict[str, Any], console: Console) -> None:
    """What differs, by group; what came of it; the suspects. Long lists are cut here, and whole on the page."""
    if answer["not_compared"]:
        console.print(f"not compared, since a record does not tell: {', '.join(answer['not_compared'])}", style="yellow", highlight=False)
    if answer["same"]:
        console.print("[bold]nothing differs[/]: neither what went in nor what came out")
        return
    heads = [run["id"] for run in answer["runs"]]
    for kind, heading in GROUPS.items():
        rows = [(_name(one), [_short(value) for value in one["values"]]) for one in answer["differences"] if one["kind"] == kind]
        if rows:
            _table(heading, heads, rows, console)
    _table("outcome", heads, _outcome_rows(answer["outcome"]), console)
    chance = answer["outcome"]["chance"]
    beyond = {True: "[bold]more than chance[/]", False: "no more than chance", None: "not known whether by chance"}[chance["beyond"]]
    console.print(f"\naccuracy: {beyond}: {escape(chance['how'])}", highlight=False)
    if answer["test"]:
        _show_test(answer["test"], console)
    elif answer["suspects"] and chance["beyond"] is not False:
        console.print("\n[bold]suspects[/], the likeliest first")
        for number, suspect in enumerate(answer["suspects"][:MAX_ROWS], 1):
            reason = f" ({suspect['reason']})" if suspect["reason"] else ""
            console.print(f"  {number}. {escape(suspect['name'] + reason)}", highlight=False)
    if answer["page"]:
        console.print(f"\npage: {escape(answer['page'])}", style="dim", highlight=False, soft_wrap=True)


def _outcome_rows(came_out: dict[str, Any]) -> list[tuple[str, list[str]]]:
    rows = []
    for metric in came_out["metrics"]:
        figures = zip(metric["values"], metric["intervals"], strict=True)
        rows.append((metric["name"], [_figure(value, interval) for value, interval in figures]))
    changed = [row for row in came_out["classes"] if row["recalls"][0] != row["recalls"][-1]]
    rows += [(f"recall of {row['label']}", [_figure(recall) for recall in row["recalls"]]) for row in changed[:MAX_CLASSES]]
    if any(came_out["failures"]):
        rows.append(("failure", [f"{one['stage']}: {one['kind']}" if one else "" for one in came_out["failures"]]))
    return [*rows, ("verdict", [verdict or "" for verdict in came_out["verdicts"]])]


def _show_test(test: dict[str, Any], console: Console) -> None:
    """What each factor has changed, in the order in which they were switched."""
    console.print(f"\n[bold]tested[/]: {escape(test['sentence'])}", highlight=False)
    for step in test["steps"]:
        error = f"± {test['margin']:.3f}" + ("" if step["beyond"] else ", no more than chance")
        console.print(f"  {step['before']:.3f} → {step['after']:.3f} ({error}): {escape(step['factor'])}", highlight=False)
    for name in test["not_needed"]:
        console.print(f"  what is left is no more than chance: {escape(name)}", style="dim", highlight=False)


def _name(difference: dict[str, Any]) -> str:
    classes = ", ".join(f"{label} {count}" for label, count in list((difference["by_class"] or {}).items())[:MAX_CLASSES])
    return str(difference["name"]) + (f" ({classes})" if classes else "")


def _table(heading: str, heads: Sequence[str], rows: Sequence[tuple[str, list[str]]], console: Console) -> None:
    """The first runs and the last, which the others are judged by."""
    kept = range(len(heads)) if len(heads) <= MAX_COLUMNS else [*range(MAX_COLUMNS - 1), len(heads) - 1]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (heading, *(heads[i] for i in kept)):
        table.add_column(escape(column), overflow="fold")
    for name, values in rows[:MAX_ROWS]:
        table.add_row(escape(name), *(escape(values[i]) for i in kept))
    console.print()
    console.print(table)
    left_out = [f"{count} more {what}" for count, what in ((len(rows) - MAX_ROWS, "rows"), (len(heads) - len(kept), "runs")) if count > 0]
    if left_out:
        console.print(f"and {' and '.join(left_out)}, on the page", style="dim")


def _short(value: Any) -> str:
    text = shown(value) if value is not None else "-"
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…"


def _figure(value: float | None, interval: Sequence[float | None] = (None, None)) -> str:
    if value is None:
        return ""
    low, high = interval
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")
