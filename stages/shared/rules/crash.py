"""Rules about runs that ended before their time."""

from __future__ import annotations

import math

from stages.shared.evidence import Evidence, Memory
from stages.shared.params import Params
from stages.shared.rules.outcome import Finding, Missing, change


def data_rejected(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Validation refused the data: training on it would be impossible or meaningless."""
    if evidence.data is None:
        return Missing("the summary of validate")
    if evidence.data.passed:
        return None
    failed = ", ".join(evidence.data.failed_checks)
    return Finding(
        fault="data-rejected",
        score=1.0,
        severity="critical",
        evidence={
            "num_ok": evidence.data.num_ok,
            "num_quarantined": evidence.data.num_quarantined,
            "failed_checks": failed,
        },
        explanation=f"validation refused the data ({failed}).",
        fix=({"action": "mend or remove the images listed in reports/validate/index.html, or correct ingest.source"},),
    )


def out_of_memory(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The process asked for more memory than there was."""
    if evidence.failure is None or evidence.failure.kind != "out-of-memory":
        return None
    trains = evidence.failure.stage in ("train", "evaluate") and params is not None and params.train.batch_size > 1
    memory = evidence.train.memory if evidence.train else None
    smaller = change(params, "train.batch_size", _smaller(params.train.batch_size, memory)) if trains and params is not None else None
    return Finding(
        fault="out-of-memory",
        score=1.0,
        severity="critical",
        evidence={"stage": evidence.failure.stage, "cause": evidence.failure.cause},
        explanation=f"{evidence.failure.stage} ran out of memory: {evidence.failure.cause}",
        fix=(smaller or {"action": "use smaller images, or a machine with more memory"},),
    )


def _smaller(batch_size: int, memory: Memory | None) -> int:
    """Half of the batch, or the largest power of two that was estimated to fit."""
    half = batch_size // 2
    return min(half, 2 ** int(math.log2(memory.largest_batch))) if memory is not None and memory.largest_batch else half


def interrupted(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """A signal or a lost machine ended the run, not its own doing."""
    if evidence.failure is None or evidence.failure.kind not in ("killed", "terminated", "interrupted", "lost"):
        return None
    return Finding(
        fault="interrupted",
        score=1.0,
        severity="warning",
        evidence={"stage": evidence.failure.stage, "kind": evidence.failure.kind, "cause": evidence.failure.cause},
        explanation=f"{evidence.failure.stage} was ended from outside: {evidence.failure.cause}",
        fix=({"action": "run it again: dvc repro"},),
    )
