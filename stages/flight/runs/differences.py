"""What differs between recorded runs: parameters, images, code, packages, hardware and settings; and nothing that does not."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.flight.errors import CommandError
from stages.flight.record import journal, kept_manifests
from stages.flight.record.git import git
from stages.flight.record.secrets import mask, mask_named
from stages.flight.runs import images
from stages.flight.runs.changes import flatten
from stages.flight.runs.naming import NO_CODE
from stages.flight.runs.run import Run

Kind = Literal["param", "data", "code", "package", "hardware", "setting"]
Values = Mapping[str, Any]
NAMES_OF_EXPERIMENTS = ("DVC_EXP_BASELINE_REV", "DVC_EXP_NAME")  # which change nothing
MAX_PATCH_CHARACTERS = 200_000
COMMIT = re.compile(r"[0-9a-f]{40,64}")  # what another machine tells must not be an option of git
# Frozen inputs that no stage makes anew: DVC's hash of each tells whether two runs had the same.
FROZEN = (IMAGES, BACKBONE) = ("data/raw", "data/backbone")
DONE = ("ran", "cached")
PROJECT = "flight-recorder"


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
    """What a run's record says of how it was made; None where it does not say."""

    run: Run
    root: Path
    packages: Values | None
    hardware: Values | None
    variables: Values | None
    of_stages: Mapping[str, Values]
    data_version: str | None


def recorded(run: Run, root: Path, environment: Mapping[str, Any] | None = None) -> Recorded:
    """Read it from the run's folder; ``root`` is the repository in which its code is looked for.

    ``environment``, as ``capture.environment`` gives it, stands for the recorded one.
    """
    records: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):  # a run of another machine may have sent no journal yet
        records, _ = journal.read(run.folder / journal.FILE_NAME)
    environment = environment or next((record for record in records if record.get("part") == "environment"), None)
    packages = _packages(environment) if environment else None
    hardware = flatten(environment.get("hardware")) | {"platform": environment.get("platform")} if environment else None
    variables = _mapping(environment.get("settings")) if environment else None
    of_stages = {str(record.get("stage")): _mapping(record.get("values")) for record in records if record["type"] == "setting"}
    version = next((record.get("data_version") for record in reversed(records) if record["type"] == "end"), None)
    return Recorded(
        run,
        root,
        packages,
        hardware,
        {name: value for name, value in variables.items() if name not in NAMES_OF_EXPERIMENTS} if variables is not None else None,
        of_stages,
        version or (run.made.get("ingest", {}).get(IMAGES) if run.stages.get("ingest") in DONE else None),
    )


def _packages(environment: Mapping[str, Any]) -> dict[str, Any]:
    """With Python among them, and without this project's own, whose code is compared file by file."""
    packages = _mapping(environment.get("packages")) | {"python": environment.get("python")}
    return {name: version for name, version in packages.items() if name != PROJECT}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def differences(runs: Sequence[Recorded]) -> list[Difference]:
    """All of them, by kind and then by name."""
    return [
        *_of_values("param", [run.run.params or None for run in runs]),
        *_of_images(runs),
        *_of_code(runs),
        *_of_values("package", [run.packages for run in runs]),
        *_of_values("hardware", [run.hardware for run in runs]),
        *_of_settings(runs),
    ]


def not_compared(runs: Sequence[Recorded]) -> list[Kind]:
    """The kinds of which the record of some run says nothing."""
    known: dict[Kind, list[bool]] = {
        "param": [bool(run.run.params) for run in runs],
        "data": [run.data_version is not None for run in runs],
        "code": [_commit(run) is not None or bool(run.run.inputs) for run in runs],
        "package": [run.packages is not None for run in runs],
        "hardware": [run.hardware is not None for run in runs],
        "setting": [run.variables is not None for run in runs],
    }
    return [kind for kind, of_runs in known.items() if not all(of_runs)]


def _of_values(kind: Kind, of_runs: Sequence[Values | None]) -> list[Difference]:
    """Of named values; a run of which they are not known differs in nothing. Secrets are masked once they have been compared."""
    known = [values for values in of_runs if values is not None]
    names = sorted({name for values in known for name in values}, key=str)
    differing = [name for name in names if len({_frozen(values.get(name)) for values in known}) > 1]
    found = [(name, [values.get(name) if values else None for values in of_runs]) for name in differing]
    return [Difference(kind, str(name), tuple(_masked(name, value) for value in values)) for name, values in found]


