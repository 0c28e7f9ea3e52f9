"""Errors that a person can act on: what happened, what was expected, what to type next."""

from __future__ import annotations


class FlightError(Exception):
    """An expected failure: its message is complete, so no traceback is shown on the terminal.

    ``failure_kind`` is what the run's record says (``failure.kind`` in MLflow).
    """

    failure_kind = "exception"


class ParamsError(FlightError):
    """``params.yaml`` holds unknown keys, wrong types or values out of range."""


class SourceError(FlightError):
    """The image source or the backbone's weights cannot be used."""


class UnreadableImageError(FlightError):
    """An image that validation took for good cannot be decoded."""


class RejectedDataError(FlightError):
    """A critical check of the data failed; the report says which images."""

    failure_kind = "rejected-data"


class UntrainableError(FlightError):
    """A training that cannot change anything, or not to the good."""


class TooLargeError(FlightError):
    """A step would not fit into memory."""

    failure_kind = "out-of-memory"


class HopelessError(FlightError):
    """A training of which nothing can come was stopped."""


class AnswersError(FlightError):
    """What a classifier answers are no probabilities."""


class CheckpointError(FlightError):
    """The folder of the checkpoints cannot be used."""


class NonFiniteLossError(FlightError):
    """The training loss became NaN or infinite."""
