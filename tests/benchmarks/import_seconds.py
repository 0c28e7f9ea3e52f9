"""Seconds until each stage's module is loaded, and what of it is heavy: ``python -m tests.benchmarks.import_seconds``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from tests.imports import ROOT
from tests.test_contract import HEAVY, STAGES, loaded_by

REPEATS = 5


def seconds(module: str) -> float:
    """Median wall time of a process that imports ``module`` and ends."""
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, capture_output=True, check=True)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    """Print the table, bare Python first."""
    sys.stdout.write(f"| module | seconds | loads |\n|---|---|---|\n| bare Python | {seconds('sys'):.2f} | |\n")
    for module in (*(f"stages.{stage}" for stage in STAGES), "stages.__main__", "stages.flight.cli"):
        loaded = loaded_by(module)
        heavy = ", ".join(name for name in HEAVY if name in loaded)
        sys.stdout.write(f"| {module} | {seconds(module):.2f} | {heavy} |\n")


if __name__ == "__main__":
    main()
