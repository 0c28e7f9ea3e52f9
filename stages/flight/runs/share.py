"""What a colleague needs to run it again: images by DVC, code and record by git; and the other end of it."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from stages.flight.errors import CommandError
from stages.flight.record import journal, recorder_process
from stages.flight.record.capture import IDENTITY, REF_PREFIX
from stages.flight.record.git import content, git
from stages.flight.record.names import STAGES
from stages.flight.record.secrets import mask, mask_lines, mask_values
from stages.flight.runs import frozen_images
from stages.flight.runs.differences import FROZEN
from stages.flight.runs.run import Run, UnreadableRecordError, from_folder
from stages.shared import files

# Where the record lies in the commit that is shared.
RECORD_FOLDER = "flight-record"
SHARED = (journal.FILE_NAME, journal.OPENING_NAME, recorder_process.VERDICT_NAME, "reports/evaluate/predictions.csv")
WHOLE = ("dvc.lock", "params.yaml")
RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")


class ShareError(CommandError):
    """The run cannot be shared."""


def share(run: Run, root: Path, *, with_secrets: bool) -> dict[str, Any]:
    """Push the run's frozen images and its code with the record.

    Raises:
        ShareError: if a remote, the captured code or the images are missing, a push is refused, or the uncommitted part
            of the code holds what looks like a secret.
    """
    git_remote, ref = _git_remote(root), REF_PREFIX + run.id
    if run.ended is None:
        raise ShareError(f"run {run.id} has not ended, so its record is not whole. Type: flight runs")
    if run.commit is None:
        raise ShareError(f"the code of run {run.id} was not captured, so nobody can run it again. Type: git status")
    if "ingest" not in run.made or not frozen_images.of_run(run).keys() >= set(FROZEN):
        raise ShareError(f"run {run.id} ended before it had any images, so there is nothing to run it on. Type: flight why {run.id}")
    _check_images(run, root)
    commit = _seal(run, root, ref)
    if not with_secrets and (holding := files_with_secrets(commit, git_remote, root)):
        raise ShareError(
            f"code of run {run.id} that was not committed holds what looks like a secret, in {', '.join(holding)}. "
            f"Move it to a file that git ignores and run again; or, if it is none, type: flight share --with-secrets {run.id}"
        )
    num_pushed = _push_data(commit, root)
    git(root, "push", "--quiet", "--force", git_remote, f"{commit}:{ref}")
    return {"run_id": run.id, "ref": ref, "commit": commit, "git_remote": git_remote, "num_files_pushed": num_pushed}


def _seal(run: Run, root: Path, ref: str) -> str:
    """A commit on top of the captured code: the dvc.lock that the run ended with, where the images are, and the record, secrets masked."""
    head = git(root, "rev-parse", "--verify", "--quiet", f"{run.commit}^{{commit}}", or_else="")
    if not head:
        raise ShareError(
            f"git no longer has the code of run {run.id} ({run.commit}). A colleague may: git fetch {_git_remote(root)} +{ref}:{ref}"
        )
    whole = {**{name: run.folder / name for name in WHOLE}, ".dvc/config": root / ".dvc/config"}
    record = {f"{RECORD_FOLDER}/{name}": run.folder / name for name in SHARED}
    prefix = git(root, "rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory() as temporary:
        when = git(root, "show", "--no-patch", "--format=%cI", head)  # so that the same record is the same commit
        dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        own = {**IDENTITY, **dates, "GIT_INDEX_FILE": str(Path(temporary) / "index")}
        git(root, "read-tree", head, own=own)
        for name, path in {**whole, **record}.items():
            if path.is_file():
                text = path.read_text(encoding="utf-8", errors="surrogateescape")
                shared = _masked(text) if name in record else text
                blob = git(root, "hash-object", "-w", "--stdin", given=shared.encode("utf-8", "surrogateescape"))
                git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{prefix}{name}", own=own)
        tree = git(root, "write-tree", own=own)
        return git(root, "commit-tree", tree, "-p", head, "-m", f"Record of run {run.id}", own=own)


def _masked(text: str) -> str:
    """JSON, or JSON lines, with their values masked; anything else as text."""
    try:
        return json.dumps(mask_values(json.loads(text)), indent=2, ensure_ascii=False)
    except ValueError:
        return mask_lines(text)


def files_with_secrets(sealed: str, git_remote: str, root: Path) -> list[str]:
    """Of the commits that the remote does not have, as far as is known here, the files to which one adds what would be masked."""
    as_it_is = ("--text", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", "--dst-prefix=b/")  # whatever git's settings are
    patch = ("-c", "core.quotePath=false", "-c", "log.showRoot=true", "log", "--patch", "-m", "--unified=0", "--format=", *as_it_is)
    where = (sealed, "--not", f"--remotes={git_remote}", "--", ":(top)", f":(exclude,top){RECORD_FOLDER}")
    added = dict[str, list[str]]()
    name = ""
    for line in git(root, *patch, *where).split("\n"):
        if line.startswith("+++ "):
            name = line.removeprefix("+++ b/").removesuffix("\t")  # which ends a name with blanks
        if line.startswith("+"):
            added.setdefault(name, []).append(line[1:])
    return sorted(name for name, lines in added.items() if mask("\n".join(lines)) != "\n".join(lines))


def _check_images(run: Run, root: Path) -> None:
    if lacking := frozen_images.missing(frozen_images.of_run(run), [frozen_images.cache_of(root)]):
        told = f"{len(lacking)} of the images of run {run.id}, such as {lacking[0]}, are not in DVC's cache"
        raise ShareError(f"{told}, so they cannot be pushed. Who has them types: flight share {run.id}")


def _push_data(commit: str, root: Path) -> int:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with contextlib.chdir(root), Repo(str(root)) as repo:  # which takes targets from the present folder
            if not repo.config["core"].get("remote"):
                raise ShareError("DVC has no default remote to push the images to. Type: dvc remote add --default storage s3://bucket/path")
            return int(repo.push(targets=list(FROZEN), revs=[commit], workspace=False))
    except (DvcException, ImportError, OSError) as error:
        raise ShareError(f"DVC could not push the images: {mask(str(error))}. Type: dvc remote list; dvc status --cloud") from error


def take_up(name: str, root: Path) -> bool:
    """Make records here of the shared runs whose id begins with ``name`` and whose refs have been fetched; whether there was one."""
    refs = git(root, "for-each-ref", "--format=%(refname)", REF_PREFIX, or_else="").split()
    runs = root / journal.RECORDS_FOLDER / "runs"
    ids = [run_id for ref in refs if RUN_ID.fullmatch(run_id := ref.removeprefix(REF_PREFIX)) and run_id.startswith(name)]
    return bool([run_id for run_id in ids if name and not (runs / run_id).exists() and _take_up(run_id, runs, root)])


def _take_up(run_id: str, runs: Path, root: Path) -> bool:
    ref = REF_PREFIX + run_id
    kept = {name: content(root, ref, f"{RECORD_FOLDER}/{name}") for name in SHARED} | {name: content(root, ref, name) for name in WHOLE}
    if kept[journal.FILE_NAME] is None:
        return False
    runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs, prefix=".") as beside:
        folder = Path(beside) / run_id
        for name, found in kept.items():
            if found is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(found)
        _make_ours(folder, root)
        folder.rename(runs / run_id)
    return True


def _make_ours(folder: Path, root: Path) -> None:
    """Check a colleague's record. It is read here, and never shipped: that is its maker's to do."""
    from stages.flight.runs import foreign  # takes a moment to load, and is seldom needed

    try:
        opening, *others = journal.read(folder / journal.FILE_NAME)[0]
        if opening["id"] != folder.name:
            raise ValueError(f"it is the record of {opening['id']}")
        opening |= {"root": str(root), "workspace": str(root), "mlflow_run_id": None}
        kept = [record for record in others if record["type"] in journal.RECORD_TYPES and record["type"] not in ("address", "comparison")]
        foreign.check_records(kept)
        (folder / journal.FILE_NAME).write_text("".join(f"{json.dumps(record)}\n" for record in (opening, *kept)), encoding="utf-8")
        (folder / journal.OPENING_NAME).write_text(json.dumps(opening), encoding="utf-8")
        run = foreign.checked(vars(from_folder(folder)))
        if run.ended is None or not set(run.stages) <= set(STAGES):
            raise ValueError("it has no end, or stages of another pipeline")
        verdict = folder / recorder_process.VERDICT_NAME
        if verdict.is_file():
            files.write_json(verdict, foreign.checked_verdict(verdict.read_bytes()))
        recorder_process.remember(folder, dropped=True)
    except (UnreadableRecordError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ShareError(f"the record in {REF_PREFIX}{folder.name} is not one that flight share has made ({error})") from error


def _git_remote(root: Path) -> str:
    remotes = git(root, "remote").split()
    if not remotes:
        raise ShareError("git has no remote to push the code to. Type: git remote add origin git@host:team/project.git")
    return "origin" if "origin" in remotes else remotes[0]
