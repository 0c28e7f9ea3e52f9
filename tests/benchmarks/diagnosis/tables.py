"""``python -m tests.benchmarks.diagnosis.tables FOLDER``: the results of make_runs as one file a data set, and those files read again."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from stages.shared import files
from tests.benchmarks.diagnosis import result
from tests.benchmarks.diagnosis.recipes import DATASETS
from tests.benchmarks.diagnosis.result import Result
from tests.benchmarks.diagnosis.units import UNITS

EVIDENCE = Path(__file__).parent / "evidence"
MAX_BYTES = 2_500_000
DIGITS = 6


def path_of(dataset: str) -> Path:
    """The file with a data set's results."""
    return EVIDENCE / f"{dataset}.jsonl.gz"


def read(dataset: str) -> list[Result]:
    """All results of a data set, sorted by the units' names; not those of units that have been changed since."""
    present = {unit.name: unit for unit in UNITS}
    with gzip.open(path_of(dataset), "rt", encoding="utf-8") as file:
        results = [Result.model_validate_json(line) for line in file]
    return [result for result in results if present.get(result.unit.name) == result.unit]


def unpack(folder: Path) -> None:
    """Give a folder of runs the results that it lacks."""
    (folder / result.RESULTS).mkdir(parents=True, exist_ok=True)
    for found in itertools.chain.from_iterable(read(dataset) for dataset in DATASETS if path_of(dataset).is_file()):
        path = result.path_of(found.unit, folder)
        if not path.is_file():
            files.write_json(path, found.model_dump(mode="json"))


def gathered(folder: Path, dataset: str) -> list[Result]:
    """The results in a folder of runs, sorted by the units' names; not those of units that have been changed since."""
    units = sorted((unit for unit in UNITS if unit.dataset == dataset), key=lambda unit: unit.name)
    return [found for unit in units if (found := result.kept(unit, folder)) is not None]


def write(results: list[Result], path: Path) -> None:
    """Results in a file that is the same for the same results."""
    values = (_rounded(found.model_dump(mode="json")) for found in results)
    lines = [json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n" for value in values]
    content = gzip.compress("".join(lines).encode(), compresslevel=9, mtime=0)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} would have {len(content)} bytes. Expected {MAX_BYTES} at most: it lies in the repository.")
    path.write_bytes(content)


def _rounded(value: Any) -> Any:
    """Nested values with floats of six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {__doc__}")
    for dataset in DATASETS:
        found = gathered(Path(sys.argv[1]), dataset)
        write(found, path_of(dataset))
        sys.stderr.write(f"{path_of(dataset)}: {len(found)} results, {path_of(dataset).stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
