"""The names and the structure that other programs, and the next developer, rely on."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.flight.record import names
from stages.shared import params, paths
from tests.imports import ROOT, dependencies, imported_modules, path_of

STAGES = ("ingest", "validate", "prepare", "augment", "train", "evaluate", "diagnose")
HEAVY = ("tensorflow", "keras", "mlflow", "great_expectations", "pandas", "sklearn", "scipy", "pyarrow", "PIL", "numpy", "pydantic")
# What each bare stage may load when its module is imported; whatever else it needs it loads at work.
LOADED = {
    "ingest": {"pydantic"},
    "validate": {"numpy", "pandas", "PIL", "pyarrow", "pydantic", "scipy"},
    "prepare": {"numpy", "pandas", "PIL", "pyarrow", "pydantic"},
    "augment": {"numpy", "PIL", "pydantic"},
    "train": {"numpy", "PIL", "pydantic", "keras", "tensorflow", "pandas", "pyarrow", "scipy", "sklearn"},  # the last four by TensorFlow
    "evaluate": {"numpy", "PIL", "pydantic"},
    "diagnose": {"pydantic"},
}


@pytest.fixture(scope="module")
def pipeline() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])


def test_stages_are_named_and_ordered_as_everywhere(pipeline: dict[str, Any]) -> None:
    assert tuple(pipeline) == STAGES == names.STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_lists_the_code_that_a_stage_depends_on(pipeline: dict[str, Any], stage: str) -> None:
    listed = {dep for dep in pipeline[stage]["deps"] if dep.startswith("stages/")}
    assert listed == dependencies(stage)
    assert "requirements.lock" in pipeline[stage]["deps"]
    assert pipeline[stage]["cmd"] == f"python -m stages {stage}"


def test_paths_are_the_arrows_of_dvc_yaml(pipeline: dict[str, Any]) -> None:
    constants = {str(value) for name, value in vars(paths).items() if name.isupper() and name not in ("PARAMS", "SPLITS")}
    outs = {out for stage in pipeline.values() for out in stage["outs"]}
    assert constants == outs
    for number, stage in enumerate(STAGES):
        made_before = {out for earlier in STAGES[:number] for out in pipeline[earlier]["outs"]}
        for dep in pipeline[stage]["deps"]:
            if dep.startswith(("data/", "reports/")):
                assert any(dep == out or dep.startswith(f"{out}/") for out in made_before), (
                    f"{stage} reads {dep}, which no earlier stage makes"
                )


def test_params_sections_are_stages_and_are_listed(pipeline: dict[str, Any]) -> None:
    sections = {field.alias or name for name, field in params.Params.model_fields.items()}
    assert sections == set(params.read_yaml(ROOT / "params.yaml")) == set(STAGES) - {"diagnose"}
    for stage in sections - {"evaluate"}:
        assert stage in pipeline[stage]["params"]
    assert pipeline["diagnose"]["params"] == [{"params.yaml": None}]


@pytest.mark.parametrize("stage", STAGES)
def test_params_that_a_stage_reads_are_listed(pipeline: dict[str, Any], stage: str) -> None:
    """Every ``params.<section>`` in a stage's module is covered by its ``params:`` in dvc.yaml."""
    listed = [entry for entry in pipeline[stage]["params"] if isinstance(entry, str)]
    source = (ROOT / f"stages/{stage}.py").read_text()
    main = source[source.index("def main(") :] + "".join(re.findall(r"def write\(params: Params.*?\n\n\n", source, re.DOTALL))
    read = {name.rstrip("_") for name in re.findall(r"(?:params|load\(paths\.PARAMS\))\.(\w+)", main)} & set(STAGES)
    sections = {entry.split(".")[0] for entry in listed}
    assert read <= sections or stage == "diagnose", f"{stage} reads {read}, dvc.yaml lists {listed}"


def test_imports_go_one_way() -> None:
    for path in sorted((ROOT / "stages").rglob("*.py")):
        relative = path.relative_to(ROOT)
        imported = imported_modules(relative)
        if relative.parts[1] == "shared":
            assert not [name for name in imported if not name.startswith("stages.shared")], relative
        elif relative.parts[1] == "flight":
            assert not [name for name in imported if name.split(".")[1] not in ("flight", "shared")], relative
        elif path.stem in STAGES:
            allowed = {"stages.flight.record", "stages.flight.record.journal"}
            allowed |= {"stages.flight.record.keras_callback"} if path.stem == "train" else set()
            others = [name for name in imported if not name.startswith("stages.shared") and name not in allowed]
            assert not others, relative


def test_only_files_named_so_import_mlflow() -> None:
    importing = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "stages").rglob("*.py")
        if re.search(r"^\s*(?:import|from) mlflow", path.read_text(), re.MULTILINE)
    }
    assert importing == {str(path.relative_to(ROOT)) for path in (ROOT / "stages/flight/record").glob("mlflow_*.py")}


def test_the_journal_needs_the_standard_library_alone() -> None:
    tree = ast.parse((ROOT / "stages/flight/record/journal.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules if module != "stages.flight.record.secrets"} <= sys.stdlib_module_names


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_loads_no_library_that_it_does_not_use(stage: str) -> None:
    assert loaded_by(f"stages.{stage}") == LOADED[stage]


@pytest.mark.parametrize("module", ["stages.__main__", "stages.flight.cli"])
def test_launcher_and_command_load_neither_tensorflow_nor_mlflow(module: str) -> None:
    assert not loaded_by(module) & {"tensorflow", "keras", "mlflow", "great_expectations", "pandas", "scipy"}


def test_each_stage_says_its_arrow() -> None:
    for stage in STAGES:
        path = path_of(f"stages.{stage}")
        assert path is not None
        docstring = ast.get_docstring(ast.parse((ROOT / path).read_text()))
        assert docstring is not None
        assert "→" in docstring.splitlines()[0]


def test_nothing_names_a_machine_or_a_package_index() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    unwanted = re.compile(r"https?://[^ \"']*/simple|" + re.escape(str(Path.home())) + r"/|" + re.escape(str(ROOT.parent)) + "/")
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".yaml", ".toml", ".lock", ".html", "", ".csv"}:
            found = unwanted.search(path.read_text(encoding="utf-8", errors="replace"))
            assert found is None, f"{name}: {found}"
