"""git, as recording and the commands use it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from stages.flight.errors import CommandError
from stages.flight.record.secrets import mask

# What belongs to the person and the network, not to a repository.
KEPT = ("GIT_SSH", "GIT_SSL", "GIT_ASKPASS", "GIT_TERMINAL_PROMPT", "GIT_CONFIG", "GIT_CEILING", "GIT_DISCOVERY")


class GitError(CommandError):
    """A git command failed; the message is what it said."""


def git(root: Path, *arguments: str, own: dict[str, str] | None = None, given: bytes = b"", or_else: str | None = None) -> str:
    """What git writes, without the end of its last line.

    Raises:
        GitError: if it fails, with what it said; ``or_else``, where it is given, is returned instead.
    """
    try:
        return os.fsdecode(output(root, *arguments, own=own, given=given)).removesuffix("\n")
    except GitError:
        if or_else is not None:
            return or_else
        raise


def output(root: Path, *arguments: str, own: dict[str, str] | None = None, given: bytes = b"", accept: Sequence[int] = (0,)) -> bytes:
    """What git writes, as it is.

    Raises:
        GitError: if it ends with an exit code that is not in ``accept``.
    """
    done = _run(root, arguments, own, given)
    if done.returncode not in accept:
        raise GitError(f"git {_verb(arguments)}: {mask(done.stderr.decode('utf-8', 'replace').strip())}")
    return done.stdout


def _verb(arguments: Sequence[str]) -> str:
    return next((word for word in arguments if not word.startswith("-") and "=" not in word), "")


def content(root: Path, commit: str, name: str) -> bytes | None:
    """A file of a commit, by its path from ``root``; None if the commit has no such file."""
    done = _run(root, ("cat-file", "blob", f"{commit}:./{name}"), None, b"")
    return done.stdout if done.returncode == 0 else None


def _run(root: Path, arguments: Sequence[str], own: dict[str, str] | None, given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["git", *arguments],
        cwd=root,
        # Of a hook, or of whoever has set them, they would lead every command into another repository.
        env={name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith(KEPT)} | (own or {}),
        input=given,
        capture_output=True,
        check=False,
    )
