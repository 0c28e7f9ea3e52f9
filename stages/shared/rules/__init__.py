"""The diagnosis: rules from evidence to findings, asked in the order of decision, and the verdict that follows.

A rule is a pure function whose docstring is its explanation. It answers fired, silent or not applicable, so that
'nothing found' never means 'not looked at'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from stages.shared.evidence import Evidence
from stages.shared.params import Params
from stages.shared.rules import crash, generalisation, optimisation
from stages.shared.rules.outcome import Finding, Missing, Rule

RULES: tuple[Rule, ...] = (
    crash.data_rejected,
    crash.out_of_memory,
    crash.interrupted,
    optimisation.learning_rate_too_high,
    optimisation.non_finite_values,
    optimisation.learning_rate_too_low,
    generalisation.class_imbalance,
    generalisation.overfitting,
)


class Verdict(BaseModel):
    """verdict.json: what is wrong, how it is known, and what to change."""

    model_config = ConfigDict(frozen=True)

    verdict: str
    sentence: str
    findings: tuple[Finding, ...]
    silent: tuple[str, ...]
    not_applicable: dict[str, str]


def name_of(rule: Rule) -> str:
    """The fault that a rule looks for, as it is written: ``class-imbalance``."""
    return rule.__name__.replace("_", "-")


def judge(evidence: Evidence, params: Params | None) -> Verdict:
    """Ask every rule; findings come in the order of decision. ``params`` serve the fixes alone."""
    findings: list[Finding] = []
    silent: list[str] = []
    not_applicable: dict[str, str] = {}
    for rule in RULES:
        answer = rule(evidence, params)
        if isinstance(answer, Finding):
            findings.append(answer)
        elif isinstance(answer, Missing):
            not_applicable[name_of(rule)] = answer.signal
        else:
            silent.append(name_of(rule))
    verdict, sentence = _conclude(evidence, findings)
    return Verdict(
        verdict=verdict,
        sentence=sentence,
        findings=tuple(findings),
        silent=tuple(silent),
        not_applicable=not_applicable,
    )


def _conclude(evidence: Evidence, findings: Sequence[Finding]) -> tuple[str, str]:
    if findings:
        first = findings[0]
        return first.fault, f"{first.fault}: {first.explanation}{_advice(first.fix)}"
    if evidence.failure is not None:
        failure = evidence.failure
        return "unknown", f"unknown: {failure.stage} failed ({failure.kind}): {failure.cause}"
    if evidence.train is None or evidence.evaluate is None:
        return "unknown", "unknown: the run has not been trained and evaluated, so there is nothing to judge yet."
    found = evidence.evaluate
    figures = f"test accuracy {found.accuracy:.3f} ({found.accuracy_low:.3f} to {found.accuracy_high:.3f})"
    num_classes = evidence.train.setup.num_classes
    if found.accuracy_low <= 1 / num_classes:
        return "unknown", f"unknown: {figures}, no better than guessing among {num_classes} classes; no rule found the reason."
    if found.missed_gates:
        return "unknown", f"unknown: {figures}; gates missed: {', '.join(found.missed_gates)}; no rule found the reason."
    return "healthy", f"healthy: {figures}; no rule found a fault."


def _advice(fix: Sequence[dict[str, Any]]) -> str:
    first = next(iter(fix), None)
    if first is None:
        return ""
    return f" Try: {first['command']}" if "command" in first else f" To do: {first['action']}"
