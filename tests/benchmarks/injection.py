"""Measuring what happens inside a stage that DVC runs: a clone's stage first calls ``install`` of a module beside this one."""

from __future__ import annotations

from pathlib import Path

MAIN = 'if __name__ == "__main__":\n'


def inject(clone: Path, stage: str, module: str) -> None:
    """Have the clone's stage call ``tests.benchmarks.<module>.install()`` before its work."""
    path = clone / f"stages/{stage}.py"
    path.write_text(path.read_text().replace(MAIN, f"{MAIN}    from tests.benchmarks import {module}\n\n    {module}.install()\n"))
