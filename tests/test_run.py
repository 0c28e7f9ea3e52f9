"""What a journal says of a run's end, in all the ways in which one may end."""

from __future__ import annotations

from typing import Any

import pytest

from stages.flight.runs.run import failure, status

OOM_LINES = "loading\nterminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc"
GRAPH_STORY = "Graph execution error:\n\nDetected at node Relu6 defined at\n  OOM when allocating tensor with shape[2048,96,112,112]\n"

CHATTER = "E0000 00:00:1795619339.753581   10138 cuda_platform.cc:52] failed call to cuInit: UNKNOWN ERROR (303)"


def ending(**fields: Any) -> dict[str, Any]:
    return {"type": "stage-end", "stage": "train", "exit_code": None, "signal": None, "oom_kills": 0, "last_lines": "", **fields}


def told(kind: str, error: str, message: str) -> dict[str, Any]:
    return {"type": "failure", "stage": "train", "kind": kind, "error": error, "message": message, "traceback": "Traceback"}


SIGTERM = {"type": "signal", "stage": "train", "signal": 15}
ORPHAN = {"type": "orphan", "stage": "train", "cause": "dvc ended", "kind": "terminated"}


@pytest.mark.parametrize(
    ("records", "kind", "cause", "shown"),
    [
        ([ending(exit_code=0)], None, None, "FINISHED"),
        ([ending(exit_code=3, last_lines="first\nlast")], "exception", "exit code 3: last", "FAILED"),
        ([ending(exit_code=3, last_lines=f"reason\n{CHATTER}")], "exception", "exit code 3: reason", "FAILED"),
        ([ending(signal=9, oom_kills=1, last_lines=CHATTER)], "out-of-memory", "for lack of memory (SIGKILL)", "FAILED"),
        ([ending(exit_code=3)], "exception", "exit code 3: and wrote nothing to standard error", "FAILED"),
        ([ending(exit_code=0, kind="exception", cause="before its work was done")], "exception", "before its work was done", "FAILED"),
        ([ending(signal=9)], "killed", "ended by SIGKILL", "KILLED"),
        ([ending(signal=9, oom_kills=1)], "out-of-memory", "the system killed it", "FAILED"),
        (
            [told("exception", "ValueError", "wrong"), ending(exit_code=1, oom_kills=1)],
            "exception",
            "ValueError: wrong",
            "FAILED",
        ),
        ([ending(signal=6, last_lines=OOM_LINES)], "out-of-memory", "bad_alloc", "FAILED"),
        (
            [told("out-of-memory", "ResourceExhaustedError", GRAPH_STORY), ending(exit_code=1)],
            "out-of-memory",
            "ResourceExhaustedError: OOM when allocating tensor with shape[2048,96,112,112]",
            "FAILED",
        ),
        ([ending(signal=11)], "exception", "ended by SIGSEGV", "FAILED"),
        ([ending(signal=40)], "exception", "ended by signal 40", "FAILED"),
        ([ending(signal=2)], "interrupted", "ended by SIGINT", "KILLED"),
        ([told("exception", "ValueError", "wrong"), ending(exit_code=1)], "exception", "ValueError: wrong", "FAILED"),
        ([told("rejected-data", "RejectedDataError", "bad"), ending(exit_code=1)], "rejected-data", "RejectedDataError: bad", "FAILED"),
        ([SIGTERM, told("exception", "ImportError", "while loading"), ending(exit_code=1)], "terminated", "ended by SIGTERM", "KILLED"),
        ([ORPHAN, SIGTERM, ending(signal=15)], "terminated", "dvc ended", "KILLED"),
        ([ORPHAN, ending(exit_code=0)], "terminated", "dvc ended", "KILLED"),
        ([ending(kind="lost", cause="everything ended at once")], "lost", "everything ended at once", "KILLED"),
    ],
)
def test_kind_cause_and_status(records: list[dict[str, Any]], kind: str | None, cause: str | None, shown: str) -> None:
    found = failure(records)
    assert status(found) == shown
    if kind is None or cause is None:
        assert found is None
    else:
        assert found is not None
        assert (found["stage"], found["kind"]) == ("train", kind)
        assert cause in found["cause"]


def test_the_first_stage_that_failed_counts() -> None:
    found = failure([{**ending(exit_code=0), "stage": "prepare"}, ending(exit_code=1), {**ending(signal=9), "stage": "evaluate"}])
    assert found is not None
    assert found["stage"] == "train"
