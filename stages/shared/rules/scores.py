"""How likely each finding is the cause."""

from __future__ import annotations

from collections.abc import Sequence

from stages.shared.rules.outcome import Finding

# Of the benchmark's runs in which a rule fired first (held-out ones left out): the share in which it named the fault, by Laplace's rule of
# succession, (hits + 1) / (fired + 2). Fitted by ``python -m tests.benchmarks.diagnosis.fit``.
SCORES: dict[str, float] = {
    "data-rejected": 0.92,
    "undecodable-image": 0.88,
    "out-of-memory": 0.9,
    "interrupted": 0.9,
    "data-exhausted": 0.88,
    "bad-split": 0.9,
    "unshuffled-data": 0.88,
    "wrong-input-range": 0.92,
    "preprocessing-mismatch": 0.93,
    "loss-mismatch": 0.9,
    "label-order-mismatch": 0.88,
    "non-finite-values": 0.9,
    "nothing-trains": 0.88,
    "destructive-fine-tuning": 0.9,
    "final-not-best": 0.78,
    "learning-rate-too-high": 0.93,
    "batchnorm-mismatch": 0.88,
    "learning-rate-collapsed": 0.83,
    "unsuitable-optimizer": 0.9,
    "learning-rate-too-low": 0.92,
    "leakage": 0.8,
    "label-noise": 0.89,
    "over-regularised": 0.91,
    "excessive-augmentation": 0.91,
    "class-imbalance": 0.92,
    "frozen-augmentation": 0.8,
    "insufficient-augmentation": 0.88,
    "overfitting": 0.75,
    "under-trained": 0.9,
    "capacity-limited": 0.62,
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
