"""What is slow is made once: a tiny clone in which the whole pipeline has run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny clone after ``dvc repro``, its run shipped to MLflow. Tests read it; who changes something takes a copy."""
    folder = tiny.make(tmp_path_factory.mktemp("trained") / "clone")
    tiny.run(folder, "dvc", "repro")
    tiny.wait_for_recorders(folder)
    return folder


@pytest.fixture
def clone(trained: Path, tmp_path: Path) -> Path:
    """A copy of ``trained`` with its DVC cache and without records of runs."""
    return tiny.copy(trained, tmp_path / "clone")
