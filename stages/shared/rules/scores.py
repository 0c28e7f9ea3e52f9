"""How likely each finding is the cause."""

from __future__ import annotations

from collections.abc import Sequence

from stages.shared.rules.outcome import Finding

# Of the runs of the benchmark's development set in which a rule fired first: the share in which it named the fault, by Laplace's rule of
# succession, (hits + 1) / (fired + 2). Fitted by ``python -m tests.benchmarks.diagnosis.fit``.
SCORES: dict[str, float] = {}
UNFITTED = 0.5


def weighed(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings in the order of decision, scored and the likeliest first.

    A finding is the cause with its rule's score if none before it is: so each gets its share of what the ones before have left.
    """
    left = 1.0
    scored = []
    for finding in findings:
        score = left * SCORES.get(finding.fault, UNFITTED)
        left -= score
        scored.append(finding.model_copy(update={"score": round(score, 3)}))
    return tuple(sorted(scored, key=lambda finding: -finding.score))
