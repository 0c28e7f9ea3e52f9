"""``flight``: parse, load, call a pure function, print, exit code."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stages.flight.errors import CommandError
from stages.flight.runs import answers, why_text
from stages.flight.runs.changes import shown
from stages.flight.runs.index import NotRecordedError, UnknownRunError, find, find_root, load_all
from stages.flight.runs.run import Run
from stages.flight.runs.share import share, take_up
from stages.flight.runs.sync import sync
from stages.flight.runs.which import which

NOTHING_WRONG, FINDING, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
WIDTH_IN_PIPES = 240
RUN_HELP = "id, prefix, name, latest, latest~1 or best"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 nothing wrong, 1 a finding, 2 wrong usage or an unknown run."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign shows another
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)  # so that what a command has begun elsewhere is ended, and removed
    try:
        code = int(options.command(options))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `flight runs | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOTHING_WRONG if options.command in (show_runs, show_which) else INTERRUPTED
    except CommandError as error:
        _tell(f"flight: {answers.printable(str(error))}")
        return WRONG_USAGE


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="flight", description="What was recorded of the pipeline's runs, and why one failed.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    runs = commands.add_parser("runs", help="the recorded runs, newest first")
    runs.add_argument("--limit", type=_positive, default=20, metavar="N", help="how many to show (default 20)")
    runs.set_defaults(command=show_runs)
    why = commands.add_parser("why", help="verdict, evidence and fix of a run; exit code 1 for any verdict but healthy")
    why.add_argument("run", nargs="?", default="latest", metavar="RUN", help=f"{RUN_HELP} (default latest); also on the MLflow server")
    why.set_defaults(command=show_why)
    compared = commands.add_parser("diff", help="what differs between runs, and what came of it; exit code 1 if anything does")
    compared.add_argument("runs", nargs="+", metavar="RUN", help=f"two or more; the first is what the others are seen against; {RUN_HELP}")
    compared.add_argument(
        "--test", action="store_true", help="of two runs: find the cause by trainings in between (it asks before it begins)"
    )
    compared.set_defaults(command=show_diff)
    again = commands.add_parser("replay", help="run it again and prove that it is the same; exit code 1 if it is not")
    again.add_argument("run", metavar="RUN", help=RUN_HELP)
    again.add_argument("--environment", action="store_true", help="with the recorded packages, in an environment of its own, and settings")
    again.add_argument("--until", type=_step, metavar="STEP", help="stop the training before this step (counted from 0) and show its batch")
    again.set_defaults(command=show_replay)
    made = commands.add_parser("which", help="which recorded runs made what lies in the workspace")
    made.set_defaults(command=show_which)
    shipped = commands.add_parser("sync", help="finish dead runs, ship what has not reached MLflow; exit code 1 if something is left")
    shipped.set_defaults(command=show_sync)
    shared = commands.add_parser("share", help="push what a colleague needs to replay a run: images by DVC, code and record by git")
    shared.add_argument("run", metavar="RUN", help=RUN_HELP)
    shared.add_argument("--with-secrets", action="store_true", help="even if uncommitted code holds what looks like a password or key")
    shared.set_defaults(command=show_share)
    for command in (runs, why, compared, again, made, shipped, shared):
        command.add_argument("--json", action="store_true", help="one JSON value on standard output")
    return parser


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text!r}")
    return int(text)


def _step(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a step, counted from 0 over the whole training, got {text!r}")
    return int(text)


def show_runs(options: argparse.Namespace) -> int:
    """`flight runs`."""
    rows = answers.printable(answers.runs(_recorded(), options.limit))
    if options.json:
        _print_json(rows)
        return NOTHING_WRONG
    if not rows:
        sys.stderr.write("No run has been recorded yet. Type: dvc repro\n")
        return NOTHING_WRONG
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("run", "name", "status", "verdict", "accuracy", "changed"):
        table.add_column(column, no_wrap=column == "run", justify="right" if column == "accuracy" else "left")
    for row in rows:
        accuracy = "" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
        status = f"[{answers.COLOURS[row['status']]}]{row['status']}[/]"
        changed = ", ".join(f"{change['param']} {shown(change['from'])} → {shown(change['to'])}" for change in row["changed"])
        table.add_row(row["id"], escape(row["name"]), status, escape(row["verdict"] or ""), accuracy, escape(changed))
    _console().print(table)
    return NOTHING_WRONG


def show_why(options: argparse.Namespace) -> int:
    """`flight why`."""
    answer = answers.printable(answers.why(_find_anywhere(options.run, _recorded())))
    if options.json:
        _print_json(answer)
    else:
        why_text.show(answer, _console())
    return NOTHING_WRONG if answer["verdict"] == "healthy" else FINDING


def show_diff(options: argparse.Namespace) -> int:
    """`flight diff`."""
    if len(options.runs) < 2:
        _tell("flight: diff compares two runs or more, and got one. Type: flight diff latest~1 latest")
        return WRONG_USAGE
    if options.test and len(options.runs) > 2:
        _tell("flight: --test is about two runs. Type: flight diff A B --test")
        return WRONG_USAGE
    from stages.flight.runs import diff, diff_text  # which load what makes pages, and other commands do without

    root, recorded = find_root(Path.cwd()), _recorded()
    runs = [_find_anywhere(name, recorded) for name in options.runs]
    tested = _test(runs, recorded, root) if options.test else None
    answer = answers.printable(diff.diff(runs, recorded, root) | {"test": tested})
    try:
        answer["page"] = str(diff.write(answer, runs, root))
    except OSError as error:
        answer["page"] = None
        _tell(f"flight: the page cannot be written ({error}).")
    if options.json:
        _print_json(answer)
    else:
        diff_text.show(answer, _console())
    return NOTHING_WRONG if answer["same"] else FINDING


def _test(runs: Sequence[Run], recorded: Sequence[Run], root: Path) -> dict[str, Any] | None:
    """The cause by trainings in between, if the user wants them; None if not."""
    from stages.flight.runs import ablation_plan

    plan = ablation_plan.plan(runs[0], runs[1], recorded, root)
    _tell_safely(plan.sentence)
    if plan.num_trainings:
        sys.stderr.write("flight: begin? It may be interrupted, and goes on when the same is typed again. [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            _tell("flight: nothing was trained.")
            return None
    return ablation_plan.carry_out(plan, root, _tell_safely)


def show_replay(options: argparse.Namespace) -> int:
    """`flight replay`."""
    from stages.flight.runs import replay, replay_text

    root, recorded = find_root(Path.cwd()), _recorded()
    run = _find_anywhere(options.run, recorded)
    answer = answers.printable(
        replay.replay(run, recorded, root, _tell_safely, own_environment=options.environment, until=options.until),
    )
    if options.json:
        _print_json(answer)
    else:
        replay_text.show(answer, _console())
    return NOTHING_WRONG if replay.is_proved(answer) else FINDING


def _find_anywhere(name: str, recorded: Sequence[Run]) -> Run:
    """A run recorded here, else one that a colleague has shared, or one of another machine that has reached the MLflow server."""
    try:
        return find(recorded, name)
    except NotRecordedError as unknown:
        if take_up(name, find_root(Path.cwd())):
            return find(_recorded(), name)
        from stages.flight.runs import remote  # takes a moment to load, and most runs are found here

        try:
            run = remote.fetch(name, find_root(Path.cwd()), tell=_tell_safely)
        except UnknownRunError as error:
            raise UnknownRunError(f"{error}; and here {unknown}") from error
        if run is None:
            raise
        return run


def show_which(options: argparse.Namespace) -> int:
    """`flight which`."""
    rows = answers.printable(which(_recorded(), find_root(Path.cwd())))
    if options.json:
        _print_json(rows)
        return NOTHING_WRONG
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("stage", "made by", "name", "outs", ""):
        table.add_column(column)
    for row in rows:
        maker = row["run_id"] or ("a run without a record here" if row["outs"] else "not made yet")
        also = f" and {len(row['also'])} more" if row["also"] else ""
        since = f"[yellow]changed since: {escape(', '.join(row['changed_since']))}[/]" if row["changed_since"] else ""
        table.add_row(row["stage"], maker + also, escape(row["name"] or ""), ", ".join(row["outs"]), since)
    _console().print(table)
    return NOTHING_WRONG


def show_sync(options: argparse.Namespace) -> int:
    """`flight sync`."""
    root = find_root(Path.cwd())
    recorded, unreadable = load_all(root)
    answer = answers.printable(sync(recorded, root, tell=_tell_safely))
    answer["unreadable"] = unreadable
    left = [run for run in answer["runs"] if not run["shipped"]]
    if options.json:
        _print_json(answer)
        return FINDING if left else NOTHING_WRONG
    for run in left:
        print(f"not shipped: {run['id']} to {run['address']}: {run['problem']}")
    for name in answer["closed_as_lost"]:
        print(f"closed as lost: {name}, of a machine that has shown no life for a day")
    for name in answer["silent"]:
        print(f"silent: {name} shows no life; it is closed as lost after a day without any")
    for message in unreadable:
        print(f"unreadable: {message}")
    print(f"{len(answer['runs']) - len(left)} shipped, {len(left)} left, {len(answer['live'])} still running")
    return FINDING if left else NOTHING_WRONG


def show_share(options: argparse.Namespace) -> int:
    """`flight share`."""
    answer = share(find(_recorded(), options.run), find_root(Path.cwd()), with_secrets=options.with_secrets)
    if options.json:
        _print_json(answer)
        return NOTHING_WRONG
    print(f"Shared run {answer['run_id']}: {answer['num_files_pushed']} files pushed by DVC, code and record to {answer['git_remote']}.")
    print("A colleague, in another clone, types:")
    print(f"  git fetch {answer['git_remote']} +{answer['ref']}:{answer['ref']} && flight replay {answer['run_id']}")
    return NOTHING_WRONG


def _tell_safely(text: str) -> None:
    _tell(f"flight: {answers.printable(text)}")


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _recorded() -> list[Run]:
    runs, unreadable = load_all(find_root(Path.cwd()))
    for message in unreadable:
        sys.stderr.write(f"flight: {message} It is left out.\n")
    left = [run for run in runs if run.problem and not run.is_shipped]
    if left:
        sys.stderr.write(f"flight: {len(left)} of the runs have not reached MLflow whole: {left[0].problem}. Type: flight sync\n")
    return runs


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH_IN_PIPES)


if __name__ == "__main__":
    sys.exit(main())
