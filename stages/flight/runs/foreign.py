"""Records of other machines, checked: what they say of a run is of the types that everything here relies on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from stages.flight.runs.run import Run

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class _Failure(BaseModel):
    stage: str
    kind: str
    cause: str


RUN = TypeAdapter(Run)
STATUS: TypeAdapter[Any] = TypeAdapter(Status)


def checked(values: Mapping[str, Any]) -> Run:
    """The run of these fields.

    Raises:
        ValueError: (pydantic's) if a field is of another type, or has a value that does not exist.
    """
    run = RUN.validate_python(values)
    STATUS.validate_python(run.status)
    if run.failure is not None:
        _Failure.model_validate(run.failure)
    return run
