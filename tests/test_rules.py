"""Each rule where it fires, nearly fires and cannot look; the verdict; evidence that is cut off or not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from stages.shared import diagnosis, evidence
from stages.shared.evidence import (
    AugmentEvidence,
    ClassResult,
    DataEvidence,
    Epoch,
    EvaluateEvidence,
    Evidence,
    Failure,
    NonFinite,
    Probe,
    Setup,
    Step,
    TrainEvidence,
    from_parts,
)
from stages.shared.params import load
from stages.shared.rules import RULES, Verdict, judge, name_of
from stages.shared.rules.outcome import Finding, Missing
from tests.tiny import ROOT

PARAMS = load(ROOT / "params.yaml")
CHANCE_LOSS = math.log(10)
NAN, INF = float("nan"), float("inf")


def setup(num_classes: int = 10) -> Setup:
    return Setup(
        num_classes=num_classes,
        num_train=3200,
        num_val=600,
        batch_size=32,
        steps_per_epoch=100,
        pretrained=False,
        num_trainable=400_000,
        optimizer="adam",
    )


def epochs(
    losses: list[float], val_losses: list[float] | None = None, accuracy: float = 0.9, val_accuracy: float = 0.88
) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(phase="head", epoch=i, loss=loss, accuracy=accuracy, val_loss=val_loss, val_accuracy=val_accuracy, learning_rate=3e-3)
        for i, (loss, val_loss) in enumerate(zip(losses, val_losses or losses, strict=True))
    )


def steps(ratios: list[float], losses: list[float] | None = None, phase: str = "head") -> tuple[Step, ...]:
    seen = losses or [1.0] * len(ratios)
    return tuple(
        Step(phase=phase, epoch=0, step=i, loss=loss, update_ratio=ratio) for i, (ratio, loss) in enumerate(zip(ratios, seen, strict=True))
    )


PROBES = tuple(Probe(name=name, loss=0.3, accuracy=0.9, num_images=256) for name in ("A", "A_augmented", "V"))


def train(**changes: Any) -> TrainEvidence:
    """A training that learned well, with some parts replaced."""
    healthy: dict[str, Any] = {
        "setup": setup(),
        "epochs": epochs([1.5, 0.9, 0.6, 0.5, 0.4]),
        "steps": steps([1e-3] * 8),
        "probes": PROBES,
    }
    return TrainEvidence(**{**healthy, **changes})


def classes(recall: float = 0.85, predicted: int = 10) -> tuple[ClassResult, ...]:
    common = (ClassResult(label=f"c{i}", num_images=60, recall=0.9, predicted=60) for i in range(9))
    return (*common, ClassResult(label="rare", num_images=10, recall=recall, predicted=predicted))


def evaluation(**changes: Any) -> EvaluateEvidence:
    good: dict[str, Any] = {
        "accuracy": 0.9,
        "accuracy_low": 0.87,
        "accuracy_high": 0.93,
        "macro_recall": 0.89,
        "macro_f1": 0.89,
        "classes": classes(),
        "missed_gates": (),
    }
    return EvaluateEvidence(**{**good, **changes})


def data(rare: int = 100, **changes: Any) -> DataEvidence:
    counts = {**{f"c{i}": 300 for i in range(9)}, "rare": rare}
    good: dict[str, Any] = {"passed": True, "num_ok": 4000, "num_quarantined": 3, "train_counts": counts, "failed_checks": ()}
    return DataEvidence(**{**good, **changes})


def healthy(**changes: Any) -> Evidence:
    """The evidence of a run without fault, with some parts replaced."""
    parts: dict[str, Any] = {
        "data": data(),
        "augment": AugmentEvidence(mean_displacement=0.04, mean_share_outside=0.01, balancing="none"),
        "train": train(),
        "evaluate": evaluation(),
    }
    return Evidence(**{**parts, **changes})


def failed(kind: str, cause: str = "the cause") -> Failure:
    return Failure(stage="train", kind=kind, cause=cause)


IMBALANCED = {"data": data(rare=50), "evaluate": evaluation(macro_recall=0.8, classes=classes(recall=0.1, predicted=2))}
HIGH_RATIOS = steps([0.2, 5e-2, 2e-2])
ADAMS_FIRST_STEPS = steps([0.032, 0.02, 0.01, 5e-3, 3e-3, 2e-3, 2e-3])
STUCK = [2.29, 2.28, 2.28, 2.27, 2.27]
FALLING = [1.5, 0.8, 0.4, 0.2, 0.1, 0.05]
RISING = [1.0, 0.7, 0.8, 0.9, 1.0, 1.2]


def overfitted(**changes: Any) -> TrainEvidence:
    values = {"losses": FALLING, "val_losses": RISING, "accuracy": 0.99, "val_accuracy": 0.75, **changes}
    found = (("A", values["accuracy"]), ("V", values["val_accuracy"]))
    probes = tuple(Probe(name=name, loss=0.3, accuracy=accuracy, num_images=256) for name, accuracy in found)
    return train(epochs=epochs(**values), probes=probes)


FIRES = {
    "data-rejected": [healthy(data=data(passed=False, failed_checks=("class-set",)), train=None, evaluate=None)],
    "out-of-memory": [healthy(failure=failed("out-of-memory"))],
    "interrupted": [healthy(failure=failed(kind)) for kind in ("killed", "terminated", "interrupted", "lost")],
    "learning-rate-too-high": [
        healthy(train=train(epochs=epochs([2.4, 40.0, 900.0]), steps=HIGH_RATIOS)),
        healthy(train=train(epochs=epochs(STUCK), steps=HIGH_RATIOS)),
        healthy(train=train(epochs=(), steps=HIGH_RATIOS, non_finite=NonFinite(phase="head", epoch=0, step=9, loss=NAN))),
        healthy(train=train(steps=steps([5e-2, NAN]), non_finite=NonFinite(phase="head", epoch=0, step=9, loss=INF))),
    ],
    "non-finite-values": [healthy(train=train(non_finite=NonFinite(phase="head", epoch=1, step=9, loss=NAN)))],
    "learning-rate-too-low": [healthy(train=train(epochs=epochs(STUCK), steps=steps([1e-6] * 8)))],
    "class-imbalance": [healthy(**IMBALANCED)],
    "overfitting": [healthy(train=overfitted())],
}
NEAR_MISSES = {
    "data-rejected": [healthy(data=data(failed_checks=("near-duplicate",)))],
    "out-of-memory": [healthy(failure=failed("killed")), healthy()],
    "interrupted": [healthy(failure=failed("exception")), healthy()],
    "learning-rate-too-high": [
        healthy(train=train(steps=HIGH_RATIOS)),  # large updates, but it learned
        healthy(train=train(epochs=epochs(STUCK), steps=ADAMS_FIRST_STEPS)),
        healthy(train=train(epochs=epochs(STUCK), steps=steps([9e-3] * 8))),  # did not learn, but with ordinary updates
    ],
    "non-finite-values": [
        healthy(),
        healthy(train=train(steps=HIGH_RATIOS, non_finite=NonFinite(phase="head", epoch=1, step=9, loss=NAN))),
    ],
    "learning-rate-too-low": [
        healthy(train=train(epochs=epochs(STUCK), steps=steps([1e-3] * 8))),  # did not learn, with ordinary updates
        healthy(train=train(epochs=epochs([0.45, 0.44, 0.43]), steps=steps([1e-6] * 8))),  # small updates, but it learned
        healthy(train=train(epochs=epochs([2.4, 2.2, 2.1, 1.9]), steps=steps([5e-5] * 8))),  # still falling fast
    ],
    "class-imbalance": [
        healthy(**{**IMBALANCED, "data": data(rare=101)}),  # 300 : 101
        healthy(**{**IMBALANCED, "evaluate": evaluation(macro_recall=0.86, classes=classes(recall=0.1, predicted=2))}),
        healthy(**{**IMBALANCED, "evaluate": evaluation(macro_recall=0.8, classes=classes(recall=0.3, predicted=2))}),
        healthy(**{**IMBALANCED, "evaluate": evaluation(macro_recall=0.8, classes=classes(recall=0.1, predicted=10))}),
    ],
    "overfitting": [
        healthy(train=overfitted(val_accuracy=0.9)),  # gap 0.09
        healthy(train=overfitted(val_losses=[1.0, 0.7, 0.72, 0.73, 0.74, 0.76])),  # rises by less than a tenth
        healthy(train=overfitted(val_losses=[1.2, 1.1, 1.0, 0.9, 0.7, 1.2])),  # lowest near the end
        healthy(train=overfitted(losses=[1.5, 0.5, 0.7, 0.8, 0.9, 1.0])),  # training loss rises too
    ],
}
NOT_APPLICABLE = {
    "data-rejected": [healthy(data=None)],
    "learning-rate-too-high": [healthy(train=None), healthy(train=train(steps=()))],
    "non-finite-values": [healthy(train=None)],
    "learning-rate-too-low": [healthy(train=None), healthy(train=train(epochs=epochs([1.0]))), healthy(train=train(steps=()))],
    "class-imbalance": [healthy(data=None), healthy(evaluate=None), healthy(data=data(train_counts={}))],
    "overfitting": [healthy(train=None), healthy(train=train(epochs=epochs([1.0] * 3))), healthy(train=train(probes=PROBES[:1]))],
}
RULE = {name_of(rule): rule for rule in RULES}


def cases(table: dict[str, list[Evidence]]) -> list[Any]:
    return [pytest.param(name, case, id=f"{name}-{i}") for name, found in table.items() for i, case in enumerate(found)]


def finding(answer: Finding | Missing | None) -> Finding:
    assert isinstance(answer, Finding)
    return answer


def test_every_rule_has_cases() -> None:
    assert set(FIRES) == set(NEAR_MISSES) == set(RULE)
    # How a run ended is always known.
    assert set(NOT_APPLICABLE) == set(RULE) - {"out-of-memory", "interrupted"}


@pytest.mark.parametrize("params", [PARAMS, None], ids=["params", "no-params"])
@pytest.mark.parametrize(("name", "case"), cases(FIRES))
def test_rule_fires(name: str, case: Evidence, params: Any, tmp_path: Path) -> None:
    found = finding(RULE[name](case, params))
    assert found.fault == name
    assert 0 < found.score <= 1
    assert found.explanation
    assert found.fix
    for fix in found.fix:
        assert "action" in fix or fix["command"].startswith(f"dvc exp run -S {fix['param']}=")
    verdict = judge(case, params)
    assert verdict.verdict == name
    assert verdict.sentence.startswith(f"{name}: ")
    diagnosis.write(verdict, case, tmp_path)
    assert json.loads((tmp_path / "verdict.json").read_text())["findings"][0]["fault"] == name
    assert name in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize(("name", "case"), cases(NEAR_MISSES))
def test_rule_is_silent_at_a_near_miss(name: str, case: Evidence) -> None:
    assert RULE[name](case, PARAMS) is None
    assert name in judge(case, PARAMS).silent


@pytest.mark.parametrize(("name", "case"), cases(NOT_APPLICABLE))
def test_rule_says_which_signal_it_lacked(name: str, case: Evidence) -> None:
    answer = RULE[name](case, PARAMS)
    assert isinstance(answer, Missing)
    assert judge(case, PARAMS).not_applicable[name] == answer.signal


def test_rules_explain_themselves() -> None:
    assert all(rule.__doc__ for rule in RULES)


# Fixes


def test_fixes_start_from_the_present_value() -> None:
    fix = finding(RULE["learning-rate-too-high"](FIRES["learning-rate-too-high"][0], PARAMS)).fix[0]
    assert fix == {"param": "train.learning_rate", "from": 3e-3, "to": 3e-4, "command": "dvc exp run -S train.learning_rate=0.0003"}
    batch = finding(RULE["out-of-memory"](FIRES["out-of-memory"][0], PARAMS)).fix[0]
    assert (batch["param"], batch["from"], batch["to"]) == ("train.batch_size", 32, 16)


def test_the_rate_of_the_phase_that_was_reached_is_changed() -> None:
    fine_tuning = train(epochs=epochs([2.4, 40.0, 900.0]), steps=(*HIGH_RATIOS, *steps([5e-2], phase="fine-tune")))
    fix = finding(RULE["learning-rate-too-high"](healthy(train=fine_tuning), PARAMS)).fix[0]
    assert (fix["param"], fix["to"]) == ("train.fine_tune_learning_rate", 1e-6)


def test_imbalance_that_weights_did_not_mend_gets_other_advice() -> None:
    weighted = AugmentEvidence(mean_displacement=0.04, mean_share_outside=0.01, balancing="class_weight")
    assert finding(RULE["class-imbalance"](healthy(**IMBALANCED), PARAMS)).fix[0]["to"] == "class_weight"
    assert finding(RULE["class-imbalance"](healthy(**IMBALANCED, augment=weighted), PARAMS)).fix[0]["to"] == "oversample"


def test_weak_augmentation_is_strengthened_against_overfitting() -> None:
    weak = AugmentEvidence(mean_displacement=0.001, mean_share_outside=0.0, balancing="none")
    advice = {
        strength: [fix["param"] for fix in finding(RULE["overfitting"](case, PARAMS)).fix]
        for strength, case in (("weak", healthy(train=overfitted(), augment=weak)), ("strong", healthy(train=overfitted())))
    }
    assert "augment.rotation_degrees" in advice["weak"]
    assert "augment.rotation_degrees" not in advice["strong"]


# Verdict


def test_healthy_evidence_is_healthy() -> None:
    verdict = judge(healthy(), PARAMS)
    assert verdict.verdict == "healthy"
    assert verdict.findings == ()
    assert verdict.not_applicable == {}
    assert set(verdict.silent) == set(RULE)
    assert "0.900" in verdict.sentence


def test_a_missed_gate_without_a_finding_is_unknown() -> None:
    verdict = judge(healthy(evaluate=evaluation(missed_gates=("accuracy 0.900",))), PARAMS)
    assert verdict.verdict == "unknown"
    assert "accuracy 0.900" in verdict.sentence


def test_a_failure_without_a_finding_is_unknown_and_names_the_cause() -> None:
    verdict = judge(healthy(failure=failed("exception", "ValueError: no such thing")), PARAMS)
    assert verdict.verdict == "unknown"
    assert "train failed (exception): ValueError: no such thing" in verdict.sentence


@pytest.mark.parametrize("part", ["train", "evaluate"])
def test_what_was_not_reached_is_not_called_healthy(part: str) -> None:
    assert judge(healthy(**{part: None}), PARAMS).verdict == "unknown"


def test_findings_come_in_the_order_of_decision() -> None:
    verdict = judge(healthy(**IMBALANCED, train=overfitted(), failure=failed("killed")), PARAMS)
    assert [found.fault for found in verdict.findings] == ["interrupted", "class-imbalance", "overfitting"]
    assert verdict.verdict == "interrupted"
    assert not set(verdict.silent) & {"interrupted", "class-imbalance", "overfitting"}


def test_every_rule_is_accounted_for_in_any_verdict() -> None:
    for case in (*(case for found in FIRES.values() for case in found), Evidence()):
        verdict = judge(case, PARAMS)
        names = [*(found.fault for found in verdict.findings), *verdict.silent, *verdict.not_applicable]
        assert sorted(names) == sorted(RULE)


# Evidence


def test_nan_and_infinity_survive_json() -> None:
    broken = train(
        epochs=epochs([NAN, INF, 1.0], [INF, NAN, -INF]),
        steps=steps([NAN, INF, 1e-3], [INF, NAN, 0.5]),
        probes=(Probe(name="A", loss=INF, accuracy=0.1, num_images=3),),
        non_finite=NonFinite(phase="head", epoch=2, step=7, loss=NAN),
    )
    values = broken.model_dump(mode="json")
    text = json.dumps(values, allow_nan=False)
    for read in (TrainEvidence.model_validate_json(text), TrainEvidence.model_validate(json.loads(text))):
        assert repr(read) == repr(broken)
        assert read.non_finite is not None
        assert math.isnan(read.non_finite.loss)
        assert read.epochs[1].loss == INF
        assert read.epochs[2].val_loss == -INF


def test_fields_of_a_later_version_are_left_aside() -> None:
    values = train().model_dump(mode="json")
    values["version"], values["later"] = 2, {"x": 1}
    values["epochs"][0]["gradient"] = 3
    assert TrainEvidence.model_validate(values).epochs == train().epochs


def as_part(name: str, value: BaseModel) -> tuple[str, dict[str, Any]]:
    return name, value.model_dump(mode="json")


def parts_of(found: TrainEvidence) -> list[tuple[str, dict[str, Any]]]:
    """What the collector hands out over a training: setup, steps and their epoch, in turn, then the rest."""
    per_epoch = max(1, len(found.steps) // max(1, len(found.epochs)))
    parts = [as_part("setup", found.setup)]
    left = list(found.steps)
    for epoch in found.epochs:
        parts += [as_part("step", step) for step in left[:per_epoch]]
        del left[:per_epoch]
        parts.append(as_part("epoch", epoch))
    parts += [as_part("step", step) for step in left]
    parts += [as_part("non_finite", found.non_finite)] if found.non_finite else []
    return parts + [as_part("probe", probe) for probe in found.probes]


DIVERGED = train(
    epochs=epochs([900.0], [NAN]),
    steps=steps([5e-2, NAN], [INF, NAN]),
    probes=(),
    non_finite=NonFinite(phase="head", epoch=1, step=0, loss=NAN),
)
AT_ONCE = train(epochs=(), steps=steps([INF], [INF]), probes=(), non_finite=NonFinite(phase="head", epoch=0, step=0, loss=INF))
VALIDATION_BROKE = overfitted(val_losses=[1.0, 0.7, 0.8, 0.9, INF, INF])
VALIDATION_NAN = overfitted(val_losses=[1.0, 0.7, 0.8, 0.9, 1.0, NAN])
VALIDATION_NEVER = overfitted(val_losses=[NAN] * 6)
EMPTY_FIRST_STEPS = train(epochs=epochs(STUCK), steps=steps([0.0] * 8))


@pytest.mark.parametrize(
    "whole",
    [train(), overfitted(), DIVERGED, AT_ONCE, VALIDATION_BROKE, VALIDATION_NAN, VALIDATION_NEVER, EMPTY_FIRST_STEPS],
    ids=["healthy", "overfitted", "diverged", "at-once", "validation-broke", "validation-nan", "validation-never", "no-updates"],
)
def test_evidence_cut_off_anywhere_can_be_judged_and_written(whole: TrainEvidence, tmp_path: Path) -> None:
    parts = parts_of(whole)
    assert from_parts([]) is None
    assert repr(from_parts(parts)) == repr(whole)
    for length in range(len(parts) + 1):
        found = from_parts(parts[:length])
        assert (found is None) == (length == 0)
        for failure in (failed("killed"), None):
            case = healthy(train=found, evaluate=None, failure=failure)
            verdict = judge(case, PARAMS)
            assert isinstance(verdict, Verdict)
            if failure:
                assert "interrupted" in {entry.fault for entry in verdict.findings}
            diagnosis.write(verdict, case, tmp_path)
    # What the stage wrote as a file is read back the same.
    assert repr(TrainEvidence.model_validate_json(whole.model_dump_json())) == repr(whole)


def test_parts_of_an_unknown_kind_are_left_aside() -> None:
    assert from_parts([("later", {"x": 1}), *parts_of(train())]) == train()


def test_gather_finds_what_lies_there(tmp_path: Path) -> None:
    assert evidence.gather(tmp_path) == Evidence()
    (tmp_path / "train").mkdir()
    (tmp_path / "train/evidence.json").write_text(train().model_dump_json())
    assert evidence.gather(tmp_path).train == train()
    from_journal, failure = train(probes=()), failed("killed")
    assert evidence.gather(tmp_path, from_journal, failure) == Evidence(train=from_journal, failure=failure)


@pytest.mark.parametrize("name", ["validate/summary.json", "augment/summary.json", "train/evidence.json", "evaluate/metrics.json"])
def test_half_a_report_counts_as_absent(tmp_path: Path, name: str) -> None:
    """A stage that is killed while it writes leaves a file cut off, and others missing."""
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text('{"passed": tr')
    assert evidence.gather(tmp_path) == Evidence()
    (tmp_path / name).write_text("{}")
    assert evidence.gather(tmp_path) == Evidence()
