"""Which files of this repository a module depends on, by reading its imports and the templates that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
# What a stage imports without its result depending on it: parameters have their own place in dvc.yaml, a path that changes shows in
# the outs, and the journal and Keras's callback only watch.
WITHOUT_EFFECT = {"stages.flight.record.journal", "stages.flight.record.keras_callback", "stages.shared.params", "stages.shared.paths"}
PAGES = Path("stages/shared/pages")


def path_of(module: str) -> Path | None:
    """The file of a first-party module, or None."""
    base = Path(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if (ROOT / path).is_file()), None)


def imported_modules(path: Path) -> set[str]:
    """First-party modules that a file imports anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return {name for name in names if name.startswith("stages.") and path_of(name)}


def dependencies(stage: str) -> set[str]:
    """Code and templates on which the result of a stage depends, transitively, itself included."""
    found: set[str] = set()
    todo = [f"stages.{stage}"]
    while todo:
        module = todo.pop()
        path = path_of(module)
        if path is None or str(path) in found or module in WITHOUT_EFFECT or not (ROOT / path).read_text().strip():
            continue
        found.add(str(path))
        found.update(templates(ROOT / path))
        todo.extend(imported_modules(path))
    return found


def templates(path: Path) -> set[str]:
    """Page templates that a file names, with those that they extend or import."""
    named = set(re.findall(r"\"(\w+\.html)\"", path.read_text(encoding="utf-8"))) - {"index.html"}
    for name in list(named):
        named |= templates(ROOT / PAGES / name)
    return {str(PAGES / Path(name).name) for name in named}
