"""How likely each finding is the cause."""

from __future__ import annotations

from collections.abc import Sequence

from stages.shared.rules.outcome import Finding

# Of the runs of the benchmark's development set in which a rule fired first: the share in which it named the fault, by Laplace's rule of
# succession, (hits + 1) / (fired + 2). Fitted by ``python -m tests.benchmarks.diagnosis.fit``.
SCORES: dict[str, float] = {
    "data-rejected": 0.86,
    "undecodable-image": 0.8,
    "out-of-memory": 0.83,
    "interrupted": 0.83,
    "data-exhausted": 0.8,
    "bad-split": 0.83,
    "unshuffled-data": 0.8,
    "wrong-input-range": 0.86,
    "preprocessing-mismatch": 0.86,
    "loss-mismatch": 0.83,
    "label-order-mismatch": 0.8,
    "non-finite-values": 0.83,
    "nothing-trains": 0.8,
    "destructive-fine-tuning": 0.83,
    "final-not-best": 0.8,
    "learning-rate-too-high": 0.88,
    "batchnorm-mismatch": 0.8,
    "learning-rate-collapsed": 0.75,
    "unsuitable-optimizer": 0.83,
    "learning-rate-too-low": 0.86,
    "leakage": 0.75,
    "label-noise": 0.83,
    "over-regularised": 0.86,
    "excessive-augmentation": 0.86,
    "class-imbalance": 0.86,
    "frozen-augmentation": 0.67,
    "insufficient-augmentation": 0.75,
    "overfitting": 0.75,
    "under-trained": 0.83,
    "capacity-limited": 0.75,
}


def weighed(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Findings in the order of decision, scored and the likeliest first.

    A finding is the cause with its rule's score if none before it is: so each gets its share of what the ones before have left.
    """
    left = 1.0
    scored = []
    for finding in findings:
        score = left * SCORES[finding.fault]
        left -= score
        scored.append(finding.model_copy(update={"score": round(score, 3)}))
    return tuple(sorted(scored, key=lambda finding: -finding.score))
