"""The diagnosis: rules from evidence to findings, asked in the order of decision, and the verdict that follows.

A rule is a pure function whose docstring is its explanation. It answers fired, silent or not applicable, so that
'nothing found' never means 'not looked at'.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from stages.shared.evidence import Evidence, untrained_loss
from stages.shared.params import Params
from stages.shared.rules import crash, data, generalisation, mode, optimisation, pace
from stages.shared.rules.outcome import Finding, Fix, Missing, Rule, name_of
from stages.shared.rules.scores import weighed
from stages.shared.rules.signals import chance_deviation, probe

ABOVE_GUESSING = 0.02  # of mean recall, by chance
# Between a healthy gap of accuracies and one that means overfitting; more validation images than these leave no doubt about it.
BORDER, FEW_IMAGES = 2 * generalisation.MIN_GAP, 100

# In the order of decision: how the run ended; splits and stream; images and answers treated unlike; nothing learned or unstable; the speed
# of learning; what of the data cannot break a training, but misleads about what it learned; generalisation; capacity.
RULES: tuple[Rule, ...] = (
    crash.data_rejected,
    crash.undecodable_image,
    crash.out_of_memory,
    crash.interrupted,
    crash.data_exhausted,
    data.bad_split,
    data.unshuffled_data,
    mode.wrong_input_range,
    mode.preprocessing_mismatch,
    mode.loss_mismatch,
    mode.label_order_mismatch,
    optimisation.non_finite_values,
    optimisation.nothing_trains,
    optimisation.destructive_fine_tuning,
    generalisation.final_not_best,
    optimisation.learning_rate_too_high,
    mode.batchnorm_mismatch,
    pace.learning_rate_collapsed,
    pace.unsuitable_optimizer,
    pace.learning_rate_too_low,
    data.leakage,
    data.label_noise,
    generalisation.over_regularised,
    generalisation.excessive_augmentation,
    data.class_imbalance,
    generalisation.frozen_augmentation,
    generalisation.insufficient_augmentation,
    generalisation.overfitting,
    pace.under_trained,
    generalisation.capacity_limited,
)


class Verdict(BaseModel):
    """verdict.json: what is wrong, how it is known, and what to change."""

    model_config = ConfigDict(frozen=True)

    verdict: str
    sentence: str
    findings: tuple[Finding, ...]
    silent: tuple[str, ...]
    not_applicable: dict[str, str]


def judge(evidence: Evidence, params: Params | None) -> Verdict:
    """Ask every rule; the likeliest finding comes first. ``params`` serve the fixes alone."""
    findings: list[Finding] = []
    silent: list[str] = []
    not_applicable: dict[str, str] = {}
    for rule in RULES:
        answer = _ask(rule, evidence, params)
        if isinstance(answer, Finding) and rule is generalisation.capacity_limited and findings:
            silent.append(name_of(rule))  # it is what remains when nothing else was found
        elif isinstance(answer, Finding):
            findings.append(answer)
        elif isinstance(answer, Missing):
            not_applicable[name_of(rule)] = answer.signal
        else:
            silent.append(name_of(rule))
    ordered = weighed(findings)
    verdict, sentence = _conclude(evidence, ordered)
    return Verdict(verdict=verdict, sentence=sentence, findings=ordered, silent=tuple(silent), not_applicable=not_applicable)


def _ask(rule: Rule, evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The rule's answer; evidence that makes no sense (of another version, or damaged) costs one rule, and not the verdict."""
    try:
        return rule(evidence, params)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        return Missing(f"figures that make sense ({type(error).__name__}: {error})")


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
    if found.macro_recall <= 1 / num_classes + ABOVE_GUESSING:
        recall = f"mean recall of the classes {found.macro_recall:.3f}"
        return "unknown", f"unknown: {figures}, {recall}: no better than guessing among {num_classes} classes; no rule found the reason."
    if found.accuracy_low <= 1 / num_classes:
        few = f"too few test images to tell it from guessing among {num_classes} classes. Give the test more (validate.test_fraction)."
        return "inconclusive", f"inconclusive: {figures}; {few}"
    if min((epoch.loss for epoch in evidence.train.epochs), default=0.0) >= untrained_loss(evidence.train):
        return "unknown", f"unknown: {figures}, although training loss never fell below that of guessing; no rule found the reason."
    if found.missed_gates:
        return "unknown", f"unknown: {figures}; gates missed: {', '.join(found.missed_gates)}; no rule found the reason."
    if doubt := _doubt(evidence):
        return "inconclusive", f"inconclusive: {figures}; {doubt}"
    return "healthy", f"healthy: {figures}; no rule found a fault."


def _doubt(evidence: Evidence) -> str | None:
    """Why too few validation images leave open whether the training images were learned by heart."""
    known, validated = probe(evidence.train, "A"), probe(evidence.train, "V")
    if evidence.train is None or known is None or validated is None or evidence.train.setup.num_val > FEW_IMAGES:
        return None
    gap, half_width = known.accuracy - validated.accuracy, 2 * chance_deviation(validated.num_images)
    if not gap - half_width < BORDER <= gap + half_width:
        return None
    return (
        f"accuracy is {gap:.2f} higher on training images than on {validated.num_images} of validation, give or take {half_width:.2f}: "
        "too few to tell healthy from overfitting. Give validation more images (validate.val_fraction)."
    )


def _advice(fix: Fix) -> str:
    first = next(iter(fix), None)
    if first is None:
        return ""
    return f" Try: {first['command']}" if "command" in first else f" To do: {first['action']}"
