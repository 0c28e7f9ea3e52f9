"""git, as the commands use it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stages.flight.record.secrets import mask

# What belongs to the person and the network, not to a repository.
KEPT = ("GIT_SSH", "GIT_SSL", "GIT_ASKPASS", "GIT_TERMINAL_PROMPT", "GIT_CONFIG")


class CommandError(Exception):
    """A command of ``flight`` cannot do what was asked; the message says what is missing and what to type."""


def git(root: Path, *arguments: str, own: dict[str, str] | None = None, given: str = "", or_else: str | None = None) -> str:
    """What git writes, without blanks around it.

    Raises:
        CommandError: if it fails, with what it said; ``or_else``, where it is given, is returned instead.
    """
    done = _run(root, arguments, own, given)
    if done.returncode != 0:
        if or_else is not None:
            return or_else
        raise CommandError(f"git {_verb(arguments)}: {mask(done.stderr.decode('utf-8', 'replace').strip())}")
    return os.fsdecode(done.stdout).strip()


def _verb(arguments: Sequence[str]) -> str:
    return next((word for word in arguments if not word.startswith("-") and "=" not in word), "")


def content(root: Path, commit: str, name: str) -> bytes | None:
    """A file of a commit, by its path from ``root``; None if the commit has no such file."""
    done = _run(root, ("cat-file", "blob", f"{commit}:./{name}"), None, "")
    return done.stdout if done.returncode == 0 else None


def _run(root: Path, arguments: Sequence[str], own: dict[str, str] | None, given: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", *arguments],
        cwd=root,
        # Of a hook, or of whoever has set them, they would lead every command into another repository.
        env={name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith(KEPT)} | (own or {}),
        input=given.encode("utf-8", "surrogateescape"),
        capture_output=True,
        check=False,
    )
