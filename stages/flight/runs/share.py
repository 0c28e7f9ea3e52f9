"""What a colleague needs to run it again: the frozen images in the DVC remote, code and record in the git remote."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from stages.flight.record import journal
from stages.flight.record.capture import EMPTY_TREE, IDENTITY, REF_PREFIX
from stages.flight.record.secrets import mask, mask_lines
from stages.flight.runs.run import Run

# Where the record lies in the commit that is shared.
RECORD_FOLDER = "flight-record"
# What a replay takes as it is; everything else it makes anew.
FROZEN = ("data/raw", "data/backbone")


class ShareError(Exception):
    """The run cannot be shared; the message says what is missing and what to type."""


def share(run: Run, root: Path, *, with_secrets: bool) -> dict[str, Any]:
    """Push the run's frozen images and its code with the record.

    Raises:
        ShareError: if a remote, the captured code or the images are missing, a push is refused, or the uncommitted part
            of the code holds what looks like a secret.
    """
    git_remote, ref = _git_remote(root), REF_PREFIX + run.id
    if run.commit is None:
        raise ShareError(f"the code of run {run.id} was not captured, so nobody can run it again. Type: git status")
    if "ingest" not in run.made:
        raise ShareError(f"run {run.id} ended before it had any images, so there is nothing to run it on. Type: flight why {run.id}")
    commit = _seal(run, root, ref)
    if not with_secrets and (holding := _files_with_secrets(str(run.commit), commit, root)):
        raise ShareError(
            f"code of run {run.id} that was not committed holds what looks like a secret, in {', '.join(holding)}. "
            f"Move it to a file that git ignores and run again; or, if it is none, type: flight share --with-secrets {run.id}"
        )
    num_pushed = _push_data(commit, root)
    _git(root, "push", "--quiet", "--force", git_remote, f"{commit}:{ref}")
    return {"run_id": run.id, "ref": ref, "commit": commit, "git_remote": git_remote, "num_files_pushed": num_pushed}


def _seal(run: Run, root: Path, ref: str) -> str:
    """A commit on top of the captured code: the dvc.lock that the run ended with, where the images are, and the record, secrets masked."""
    head = _git(root, "rev-parse", "--verify", "--quiet", f"{run.commit}^{{commit}}", or_else="")
    if not head:
        raise ShareError(f"git no longer has the code of run {run.id} ({run.commit}). A colleague may: git fetch {_git_remote(root)} {ref}")
    whole = {"dvc.lock": run.folder / "dvc.lock", "params.yaml": run.folder / "params.yaml", ".dvc/config": root / ".dvc/config"}
    record = {f"{RECORD_FOLDER}/{name}": run.folder / name for name in (journal.FILE_NAME, journal.OPENING_NAME, "diagnosis/verdict.json")}
    prefix = _git(root, "rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory() as temporary:
        own = {**IDENTITY, "GIT_INDEX_FILE": str(Path(temporary) / "index")}
        _git(root, "read-tree", head, own=own)
        for name, path in {**whole, **record}.items():
            if path.is_file():
                text = path.read_text(encoding="utf-8", errors="surrogateescape")
                shared = mask_lines(text) if name in record else text
                blob = _git(root, "hash-object", "-w", "--stdin", given=shared)
                _git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{prefix}{name}", own=own)
        tree = _git(root, "write-tree", own=own)
        return _git(root, "commit-tree", tree, "-p", head, "-m", f"Record of run {run.id}", own=own)


def _files_with_secrets(captured: str, sealed: str, root: Path) -> list[str]:
    """Of the files that are shared and that the run's commit had not, those in which something would be masked."""
    before = _git(root, "rev-parse", "--verify", "--quiet", f"{captured}^", or_else=EMPTY_TREE)
    compare = ("diff-tree", "-r", "-z", "--no-renames", "--diff-filter=d")
    names = _git(root, *compare, "--name-only", before, sealed, "--", ":(top)", f":(exclude,top){RECORD_FOLDER}").split("\0")
    added = {name: _git(root, *compare, "-p", "--unified=0", before, sealed, "--", f":(top,literal){name}") for name in names if name}
    return [name for name, patch in added.items() if mask(patch) != patch]


def _push_data(commit: str, root: Path) -> int:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            if not repo.config["core"].get("remote"):
                raise ShareError("DVC has no default remote to push the images to. Type: dvc remote add --default storage s3://bucket/path")
            return int(repo.push(targets=list(FROZEN), revs=[commit], workspace=False))
    except (DvcException, ImportError, OSError) as error:
        raise ShareError(f"DVC could not push the images: {mask(str(error))}. Type: dvc remote list; dvc status --cloud") from error


def _git_remote(root: Path) -> str:
    remotes = _git(root, "remote").split()
    if not remotes:
        raise ShareError("git has no remote to push the code to. Type: git remote add origin git@host:team/project.git")
    return "origin" if "origin" in remotes else remotes[0]


def _git(root: Path, *arguments: str, own: dict[str, str] | None = None, given: str = "", or_else: str | None = None) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=root,
        env={**os.environ, **(own or {})},
        input=given.encode("utf-8", "surrogateescape"),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        if or_else is not None:
            return or_else
        raise ShareError(f"git {arguments[0]}: {mask(done.stderr.decode('utf-8', 'replace').strip())}")
    return os.fsdecode(done.stdout).strip()
