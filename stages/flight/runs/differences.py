"""What differs between recorded runs: parameters, images, code, packages, hardware and settings; and nothing that does not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.flight.record import journal, keeping, lock
from stages.flight.record.secrets import mask
from stages.flight.runs import images
from stages.flight.runs.changes import flatten
from stages.flight.runs.naming import NO_CODE
from stages.flight.runs.run import Run

Kind = Literal["param", "data", "code", "package", "hardware", "setting"]
NAMES_OF_EXPERIMENTS = ("DVC_EXP_BASELINE_REV", "DVC_EXP_NAME")  # which change nothing
MAX_PATCH_CHARACTERS = 200_000
# Frozen inputs that no stage makes anew: DVC's hash of each tells whether two runs had the same.
INPUTS = {"data/raw": "images", "data/backbone": "backbone weights"}


@dataclass(frozen=True)
class Difference:
    """One thing that differs; ``values`` has one for each run, None where a run has no such thing.

    Of images the values are counts against the first run, and ``by_class`` says of which classes (of the last run that differs).
    """

    kind: Kind
    name: str
    values: tuple[Any, ...]
    by_class: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Recorded:
    """What a run's record says of how it was made."""

    run: Run
    root: Path
    packages: Mapping[str, str]
    hardware: Mapping[str, Any]
    settings: Mapping[str, Any]
    locked: Mapping[str, Any]


def recorded(run: Run, root: Path) -> Recorded:
    """Read it from the run's folder; ``root`` is the repository in which its code is looked for."""
    records, _ = journal.read(run.folder / journal.FILE_NAME)
    environment = next((record for record in records if record.get("part") == "environment"), {})
    of_stages = {record["stage"]: record["values"] for record in records if record["type"] == "setting"}
    hardware = flatten(environment.get("hardware", {})) | {"platform": environment.get("platform")}
    packages = environment.get("packages", {}) | {"python": environment.get("python")}
    variables = {name: value for name, value in environment.get("settings", {}).items() if name not in NAMES_OF_EXPERIMENTS}
    of_stages = {stage: {name: value for name, value in values.items() if name not in packages} for stage, values in of_stages.items()}
    settings = variables | flatten(of_stages)
    return Recorded(run, root, packages, hardware, settings, lock.read_stages(run.folder / "dvc.lock"))


def differences(runs: Sequence[Recorded]) -> list[Difference]:
    """All of them, by kind and then by name."""
    return [
        *_of_values("param", [run.run.params for run in runs]),
        *_of_images(runs),
        *_of_code(runs),
        *_of_values("package", [run.packages for run in runs]),
        *_of_values("hardware", [run.hardware for run in runs]),
        *_of_values("setting", [run.settings for run in runs]),
    ]


def _of_values(kind: Kind, of_runs: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Of named values; a run of which nothing of the kind is known differs in nothing."""
    known = [values for values in of_runs if values]
    names = sorted({name for values in known for name in values})
    differing = (name for name in names if len({_frozen(values.get(name)) for values in known}) > 1)
    return [Difference(kind, name, tuple(values.get(name) for values in of_runs)) for name in differing]


def _frozen(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _of_images(runs: Sequence[Recorded]) -> list[Difference]:
    """By content, where the manifests are here; else by DVC's hash."""
    counts: list[dict[str, int]] = []
    classes: dict[str, dict[str, int]] = {}
    manifests = [keeping.kept_manifest(run.run.folder, dict(run.run.made)) for run in runs]
    read = {path: images.read(path) for path in dict.fromkeys(manifests) if path is not None} if len(set(manifests)) > 1 else {}
    for path in manifests:
        found = images.changes(read[manifests[0]], read[path]) if manifests[0] in read and path in read else {}
        counts.append({name: len(changed) for name, changed in found.items() if changed})
        classes |= {name: images.by_class(changed) for name, changed in found.items() if changed}
    names = [name for name in images.changes([], []) if any(name in count for count in counts)]
    by_content = [Difference("data", f"images {name}", tuple(count.get(name, 0) for count in counts), classes[name]) for name in names]
    hashes = {name: tuple(_made(run, path) for run in runs) for path, name in INPUTS.items() if not (by_content and path == "data/raw")}
    known = {name: values for name, values in hashes.items() if len(set(values) - {None}) > 1}
    return [*by_content, *(Difference("data", name, values) for name, values in known.items())]


def _made(run: Recorded, path: str) -> str | None:
    return next((outs[path] for outs in run.run.made.values() if path in outs), None)


def _of_code(runs: Sequence[Recorded]) -> list[Difference]:
    """File by file against the first run, where the captured code is here; else by the stages' hashes in dvc.lock."""
    found: dict[str, dict[int, tuple[str | None, str | None]]] = {}
    for position, run in enumerate(runs[1:], 1):
        changed = changed_files(runs[0], run)
        if changed is None:
            changed = _by_lock(runs[0].locked, run.locked)
        for name, blobs in changed.items():
            found.setdefault(name, {})[position] = blobs
    rows = []
    for name, of_runs in sorted(found.items()):
        before = next(iter(of_runs.values()))[0]
        rows.append(Difference("code", name, (before, *(of_runs.get(i, (before, before))[1] for i in range(1, len(runs))))))
    return rows


def changed_files(before: Recorded, after: Recorded) -> dict[str, tuple[str | None, str | None]] | None:
    """Path → git's short names of its content before and after (None: absent); None where the code of one is not in this repository."""
    listed = _diff(before, after, "--raw", "--abbrev=9", "-z")
    if listed is None:
        return None
    fields = listed.split("\0")
    found = {}
    for described, name in zip(fields[::2], fields[1::2], strict=False):
        old, new = described.split()[2:4]
        found[name] = (None if set(old) == {"0"} else old, None if set(new) == {"0"} else new)
    return found


def patch(before: Recorded, after: Recorded) -> str:
    """The changes of the code as a patch, with secrets masked, and cut where it is very long."""
    text = mask(_diff(before, after, "-p", "--no-ext-diff", "--no-textconv") or "")
    return text if len(text) <= MAX_PATCH_CHARACTERS else f"{text[:MAX_PATCH_CHARACTERS]}\n… cut off here"


def _diff(before: Recorded, after: Recorded, *options: str) -> str | None:
    commits = [run.run.commit for run in (before, after)]
    if not all(commits):
        return None
    left_out = [f":(exclude){name}" for name in NO_CODE]
    command = ["git", "diff-tree", "-r", *options, *map(str, commits), "--", ".", *left_out]
    done = subprocess.run(command, cwd=before.root, capture_output=True, check=False)
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _by_lock(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """DVC's hashes of the dependencies that no stage makes: the code, for one."""
    old, new = (
        {dep["path"]: dep["md5"] for entry in stages.values() for dep in entry.get("deps", []) if not dep["path"].startswith("data/")}
        for stages in (before, after)
    )
    return {name: (old[name], new[name]) for name in old.keys() & new.keys() if old[name] != new[name]}
