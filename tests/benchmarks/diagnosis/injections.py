"""The faults that no parameter makes: by name, what makes them, and before which stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.diagnosis import code_faults, data_faults


@dataclass(frozen=True)
class Injection:
    """``apply`` gets the unit's amount; what the stages before ``before`` made is the unit's own copy, to be changed at will."""

    before: str
    apply: Callable[[float], None]


_OF_SOURCE = (
    data_faults.flip_labels,
    data_faults.leak,
    data_faults.leak_bytes,
    data_faults.thin_classes,
    data_faults.thin_training,
    data_faults.tail_validation,
    data_faults.no_validation_of_a_class,
    data_faults.keep_classes,
    data_faults.break_files,
)
_AFTER_VALIDATION = (
    data_faults.damage_after_validation,
    data_faults.exchange_after_validation,
)
_OF_ARRAYS = (data_faults.rename_validation_classes,)
_OF_CODE = (
    code_faults.raw_pixels,
    code_faults.unshifted_input,
    code_faults.input_scaled_twice,
    code_faults.torch_input,
    code_faults.validation_scaled,
    code_faults.validation_inverted,
    code_faults.validation_swapped,
    code_faults.validation_cropped,
    code_faults.linear_head,
    code_faults.softmax_twice,
    code_faults.frozen_augmentation,
    code_faults.unshuffled,
    code_faults.nan_in_image,
    code_faults.nan_in_label,
    code_faults.infinite_weight,
    code_faults.data_end_early,
    code_faults.everything_frozen,
    code_faults.rate_restarts,
    code_faults.rate_runs_out,
    code_faults.killed,
    code_faults.terminated,
    code_faults.interrupted,
    code_faults.whole_set_in_memory,
    code_faults.little_memory,
)

INJECTIONS = {
    apply.__name__: Injection(before, apply)
    for before, functions in {
        "validate": _OF_SOURCE,
        "prepare": _AFTER_VALIDATION,
        "augment": _OF_ARRAYS,
        "train": _OF_CODE,
    }.items()
    for apply in functions
}
