"""``flight why`` on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape

from stages.flight.runs.answers import COLOURS
from stages.flight.runs.changes import shown


def show(answer: dict[str, Any], console: Console) -> None:
    """The sentence, how the run ended, each finding with its evidence and fix, and what was looked for."""
    console.print(f"[bold]{escape(answer['sentence'])}[/]", highlight=False)
    console.print(f"run {answer['run_id']}, [{COLOURS[answer['status']]}]{answer['status']}[/]", highlight=False)
    if answer["failure"]:
        failure = answer["failure"]
        console.print(f"failed in {escape(failure['stage'])} ({escape(failure['kind'])}): {escape(failure['cause'])}", highlight=False)
    for finding in answer["findings"]:
        fault, score = escape(finding["fault"]), finding["score"]
        console.print(f"\n[bold]{fault}[/] (score {score:.2f}): {escape(finding['explanation'])}", highlight=False)
        for name, value in finding["evidence"].items():
            console.print(f"  {escape(name.replace('_', ' '))}: {escape(str(value))}", highlight=False)
        _show_fixes(finding, console)
    for finding in answer["speed"]:
        console.print(f"\n[bold]speed, {finding['fault']}[/]: {escape(finding['explanation'])}", highlight=False)
        _show_fixes(finding, console)
    console.print(f"\nlooked for and not found: {escape(', '.join(answer['silent'])) or 'nothing'}", style="dim", highlight=False)
    for fault, signal in answer["not_applicable"].items():
        console.print(escape(f"could not look for {fault}: it needs {signal}"), style="dim", highlight=False)
    if answer["page"]:
        console.print(f"page: {answer['page']}", style="dim", highlight=False, soft_wrap=True)


def _show_fixes(finding: dict[str, Any], console: Console) -> None:
    """Each change, and then the one command that tries them together; in one piece, so that it can be copied."""
    for fix in finding["fix"]:
        told = f"{fix['param']} {shown(fix['from'])} → {shown(fix['to'])}" if "command" in fix else fix["action"]
        console.print(f"  fix: {escape(told)}", highlight=False)
    for command in dict.fromkeys(fix["command"] for fix in finding["fix"] if "command" in fix):
        console.print(f"  {escape(command)}", highlight=False, soft_wrap=True)
