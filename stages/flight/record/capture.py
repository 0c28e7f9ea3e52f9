"""The state before any work: code, parameters, packages, hardware, settings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

MAX_UNTRACKED_BYTES = 10_000_000
REF_PREFIX = "refs/flight/"
PATCH_NAME = "changes.patch"
IDENTITY = {
    f"GIT_{role}_{field}": value for role in ("AUTHOR", "COMMITTER") for field, value in (("NAME", "flight"), ("EMAIL", "flight@localhost"))
}
# Settings that change a training's bits or its speed; no other part of the environment is recorded.
RECORDED_VARIABLES = re.compile(r"^(TF_|KERAS_|XLA_|CUDA_|NVIDIA_|OMP_|MKL_|OPENBLAS_|PYTHONHASHSEED|DVC_EXP_|JAX_)")
SECRET_NAMES = r"(?:password|passwd|secret|token|api_?key|access_?key(?:_id)?|private_?key|credentials?)"  # noqa: S105  (a pattern)
SECRETS = (
    re.compile(rf"(?i)({SECRET_NAMES}['\"]?\s*[:=]\s*)(['\"]?)[^\s'\",]{{4,}}\2"),
    re.compile(r"(?i)(://[^/\s:@]+:)([^@\s/]+)(?=@)"),
    re.compile(r"(?i)(bearer\s+|basic\s+)()[a-z0-9+/._=-]{12,}"),
    re.compile(r"()()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(
        r"()()\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|xox[abpr]-[\w-]{10,})"
    ),
    re.compile(r"()()-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"),
)
MASK = "***"


def mask(text: str) -> str:
    """The text with passwords, tokens and keys replaced."""
    for pattern in SECRETS:
        text = pattern.sub(lambda found: f"{found.group(1)}{MASK}", text)
    return text


def workspace(folder: Path, run_folder: Path) -> dict[str, Any]:
    """Capture code, params.yaml and dvc.lock of ``folder``; the quick part, done before the first stage starts."""
    for name in ("params.yaml", "dvc.lock"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, run_folder / name)
    if (run_folder / "dvc.lock").is_file():
        (run_folder / "dvc.lock").rename(run_folder / "dvc.lock.before")
    return {"part": "workspace", "code": code(folder, run_folder)}


def code(folder: Path, run_folder: Path) -> dict[str, Any]:
    """Commit tracked, changed and untracked files to ``refs/flight/<id>``, through an index of our own.

    The user's index, branch and files stay as they are. Untracked files over MAX_UNTRACKED_BYTES are left out and named.
    For a temporary experiment folder the commit goes into the parent repository, which outlives it.
    """
    root = os.environ.get("DVC_ROOT", str(folder))
    git_dir = _git(Path(root), {}, "rev-parse", "--absolute-git-dir")
    if git_dir is None:
        return {"ref": None, "commit": None, "dirty": None, "left_out": []}
    with tempfile.TemporaryDirectory() as temporary:
        index = Path(temporary) / "index"
        if (Path(git_dir) / "index").is_file():
            shutil.copyfile(Path(git_dir) / "index", index)
        environment = {**IDENTITY, "GIT_DIR": git_dir, "GIT_WORK_TREE": str(folder), "GIT_INDEX_FILE": str(index)}
        parent = os.environ.get("DVC_EXP_BASELINE_REV") or _git(folder, environment, "rev-parse", "--verify", "--quiet", "HEAD")
        untracked = (_git(folder, environment, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
        left_out = [
            name for name in untracked if name and (folder / name).is_file() and (folder / name).stat().st_size > MAX_UNTRACKED_BYTES
        ]
        _git(folder, environment, "add", "--all", "--", ".", *(f":(exclude,literal){name}" for name in left_out))
        tree = _git(folder, environment, "write-tree")
        parents = ["-p", parent] if parent else []
        commit = _git(
            folder,
            environment,
            "commit-tree",
            tree or "",
            *parents,
            "-m",
            f"State of the code of run {run_folder.name}",
        )
        ref = REF_PREFIX + run_folder.name
        _git(folder, environment, "update-ref", ref, commit or "")
        patch = _git(folder, environment, "diff", "--binary", parent, commit or "") if parent else ""
        changed = _git(folder, environment, "diff", "--name-only", parent, commit or "", "--", ".", ":(exclude)dvc.lock") if parent else ""
    if patch:
        (run_folder / PATCH_NAME).write_text(mask(patch) + "\n", encoding="utf-8", errors="replace")
    return {"ref": ref, "commit": commit, "parent": parent, "dirty": bool(changed), "left_out": left_out}


def _git(folder: Path, environment: dict[str, str], *arguments: str) -> str | None:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return done.stdout.strip("\n") if done.returncode == 0 else None


def environment() -> dict[str, Any]:
    """Packages, Python, hardware and settings; the slower part, done by the recorder."""
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
            "memory_bytes": psutil.virtual_memory().total,
            "gpus": _gpus(),
        },
        "settings": {name: value for name, value in sorted(os.environ.items()) if RECORDED_VARIABLES.match(name)},
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


def _gpus() -> list[dict[str, str]]:
    if shutil.which("nvidia-smi") is None:
        return []
    columns = ("name", "driver_version", "memory.total")
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={','.join(columns)}", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return [dict(zip(columns, line.split(", "), strict=False)) for line in done.stdout.splitlines()]
