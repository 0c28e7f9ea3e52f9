"""``python -m tests.benchmarks.diagnosis.tables FOLDER``: the results of make_runs as one file a data set, and those files read again."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.diagnosis.recipes import CIFAR, FASHION
from tests.benchmarks.diagnosis.result import RESULTS, Result

EVIDENCE = Path(__file__).parent / "evidence"
MAX_BYTES = 2_500_000
DIGITS = 6


def path_of(dataset: str) -> Path:
    """The file with a data set's results."""
    return EVIDENCE / f"{dataset}.jsonl.gz"


def read(path: Path) -> list[Result]:
    """All results of a file, sorted by the units' names."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [Result.model_validate_json(line) for line in file]


def write(results: list[dict[str, Any]], path: Path) -> None:
    """Results (as JSON values) in a file that is the same for the same results."""
    lines = [json.dumps(_rounded(result), sort_keys=True, separators=(",", ":")) + "\n" for result in results]
    content = gzip.compress("".join(lines).encode(), compresslevel=9, mtime=0)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} would have {len(content)} bytes. Expected {MAX_BYTES} at most: it lies in the repository.")
    path.parent.mkdir(exist_ok=True)
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
    for dataset in (FASHION, CIFAR):
        paths = sorted(Path(sys.argv[1], RESULTS).glob(f"{dataset}-*.json"), key=lambda path: path.stem)
        write([json.loads(path.read_text(encoding="utf-8")) for path in paths], path_of(dataset))
        sys.stderr.write(f"{path_of(dataset)}: {len(paths)} results, {path_of(dataset).stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
