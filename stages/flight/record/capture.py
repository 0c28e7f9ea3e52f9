"""The state before any work: code, parameters, packages, hardware, settings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from stages.flight.record.git import GitError, git, output
from stages.flight.record.secrets import mask
from stages.shared import memory

MAX_UNTRACKED_BYTES = 20_000_000  # of all untracked files together; the largest are left out and named
MAX_PATCH_BYTES = 5_000_000
REF_PREFIX = "refs/flight/"
PATCH_NAME = "changes.patch"
LOCK_BEFORE = "dvc.lock.before"
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git's name of a tree without files
IDENTITY = {
    f"GIT_{role}_{field}": value for role in ("AUTHOR", "COMMITTER") for field, value in (("NAME", "flight"), ("EMAIL", "flight@localhost"))
}
# Settings that change a training's bits or its speed; no other part of the environment is recorded, since it may hold secrets.
RECORDED_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "DVC_EXP_BASELINE_REV",
    "DVC_EXP_NAME",
    "KERAS_BACKEND",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "TF_CUDNN_DETERMINISTIC",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)


def workspace(folder: Path, run_folder: Path) -> dict[str, Any]:
    """Capture params.yaml, dvc.lock and the code of ``folder``; the quick part, done before the first stage starts."""
    for name, kept in {"params.yaml": "params.yaml", "dvc.lock": LOCK_BEFORE}.items():
        if (folder / name).is_file():
            shutil.copyfile(folder / name, run_folder / kept)
    try:
        code = capture_code(folder, run_folder)
    except (GitError, OSError) as error:
        # A run without its code is better than no run; the reason is in the record.
        code = {"ref": None, "commit": None, "parent": None, "dirty": None, "left_out": [], "reason": str(error)}
    return {"part": "workspace", "code": code}


def capture_code(folder: Path, run_folder: Path) -> dict[str, Any]:
    """Commit tracked, changed and untracked files to ``refs/flight/<id>``, through an index of our own.

    The user's index, branch and files stay as they are. Of untracked files MAX_UNTRACKED_BYTES are taken, the smallest
    first; the others, and repositories of their own, are named.
    For a temporary experiment folder the commit goes into the parent repository, which outlives it.

    Raises:
        GitError: if git cannot do it; no ref is made then.
    """
    root = Path(os.environ.get("DVC_ROOT", folder))
    git_dir = git(root, "rev-parse", "--absolute-git-dir")
    top = Path(git(folder, "rev-parse", "--show-toplevel"))
    with tempfile.TemporaryDirectory() as temporary:
        index = Path(temporary) / "index"
        if (Path(git_dir) / "index").is_file():
            shutil.copyfile(Path(git_dir) / "index", index)
        own = {**IDENTITY, "GIT_DIR": git_dir, "GIT_WORK_TREE": str(top), "GIT_INDEX_FILE": str(index)}
        head = git(top, "rev-parse", "--verify", "--quiet", "HEAD", own=own, or_else="")
        parent = os.environ.get("DVC_EXP_BASELINE_REV") or head or None  # a repository without commits
        left_out = _left_out(top, own)
        pathspecs = "\0".join([".", *(f":(top,exclude,literal){name}" for name in left_out)])
        # What cannot be added, such as a repository inside without a commit, costs itself alone.
        adding = ("add", "--all", "--ignore-errors", "--pathspec-from-file=-", "--pathspec-file-nul")
        output(top, *adding, own=own, given=os.fsencode(pathspecs), accept=(0, 1))
        tree = git(top, "write-tree", own=own)
        message = f"State of the code of run {run_folder.name}"
        commit = git(top, "commit-tree", tree, *(["-p", parent] if parent else []), "-m", message, own=own)
        ref = REF_PREFIX + run_folder.name
        git(top, "update-ref", ref, commit, own=own)
        changes = [parent or EMPTY_TREE, commit]
        patch = output(top, "diff-tree", "-p", "--no-ext-diff", "--no-textconv", *changes, own=own)
        changed = git(top, "diff-tree", "-r", "--name-only", *changes, "--", ".", ":(exclude)*dvc.lock", own=own)
    if 0 < len(patch) <= MAX_PATCH_BYTES:  # for reading; the ref holds all of it
        masked = mask(patch.decode("utf-8", "surrogateescape"))
        (run_folder / PATCH_NAME).write_bytes(masked.encode("utf-8", "surrogateescape"))
    return {"ref": ref, "commit": commit, "parent": parent, "dirty": bool(changed), "left_out": left_out}


def _left_out(folder: Path, own: dict[str, str]) -> list[str]:
    """Repositories within the repository, of which git would take the name alone, and the largest untracked files."""
    listed = output(folder, "ls-files", "--others", "--exclude-standard", "-z", own=own).split(b"\0")
    names = [os.fsdecode(name) for name in listed if name]
    sizes = {name: (folder / name).lstat().st_size for name in names if not name.endswith("/") and os.path.lexists(folder / name)}
    left_out, total = [name for name in names if name.endswith("/")], sum(sizes.values())
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if total <= MAX_UNTRACKED_BYTES:
            break
        left_out.append(name)
        total -= sizes[name]
    return left_out


def environment() -> dict[str, Any]:
    """Packages, Python, hardware and settings; the slower part, done by the recorder."""
    from stages.flight.record import system

    packages = {
        distribution.metadata["Name"].lower(): distribution.version
        for distribution in importlib.metadata.distributions()
        if distribution.metadata["Name"]
    }
    return {
        "part": "environment",
        "packages": dict(sorted(packages.items())),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": {
            "cpu": _cpu(),
            "num_cpus": os.cpu_count(),
            "num_usable_cpus": len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else os.cpu_count(),
            "memory_bytes": psutil.virtual_memory().total,
            "memory_limit_bytes": memory.limit_bytes(),
            "gpus": system.gpus(),
        },
        "settings": {name: value for name, value in sorted(os.environ.items()) if name in RECORDED_VARIABLES},
        "executable": sys.executable,
    }


def _cpu() -> dict[str, str]:
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return {"model": platform.processor(), "flags": ""}
    fields = dict(re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", information.read_text(), re.MULTILINE))
    return {
        "model": fields.get("model name", platform.processor()),
        "flags": fields.get("flags", fields.get("Features", "")),
    }
