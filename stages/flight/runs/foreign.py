"""Records of other machines, checked: what they say of a run is of the types that everything here relies on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from stages.flight.runs.run import Run
from stages.shared.rules import Verdict

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class _Failure(BaseModel):
    stage: str
    kind: str
    cause: str


class _Change(BaseModel):
    param: str
    before: Any = Field(alias="from")
    to: Any
    command: str


class _Action(BaseModel):
    action: str


class _Of(BaseModel):
    stage: str


class _Values(BaseModel):
    values: dict[str, Any]


class _Digest(_Values):
    epoch: int


class _StageEnd(_Of):
    seconds: float | None


class _Raised(_Of):
    kind: str
    error: str
    message: str


# What the commands read of a record without asking whether it is there.
RECORDS: dict[str, type[BaseModel]] = {
    "digest": _Digest,
    "evidence": _Values,
    "failure": _Raised,
    "kept": _Of,
    "metrics": _Of,
    "setting": _Values,
    "stage-end": _StageEnd,
    "stage-start": _Of,
}
FIX: TypeAdapter[Any] = TypeAdapter(tuple[_Change | _Action, ...])
RUN = TypeAdapter(Run)
STATUS: TypeAdapter[Any] = TypeAdapter(Status)


def checked(values: Mapping[str, Any]) -> Run:
    """The run of these fields.

    Raises:
        ValueError: (pydantic's) if a field is of another type, or has a value that does not exist.
    """
    run = RUN.validate_python(values)
    if changed := [name for name, value in vars(run).items() if value != values[name]]:
        raise ValueError(f"its {changed[0]} is of another type")  # such as a number that is text
    STATUS.validate_python(run.status)
    if run.failure is not None:
        _Failure.model_validate(run.failure)
    return run


def check_records(records: Iterable[Mapping[str, Any]]) -> None:
    """Look at the records of a journal.

    Raises:
        ValueError: (pydantic's) if one lacks what is read of it.
    """
    for record in records:
        if model := RECORDS.get(record["type"]):
            model.model_validate(record)


def checked_verdict(content: bytes) -> dict[str, Any]:
    """A verdict, as far as this version knows its fields."""
    verdict = Verdict.model_validate_json(content)
    for finding in verdict.findings:
        FIX.validate_python(finding.fix)
    return verdict.model_dump(mode="json")
