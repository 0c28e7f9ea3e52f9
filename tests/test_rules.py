"""Each rule where it fires, nearly fires and cannot look; the verdict; evidence that is cut off or not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from stages.shared import diagnosis, evidence
from stages.shared.evidence import Evidence, NonFinite, Part, Probe, TrainEvidence, from_parts, name_of
from stages.shared.params import load, parse, read_yaml
from stages.shared.rules import RULES, Verdict, judge, outcome
from stages.shared.rules.outcome import Finding, Missing
from stages.shared.rules.scores import SCORES
from tests.healthy_cases import HEALTHY
from tests.imports import ROOT
from tests.rule_cases import (
    DIVERGED_FINE_TUNING,
    FIRES,
    INF,
    NAN,
    NEAR_MISSES,
    NOT_APPLICABLE,
    VIOLENT,
    augmentation,
    classes,
    data,
    epochs,
    evaluation,
    failed,
    head_only,
    healthy,
    inputs,
    overfitted,
    probes,
    setup,
    steps,
    train,
)

PARAMS = load(ROOT / "params.yaml")
RULE = {outcome.name_of(rule): rule for rule in RULES}
# How a run ended is always known.
ALWAYS_APPLICABLE = {"out-of-memory", "interrupted", "undecodable-image"}


def cases(table: dict[str, list[Evidence]]) -> list[Any]:
    return [pytest.param(name, case, id=f"{name}-{i}") for name, found in table.items() for i, case in enumerate(found)]


def finding(answer: Finding | Missing | None) -> Finding:
    assert isinstance(answer, Finding)
    return answer


def test_every_rule_has_cases() -> None:
    assert set(FIRES) == set(NEAR_MISSES) == set(RULE)
    assert set(NOT_APPLICABLE) == set(RULE) - ALWAYS_APPLICABLE


@pytest.mark.parametrize("params", [PARAMS, None], ids=["params", "no-params"])
@pytest.mark.parametrize(("name", "case"), cases(FIRES))
def test_rule_fires(name: str, case: Evidence, params: Any, tmp_path: Path) -> None:
    found = finding(RULE[name](case, params))
    assert found.fault == name
    assert found.explanation
    assert found.fix
    for fix in found.fix:
        assert "action" in fix or f"-S {fix['param']}=" in fix["command"]
    verdict = judge(case, params)
    assert name in {entry.fault for entry in verdict.findings}
    assert verdict.sentence.startswith(f"{verdict.verdict}: ")
    diagnosis.write(verdict, case, tmp_path)
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == verdict.verdict
    page = (tmp_path / "index.html").read_text()
    assert f"<h1>{name}</h1>" in page or f"<h3>{name} " in page


@pytest.mark.parametrize(("name", "case"), [(name, found[0]) for name, found in FIRES.items()], ids=list(FIRES))
def test_the_plain_case_of_a_fault_is_its_verdict(name: str, case: Evidence) -> None:
    assert judge(case, PARAMS).verdict == name


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


def test_a_fix_starts_from_the_present_values_and_has_one_command() -> None:
    first, second = finding(RULE["learning-rate-too-high"](FIRES["learning-rate-too-high"][0], PARAMS)).fix
    assert (first["param"], first["from"]) == ("train.learning_rate", 3e-3)
    assert first["to"] <= 3e-4
    assert first["command"] == second["command"] == f"dvc exp run -S train.learning_rate={first['to']} -S train.clip_norm=1.0"
    batch, averaged = finding(RULE["out-of-memory"](FIRES["out-of-memory"][0], PARAMS)).fix
    assert (batch["param"], batch["from"], batch["to"]) == ("train.batch_size", 32, 16)
    assert (averaged["param"], averaged["to"]) == ("train.gradient_accumulation_steps", 2)


def test_what_is_so_already_is_no_change() -> None:
    kept = PARAMS.model_copy(update={"train": PARAMS.train.model_copy(update={"early_stopping_patience": 3, "dropout": 0.4})})
    assert outcome.changes(kept, {"train.dropout": 0.4, "train.early_stopping_patience": 3}) == ()
    (left,) = outcome.changes(kept, {"train.dropout": 0.4, "train.early_stopping_patience": None})
    assert left["command"] == "dvc exp run -S train.early_stopping_patience=null"


def test_the_rate_of_the_phase_that_was_reached_is_changed() -> None:
    fix = finding(RULE["learning-rate-too-high"](healthy(train=DIVERGED_FINE_TUNING), PARAMS)).fix[0]
    assert fix["param"] == "train.fine_tune_learning_rate"
    assert fix["to"] < 1e-6


def test_imbalance_that_oversampling_did_not_mend_gets_other_advice() -> None:
    case = FIRES["class-imbalance"][0]
    oversampled = case.model_copy(update={"augment": augmentation(balancing="oversample")})
    assert finding(RULE["class-imbalance"](case, PARAMS)).fix[0]["to"] == "oversample"
    assert "collect" in finding(RULE["class-imbalance"](oversampled, None)).fix[0]["action"]


def test_strengths_are_raised_and_never_lowered_against_overfitting() -> None:
    strong = PARAMS.model_copy(update={"augment": PARAMS.augment.model_copy(update={"rotation_degrees": 25.0})})
    found = finding(RULE["insufficient-augmentation"](FIRES["insufficient-augmentation"][0], strong))
    changed = {fix["param"]: (fix["from"], fix["to"]) for fix in found.fix}
    assert "augment.rotation_degrees" not in changed
    assert changed["augment.zoom"] == (0.04, 0.1)


EXTREMES: list[dict[str, Any]] = [
    {},
    {"train.epochs": 1, "train.batch_size": 1, "train.alpha": 1.4, "prepare.image_size_px": 512, "train.dropout": 0.9},
    {"train.warmup_epochs": 7, "train.epochs": 9, "train.clip_norm": 0.1, "train.alpha": 1.0, "prepare.image_size_px": 224},
    {"train.schedule": "plateau", "train.plateau_factor": 0.9, "train.plateau_patience": 9, "train.learning_rate": 1e-9},
    {
        "augment.rotation_degrees": 180.0,
        "augment.zoom": 0.99,
        "augment.mixup": 9.0,
        "augment.balancing": "oversample",
        "train.optimizer": "sgd",
    },
    {"train.fine_tune_learning_rate": 1e-9, "train.batchnorm_training": True, "train.fine_tune_fraction": 1.0, "train.momentum": 0.0},
]


@pytest.mark.parametrize("changed", EXTREMES, ids=[next(iter(changed), "shipped") for changed in EXTREMES])
@pytest.mark.parametrize(("name", "case"), cases(FIRES))
def test_a_fix_is_something_that_params_may_be(name: str, case: Evidence, changed: dict[str, Any]) -> None:
    """From wherever they are: allowed, together and from the shipped ones, and never what they are already."""
    values = with_changes(read_yaml(ROOT / "params.yaml"), changed)
    found = finding(RULE[name](case, parse(values)))
    assert found.fix
    fixed = {fix["param"]: fix["to"] for fix in found.fix if "param" in fix}
    parse(with_changes(values, fixed))
    assert all(fix["from"] != fix["to"] for fix in found.fix if "param" in fix)


def with_changes(values: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """A copy with other values by dotted name."""
    copy = {section: dict(keys) for section, keys in values.items()}
    for name, value in changed.items():
        section, key = name.split(".")
        copy[section][key] = value
    return copy


# Verdict


def test_healthy_evidence_is_healthy() -> None:
    verdict = judge(healthy(), PARAMS)
    assert verdict.findings == ()
    assert verdict.verdict == "healthy"
    assert verdict.not_applicable == {}
    assert set(verdict.silent) == set(RULE)
    assert "0.900" in verdict.sentence


@pytest.mark.parametrize("name", list(HEALTHY))
def test_what_looks_sick_and_is_not(name: str) -> None:
    verdict = judge(HEALTHY[name], PARAMS)
    assert [finding.fault for finding in verdict.findings] == []
    assert verdict.verdict == "healthy"


def test_a_missed_gate_without_a_finding_is_unknown() -> None:
    learning = train(epochs=(*epochs([1.5, 0.9, 0.6, 0.5, 0.4]), *epochs([0.5, 0.44, 0.4], phase="fine-tune", rates=[1e-5, 1e-6, 0.0])))
    gap = probes(A={"accuracy": 0.97, "loss": 0.3}, V={"accuracy": 0.89})
    verdict = judge(healthy(train=learning.model_copy(update={"probes": gap}), evaluate=evaluation(missed_gates=("accuracy 0.9",))), PARAMS)
    assert verdict.verdict == "unknown"
    assert "accuracy 0.9" in verdict.sentence


def test_a_failure_without_a_finding_is_unknown_and_names_the_cause() -> None:
    verdict = judge(healthy(failure=failed("exception", "ValueError: no such thing")), PARAMS)
    assert verdict.verdict == "unknown"
    assert "train failed (exception): ValueError: no such thing" in verdict.sentence


@pytest.mark.parametrize("part", ["train", "evaluate"])
def test_what_was_not_reached_is_not_called_healthy(part: str) -> None:
    assert judge(healthy(**{part: None}), PARAMS).verdict == "unknown"


def test_a_loss_that_never_fell_is_not_called_healthy() -> None:
    verdict = judge(healthy(train=train(epochs=(*epochs([2.4] * 5), *epochs([2.4] * 2, phase="fine-tune")))), PARAMS)
    assert verdict.verdict == "unknown"
    assert "never fell" in verdict.sentence


def test_too_few_validation_images_leave_the_verdict_open() -> None:
    few = probes(A={"accuracy": 0.95}, V={"accuracy": 0.85, "num_images": 20})
    assert judge(healthy(train=train(probes=few, setup=setup(num_val=20))), PARAMS).verdict == "inconclusive"
    many = probes(A={"accuracy": 0.95}, V={"accuracy": 0.87, "num_images": 256})
    assert judge(healthy(train=train(probes=many)), PARAMS).verdict == "healthy"  # of 600, of which the probe asks 256


def test_a_constant_answer_is_not_called_healthy() -> None:
    verdict = judge(healthy(evaluate=evaluation(accuracy=0.7, accuracy_low=0.66, accuracy_high=0.74, macro_recall=0.1)), PARAMS)
    assert verdict.verdict == "unknown"
    assert "no better than guessing" in verdict.sentence


def test_too_few_test_images_leave_the_verdict_open() -> None:
    two = train(setup=setup(num_classes=2))
    verdict = judge(healthy(train=two, evaluate=evaluation(accuracy=0.7, accuracy_low=0.48, accuracy_high=0.86)), PARAMS)
    assert verdict.verdict == "inconclusive"
    assert "validate.test_fraction" in verdict.sentence


def test_capacity_counts_where_nothing_else_was_found() -> None:
    limited = FIRES["capacity-limited"][0]
    alone, beside = judge(limited, PARAMS), judge(limited.model_copy(update={"failure": failed("killed")}), PARAMS)
    assert [found.fault for found in alone.findings] == ["capacity-limited"]
    assert [found.fault for found in beside.findings] == ["interrupted"]


def test_leaked_images_do_not_hide_what_broke_the_training() -> None:
    broken = healthy(train=head_only([2.4, 40.0, 900.0], VIOLENT), data=data(num_offenders={"near-split-overlap": 60}))
    assert [found.fault for found in judge(broken, PARAMS).findings][:2] == ["learning-rate-too-high", "leakage"]


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"train": head_only([5.0, 2.3, 2.3, 2.3, 2.3], [0.5, 0.4] + [0.0] * 8)}, "learning-rate-too-high"),
        ({"data": data(passed=False, failed_checks=("split-classes",), split_counts={"val": {"a": 4, "b": 5}})}, "data-rejected"),
        ({"train": train(setup=setup(num_classes=1)), "failure": failed("killed")}, "interrupted"),
        ({"train": train(probes=probes(V={"num_images": 0})), "failure": failed("killed")}, "interrupted"),
        ({"train": train(inputs=inputs(train_mean=(), val_mean=())), "failure": failed("killed")}, "interrupted"),
    ],
)
def test_figures_that_make_no_sense_cost_a_rule_and_not_the_verdict(changed: dict[str, Any], wanted: str) -> None:
    assert judge(healthy(**changed), PARAMS).verdict == wanted


def test_labels_that_were_quarantined_are_doubted_no_more() -> None:
    case = healthy(data=data(num_offenders={"label-noise": 300}))
    values = read_yaml(ROOT / "params.yaml")
    values["validate"] = {**values["validate"], "policy": {**values["validate"]["policy"], "label_noise": "quarantine"}}
    assert finding(RULE["label-noise"](case, PARAMS)).fault == "label-noise"
    assert RULE["label-noise"](case, parse(values)) is None


def test_the_likeliest_comes_first_and_chances_add_up() -> None:
    verdict = judge(healthy(**FIRES_TOGETHER), PARAMS)
    assert [found.fault for found in verdict.findings][:2] == ["interrupted", "class-imbalance"]
    scores = [found.score for found in verdict.findings]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) <= 1
    assert not set(verdict.silent) & {"interrupted", "class-imbalance", "overfitting"}


def test_every_rule_has_a_score_below_certainty() -> None:
    assert SCORES.keys() == RULE.keys()
    assert all(0.5 <= score < 1 for score in SCORES.values())


FIRES_TOGETHER: dict[str, Any] = {
    "data": data(rare=50),
    "evaluate": evaluation(classes=classes(recall=0.1, predicted=2)),
    "train": overfitted(),
    "failure": failed("killed"),
}


def test_every_rule_is_accounted_for_in_any_verdict() -> None:
    for case in (*(case for found in FIRES.values() for case in found), Evidence()):
        verdict = judge(case, PARAMS)
        names = [*(found.fault for found in verdict.findings), *verdict.silent, *verdict.not_applicable]
        assert sorted(names) == sorted(RULE)


@pytest.mark.parametrize("name", sorted(diagnosis.CHARTS))
def test_the_chart_of_a_fault_is_drawn(name: str) -> None:
    case = FIRES[name][0].model_copy(update={"train": next((case.train for case in FIRES[name] if case.train is not None), train())})
    chart = diagnosis.decisive_chart(judge(case, PARAMS).model_copy(update={"verdict": name}), case)
    assert chart is not None
    assert any(value is not None for _, _, values in chart.series for value in values)
    assert chart.marked is None or 0 <= chart.marked < max(1, len(chart.series[0][2]))


# Evidence


def test_nan_and_infinity_survive_json() -> None:
    broken = train(
        epochs=epochs([NAN, INF, 1.0], [INF, NAN, -INF]),
        steps=steps([NAN, INF, 1e-3], [INF, NAN, 0.5]),
        probes=probes(A={"loss": INF}),
        non_finite=NonFinite(phase="head", epoch=2, step=7, loss=NAN, source=""),
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
    values["version"], values["later"] = evidence.VERSION + 1, {"x": 1}
    values["epochs"][0]["gradient"] = 3
    assert TrainEvidence.model_validate(values).epochs == train().epochs


def as_part(value: BaseModel) -> tuple[str, dict[str, Any]]:
    assert isinstance(value, Part)
    return name_of(value), value.model_dump(mode="json")


def parts_of(found: TrainEvidence) -> list[tuple[str, dict[str, Any]]]:
    """What the collector hands out over a training: setup, steps and their epoch, in turn, then the rest."""
    per_epoch = max(1, len(found.steps) // max(1, len(found.epochs)))
    ones = [value for value in (found.inputs, found.variants, found.memory) if value is not None]
    parts = [as_part(value) for value in (found.setup, *ones, *found.first_steps, *found.orders)]
    left = list(found.steps)
    for epoch in found.epochs:
        parts += [as_part(step) for step in left[:per_epoch]]
        del left[:per_epoch]
        parts.append(as_part(epoch))
    parts += [as_part(step) for step in left]
    parts += [as_part(found.non_finite)] if found.non_finite else []
    return parts + [as_part(value) for value in (*found.gradients, *found.activations, *found.probes, *found.objectives, *found.stops)]


DIVERGED = train(
    epochs=epochs([900.0], [NAN]),
    steps=steps([5e-2, NAN], [INF, NAN]),
    probes=(),
    non_finite=NonFinite(phase="head", epoch=1, step=0, loss=NAN, source=""),
)
AT_ONCE = train(epochs=(), steps=steps([INF], [INF]), probes=(), non_finite=NonFinite(phase="head", epoch=0, step=0, loss=INF, source=""))
VALIDATION_BROKE = overfitted(val_losses=[1.0, 0.7, 0.8, 0.9, INF, INF])
VALIDATION_NAN = overfitted(val_losses=[1.0, 0.7, 0.8, 0.9, 1.0, NAN])
VALIDATION_NEVER = overfitted(val_losses=[NAN] * 6)
NO_UPDATES = train(epochs=epochs([2.29, 2.28, 2.28, 2.27, 2.27]), steps=steps([0.0] * 8))


@pytest.mark.parametrize(
    "whole",
    [train(), overfitted(), DIVERGED, AT_ONCE, VALIDATION_BROKE, VALIDATION_NAN, VALIDATION_NEVER, NO_UPDATES],
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


def test_parts_of_an_unknown_kind_or_another_shape_are_left_aside() -> None:
    assert from_parts([("later", {"x": 1}), ("epoch", {"loss": "none"}), ("step", {}), *parts_of(train())]) == train()
    assert from_parts([("setup", {"num_classes": 2})]) is None


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


def test_probes_are_told_by_their_moment() -> None:
    kept = Probe(**{**probes()[0].model_dump(), "moment": "kept", "accuracy": 0.1})
    assert judge(healthy(train=train(probes=(*probes(), kept))), PARAMS).verdict == "healthy"
