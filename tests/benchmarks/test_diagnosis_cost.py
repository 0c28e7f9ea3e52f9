"""What the evidence for the diagnosis costs a training: the time inside its callbacks and probes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.benchmarks.overhead import measure

pytestmark = pytest.mark.slow
MOST, LEAST_SECONDS = 0.02, 180


def test_cost_of_the_evidence(tmp_path: Path) -> None:
    """On the sample as it is, trained for long enough; what the first call of a part takes more than the others is tracing, once."""
    clone = tiny.make(tmp_path / "clone")
    tiny.set_params(clone, {"ingest.source": "data/sample/fashion_mnist.zip", "prepare.image_size_px": 48, "train.epochs": 45})
    tiny.run(clone, "dvc", "repro", "train")
    tiny.wait_for_recorders(clone)
    found = measure(clone)
    seconds = found["total"]["seconds"]
    firsts = {name: calls[0] - min(calls) if len(calls) > 1 else 0.0 for name, calls in found["calls"].items()}
    spent = {name: sum(calls) - firsts[name] for name, calls in found["calls"].items()}
    print(f"\n{seconds:.0f} s of training, {sum(spent.values()) / seconds:.2%} of it for evidence and record")  # noqa: T201
    print(f"  and once, in first calls: {sum(firsts.values()):.1f} s")  # noqa: T201
    for name, value in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {name}: {value / seconds:.2%} in {len(found['calls'][name])} calls, first {found['calls'][name][0]:.2f} s")  # noqa: T201
    assert seconds >= LEAST_SECONDS
    assert sum(spent.values()) / seconds <= MOST