def _frozen(value: Any) -> str:
    """The same text for the same value; 2 and 2.0 are the same."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return json.dumps(float(value) if is_number else value, default=str)


def _masked(name: Any, value: Any) -> Any:
    return mask_named(str(name), value) if isinstance(value, str) else value


def _of_settings(runs: Sequence[Recorded]) -> list[Difference]:
    """Of the environment, and of each stage that a run got to; versions of packages are told among those."""
    packages = {name for run in runs for name in run.packages or {}}
    stages = sorted({stage for run in runs for stage in run.of_stages})
    named = [
        Difference("setting", f"{stage}.{one.name}", one.values)
        for stage in stages
        for one in _of_values("setting", [run.of_stages.get(stage) for run in runs])
        if one.name not in packages
    ]
    return [*_of_values("setting", [run.variables for run in runs]), *named]


def _of_images(runs: Sequence[Recorded]) -> list[Difference]:
    """By content, where the manifests are here; where one is not, by DVC's hash too."""
    by_content = _by_content(runs)
    is_whole = by_content and not any(None in one.values for one in by_content)
    backbones = [run.run.made.get("ingest", {}).get(BACKBONE) if run.run.stages.get("ingest") in DONE else None for run in runs]
    hashes = {"backbone weights": backbones} | ({} if is_whole else {"images": [run.data_version for run in runs]})
    differing = {name: values for name, values in hashes.items() if len(set(values) - {None}) > 1}
    return [*by_content, *(Difference("data", name, tuple(values)) for name, values in differing.items())]


def _by_content(runs: Sequence[Recorded]) -> list[Difference]:
    """What became of the images of the first run; None of a run whose manifest is not here."""
    manifests = [kept_manifests.find(run.run.folder, run.run.made) if run.run.stages.get("validate") in DONE else None for run in runs]
    if len(set(manifests)) == 1 or manifests[0] is None:
        return []
    read = {path: images.read(path) for path in dict.fromkeys(manifests) if path is not None}
    found = [images.changes(read[manifests[0]], read[path]) if path is not None else None for path in manifests]
    known = [changes for changes in found if changes is not None]
    return [
        Difference(
            "data",
            f"images {name}",
            tuple(None if changes is None else len(changes[name]) for changes in found),
            images.by_class(next(changes[name] for changes in reversed(known) if changes[name])),
        )
        for name in known[0]
        if any(changes[name] for changes in known)
    ]


def _of_code(runs: Sequence[Recorded]) -> list[Difference]:
    """File by file against the first run, where the captured code is here; else by the hashes of the stages' dependencies."""
    found: dict[str, dict[int, tuple[str | None, str | None]]] = {}
    for position, run in enumerate(runs[1:], 1):
        changed = changed_files(runs[0], run)
        for name, blobs in (_by_inputs(runs[0].run, run.run) if changed is None else changed).items():
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
    """The changes of the code as a patch, cut where it is very long, with secrets masked."""
    text = _diff(before, after, "-p", "--no-ext-diff", "--no-textconv") or ""
    cut = text[:MAX_PATCH_CHARACTERS].rpartition("\n")[0] + "\n… cut off here" if len(text) > MAX_PATCH_CHARACTERS else text
    return mask(cut)


def _commit(run: Recorded) -> str | None:
    return run.run.commit if run.run.commit and COMMIT.fullmatch(run.run.commit) else None


def _diff(before: Recorded, after: Recorded, *options: str) -> str | None:
    commits = [commit for run in (before, after) if (commit := _commit(run))]
    if len(commits) < 2:
        return None
    left_out = [f":(exclude){name}" for name in NO_CODE]
    try:
        return git(before.root, "diff-tree", "-r", "--relative", *options, "--end-of-options", *commits, "--", ".", *left_out)
    except CommandError:
        return None


def _by_inputs(before: Run, after: Run) -> dict[str, tuple[str | None, str | None]]:
    """DVC's hashes of code; nothing where one run's are not known."""
    old, new = ({path: md5 for path, md5 in run.inputs.items() if path.startswith("stages/")} for run in (before, after))
    names = sorted(old.keys() | new.keys()) if old and new else []
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}
