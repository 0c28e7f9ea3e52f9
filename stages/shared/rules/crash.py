"""Rules about runs that ended before their time."""

from __future__ import annotations

import math
import re

from stages.shared.evidence import FINE_TUNE, HEAD, Evidence, TrainEvidence
from stages.shared.params import Params
from stages.shared.rules.outcome import Finding, Fix, Missing, action, changes, sentence

# How Pillow, simplejpeg, OpenCV and TensorFlow say that a file is no picture, or not a whole one.
UNDECODABLE = re.compile(
    r"UnreadableImageError|UnidentifiedImageError|cannot identify image|image file is truncated|broken data stream|"
    r"[Cc]orrupt JPEG|Invalid JPEG|could not decode|Unknown image file format|Input is empty",
)


def data_rejected(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Validation refused the data: training on it would be impossible or meaningless.

    The critical checks are few: no usable image, fewer than two classes, a class without an image in a split, the same image in two splits,
    too many unreadable files. Mend the source, or, where a check has one, its threshold.
    """
    if evidence.data is None:
        return Missing("the summary of validate")
    if evidence.data.passed:
        return None
    failed = ", ".join(evidence.data.failed_checks)
    return Finding(
        fault="data-rejected",
        severity="critical",
        evidence={
            "num_ok": evidence.data.num_ok,
            "num_quarantined": evidence.data.num_quarantined,
            "failed_checks": failed,
        },
        explanation=f"validation refused the data ({failed}).",
        fix=action("mend or remove the images listed in reports/validate/index.html, or correct ingest.source"),
    )


def undecodable_image(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """A file that validation has not quarantined could not be decoded later on: it has changed since, or its check was switched off.

    The message names the file.
    """
    failure = evidence.failure
    if failure is None or failure.kind != "exception" or not UNDECODABLE.search(failure.cause):
        return None
    return Finding(
        fault="undecodable-image",
        severity="critical",
        evidence={"stage": failure.stage, "cause": failure.cause},
        explanation=f"{failure.stage} could not decode an image: {sentence(failure.cause.splitlines()[0])}",
        fix=action("repair or remove that file in the source, then type: dvc repro --force ingest"),
    )


def out_of_memory(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The process asked for more memory than there was.

    What a step needs grows with the batch, and with the square of the image's side. The batch shrinks by half, or to what was estimated to
    fit; gradient accumulation averages as many images for a change of the weights as before (BatchNorm sees the smaller batch).
    """
    failure = evidence.failure
    if failure is None or failure.kind != "out-of-memory":
        return None
    return Finding(
        fault="out-of-memory",
        severity="critical",
        evidence={"stage": failure.stage, "cause": failure.cause},
        explanation=f"{failure.stage} ran out of memory: {sentence(failure.cause)}",
        fix=_smaller_batch(params, evidence.train, failure.stage) or action("use smaller images, or a machine with more memory"),
    )


def _smaller_batch(params: Params | None, train: TrainEvidence | None, stage: str) -> Fix:
    """Half of the batch, or what was estimated to fit; ``evaluate`` takes batches of the same size, and no steps to average."""
    memory = train.memory if train else None
    none_fits = memory is not None and memory.largest_batch < 1
    if params is None or stage not in ("train", "evaluate") or params.train.batch_size == 1 or none_fits:
        return ()
    present = min(params.train.batch_size, train.setup.num_train) if train else params.train.batch_size
    half = max(1, present // 2)
    fitting = min(half, 2 ** int(math.log2(memory.largest_batch))) if memory is not None else half
    averaged = params.train.gradient_accumulation_steps * round(present / fitting)
    return changes(params, {"train.batch_size": fitting, "train.gradient_accumulation_steps": averaged})


def interrupted(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """A signal or a lost machine ended the run, not its own doing. A training goes on where it was cut off."""
    failure = evidence.failure
    if failure is None or failure.kind not in ("killed", "terminated", "interrupted", "lost"):
        return None
    return Finding(
        fault="interrupted",
        evidence={"stage": failure.stage, "kind": failure.kind, "cause": failure.cause},
        explanation=f"{failure.stage} was ended from outside: {sentence(failure.cause)}",
        fix=action("go on with it: dvc repro"),
    )


def data_exhausted(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Training or validation got fewer batches than its data have, or fewer epochs than asked for, and nobody had stopped it.

    A generator that does not repeat, or steps counted from something else than the data, end training early without an error.
    """
    train = evidence.train
    if train is None or not train.epochs:
        return Missing("an epoch of training")
    planned = {HEAD: train.setup.num_head_epochs, FINE_TUNE: train.setup.num_fine_tune_epochs}
    stopped = {stop.phase for stop in train.stops}
    for phase, num_planned in planned.items():
        epochs = [epoch for epoch in train.epochs if epoch.phase == phase]
        fewest = min((epoch.num_steps for epoch in epochs), default=train.setup.steps_per_epoch)
        unvalidated = sum(not epoch.has_validation for epoch in epochs)
        has_ended = evidence.failure is None and train.non_finite is None
        is_short = has_ended and phase not in stopped and len(epochs) < num_planned
        short_of = {
            f"{len(epochs)} of {num_planned} epochs": is_short,
            f"epochs of as few as {fewest} of {train.setup.steps_per_epoch} steps": fewest < train.setup.steps_per_epoch,
            f"{unvalidated} epochs without validation": bool(epochs) and unvalidated == len(epochs),
        }
        told = [what for what, holds in short_of.items() if holds]
        if told:
            return Finding(
                fault="data-exhausted",
                severity="critical",
                evidence={
                    "phase": phase,
                    "fewest_steps": fewest,
                    "planned_steps": train.setup.steps_per_epoch,
                    "epochs": len(epochs),
                    "planned_epochs": num_planned,
                    "epochs_without_validation": unvalidated,
                },
                explanation=f"the phase '{phase}' had {' and '.join(told)}: the data ran out.",
                fix=action("derive the number of steps from the data, or let the data set repeat (stages/shared/training/batches.py)"),
            )
    return None
