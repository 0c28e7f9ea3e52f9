"""``flight replay`` on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stages.flight.runs.proof import is_proved
from stages.shared import paths

MEANINGS = {
    "predictions": "the same answer for each test image, with the same probability",
    "metrics": "the accuracy is the same but for chance",
    "failure": "it failed again: in the same stage, of the same kind, at the same moment, with the same diagnosis",
    "inputs": "it went out from the same, and came to something else",
    "none": "it went out from something else",
}
MAX_LENGTH = 44


def show(answer: dict[str, Any], console: Console) -> None:
    """The level, what was compared, and the first thing that differs; or where the moment can be looked at."""
    if "until" in answer:
        if answer["moment"]:
            told = f"[bold]stopped before step {answer['until']}[/]: its batch is in {escape(answer['moment'])}"
        else:
            told = f"[bold]ended before step {answer['until']}[/]: flight why {answer['replay']} tells why"
        console.print(told, highlight=False, soft_wrap=True)
        return
    colour = "green" if is_proved(answer) else "yellow" if answer["level"] not in ("inputs", "none") else "red"
    console.print(f"\n[bold {colour}]{answer['level']}[/]: {_meaning(answer)}", highlight=False)
    if answer["level"] != answer["expected_level"]:
        console.print(f"to be expected here: {answer['expected_level']}, since {escape(answer['expected_because'])}", highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("compared", "then", "now", ""):
        table.add_column(column, overflow="fold")
    for check in answer["checks"]:
        sign = "[green]=[/]" if check["equal"] else "[red]≠[/]"
        table.add_row(escape(check["name"]), _short(check["original"]), _short(check["replay"]), sign)
    console.print(table)
    console.print(f"\n{escape(answer['reason'])}", highlight=False)
    console.print(
        f"the replay is run {answer['replay']}; flight diff {answer['original']} {answer['replay']}", style="dim", highlight=False
    )


def _meaning(answer: dict[str, Any]) -> str:
    """What the level says of this run: one that was not trained, or whose training DVC had cached, has no epochs to compare."""
    if answer["level"] != "weights":
        return MEANINGS[answer["level"]]
    compared = {check["name"] for check in answer["checks"]}
    has_epochs = any("loss and weights" in name for name in compared)
    what = "the training is" if has_epochs else "the model is" if str(paths.MODEL) in compared else "what it made is"
    return f"{what} the same, bit for bit" + ("" if answer["identical"] else "; but not all of the files that it made")


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return escape(text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}…")
