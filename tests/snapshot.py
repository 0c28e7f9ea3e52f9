"""What a person owns in a clone, so that it can be compared with what it was: files, git's state, and DVC's cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests import tiny

# Records are what a command may add.
RECORDS = (".flight", "mlflow.db", "mlruns", ".git", ".dvc/tmp")


def take(clone: Path) -> dict[str, str]:
    """Each file of the workspace and of DVC's cache (content, mode, time of change), and git's HEAD, refs, index, stash and worktrees."""
    found = {}
    for path in sorted(clone.rglob("*")):
        name = path.relative_to(clone).as_posix()
        if not name.startswith(RECORDS) and not path.is_dir() and "__pycache__" not in name:
            status = path.lstat()
            content = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            found[name] = f"{content} {status.st_mode:o} {status.st_mtime_ns}"
    refs = tiny.run(clone, "git", "for-each-ref", "--format=%(refname) %(objectname)").stdout.splitlines()
    found["refs"] = "\n".join(ref for ref in refs if not ref.startswith("refs/flight/"))
    for command in (("symbolic-ref", "HEAD"), ("ls-files", "--stage"), ("status", "--porcelain"), ("stash", "list"), ("worktree", "list")):
        found[f"git {command[0]}"] = tiny.run(clone, "git", *command, check=False).stdout
    return found
