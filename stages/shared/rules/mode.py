"""Rules about training and validation that do not treat images or answers alike."""

from __future__ import annotations

import math

from stages.shared.evidence import Evidence, Inputs, skill
from stages.shared.params import Params
from stages.shared.rules.outcome import Finding, Fix, Missing, action, changes, rounded
from stages.shared.rules.signals import probe

# At the backbone, whose input is [-1, 1]; rounding to 8 bits is worth 0.004.
MAX_INPUT_SHIFT, MAX_INPUT_STRETCH = 0.1, 1.25
FLAT = 0.02  # a deviation as small as this says nothing about scaling
MAX_READING_DIFFERENCE = 0.02
MIN_BATCH_GAIN = 0.12
MIN_MATCHED_GAIN = 0.25
MAX_LOSS_DIFFERENCE = 0.05  # relative, and in nats
MAX_SUM_ERROR, SOFTMAX_SLACK, SATURATED = 0.01, 2e-3, 5e-4
MIN_IMAGES_A_CLASS = 2  # to find a renaming on one half of them and count its right answers on the other
MIN_LEARNED = 0.5  # of the way from chance to 1


def wrong_input_range(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """What arrives at the backbone is not the picture scaled to [-1, 1], in training and in validation alike.

    MobileNetV2's weights were trained on that range (``keras.applications.mobilenet_v2.preprocess_input``). Raw pixels, a division by 255
    or scaling twice shift or stretch every value; the comparison is with the stored pixels, so dark or pale pictures raise no alarm.
    """
    inputs = evidence.train.inputs if evidence.train else None
    if inputs is None:
        return Missing("the values at the backbone's input")
    if not (_is_off(inputs, inputs.train_mean, inputs.train_deviation) and _is_off(inputs, inputs.val_mean, inputs.val_deviation)):
        return None
    low, high = min(inputs.train_low), max(inputs.train_high)
    return Finding(
        fault="wrong-input-range",
        severity="critical",
        evidence={
            "lowest": rounded(low),
            "highest": rounded(high),
            "mean": rounded(sum(inputs.train_mean) / len(inputs.train_mean)),
            "expected_mean": rounded(sum(inputs.expected_mean) / len(inputs.expected_mean)),
        },
        explanation=f"the backbone gets values from {low:.3g} to {high:.3g}; these pictures, scaled to [-1, 1], would have a mean of "
        f"{sum(inputs.expected_mean) / len(inputs.expected_mean):.2f} and not {sum(inputs.train_mean) / len(inputs.train_mean):.2f}.",
        fix=action("scale pixels once, by x / 127.5 - 1 (the layer input_range in stages/shared/model.py)"),
    )


def _is_off(inputs: Inputs, means: tuple[float, ...], deviations: tuple[float, ...]) -> bool:
    shift = max(abs(mean - expected) for mean, expected in zip(means, inputs.expected_mean, strict=True))
    stretched = any(_is_stretched(found, expected) for found, expected in zip(deviations, inputs.expected_deviation, strict=True))
    return stretched or not shift < MAX_INPUT_SHIFT


def _is_stretched(deviation: float, expected: float) -> bool:
    if expected < FLAT:  # a channel that is the same everywhere
        return not deviation < FLAT * MAX_INPUT_STRETCH
    return not expected / MAX_INPUT_STRETCH < deviation < expected * MAX_INPUT_STRETCH


def preprocessing_mismatch(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Validation reads the same image differently from training: another scaling, other channels, another resizing.

    Then a network that knows its images well fails on validation from the first epoch on. Both should call one function.
    """
    inputs = evidence.train.inputs if evidence.train else None
    if inputs is None:
        return Missing("the values at the backbone's input")
    if inputs.difference < MAX_READING_DIFFERENCE:
        return None
    known, by_validation = probe(evidence.train, "A"), probe(evidence.train, "B")
    accuracies = (
        {"accuracy_read_as_training": known.accuracy, "accuracy_read_as_validation": by_validation.accuracy}
        if known and by_validation
        else {}
    )
    return Finding(
        fault="preprocessing-mismatch",
        severity="critical",
        evidence={"mean_difference_at_input": rounded(inputs.difference), **accuracies},
        explanation=f"the same images reach the backbone differently when validation reads them: by {inputs.difference:.2g} on average, in "
        "a range from -1 to 1.",
        fix=action("read training and validation images by one function (Batches.read in stages/shared/training/batches.py)"),
    )


def batchnorm_mismatch(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """The network knows its images by the statistics of the batch, as in training, and not by BatchNorm's moving averages, as in use.

    With MobileNetV2's momentum of 0.999 the averages need thousands of steps; with few images a batch they are noise. After a single epoch
    they lag behind in any training.
    """
    averaged, by_batch = probe(evidence.train, "A"), probe(evidence.train, "A_batch")
    validated, validated_by_batch = probe(evidence.train, "V"), probe(evidence.train, "V_batch")
    if evidence.train is None or averaged is None or by_batch is None or validated is None or validated_by_batch is None:
        return Missing("the probe by batch statistics, which needs BatchNorm layers that are trained")
    gain, gain_on_validation = by_batch.accuracy - averaged.accuracy, validated_by_batch.accuracy - validated.accuracy
    if len(evidence.train.epochs) < 2 or gain < MIN_BATCH_GAIN or gain_on_validation < MIN_BATCH_GAIN / 2:
        return None
    return Finding(
        fault="batchnorm-mismatch",
        severity="critical",
        evidence={
            "accuracy_on_training": averaged.accuracy,
            "accuracy_by_batch_statistics": by_batch.accuracy,
            "validation_accuracy": validated.accuracy,
            "validation_accuracy_by_batch_statistics": validated_by_batch.accuracy,
        },
        explanation=f"on the same training images accuracy is {averaged.accuracy:.2f} by BatchNorm's moving averages and "
        f"{by_batch.accuracy:.2f} by the statistics of the batch: the averages do not fit the weights.",
        fix=_steadier_statistics(evidence, params),
    )


def _steadier_statistics(evidence: Evidence, params: Params | None) -> Fix:
    assert evidence.train is not None  # noqa: S101  (the rule has looked)
    if evidence.train.setup.pretrained:
        return changes(params, {"train.batchnorm_training": False}) or action("keep BatchNorm frozen while a pretrained backbone is tuned")
    batch = {"train.batch_size": 32} if evidence.train.setup.batch_size < 16 else {}
    momentum = min(0.9, params.train.batchnorm_momentum) if params is not None else 0.9
    images = max(1000, params.train.batchnorm_recalibration_images) if params is not None else 1000
    found = changes(params, {"train.batchnorm_momentum": momentum, "train.batchnorm_recalibration_images": images, **batch})
    return found or action("give the averages more steps: more epochs, or more images")


def loss_mismatch(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Loss and last layer do not belong together.

    Outputs that are no probabilities under a loss that takes them for such give clipped losses and no gradients; a softmax on top of a
    softmax cannot say more than e / (e + K - 1), so that the loss stays above ln(1 + (K - 1) / e) however well it learns.
    """
    train = evidence.train
    if train is None or not train.objectives:
        return Missing("the objective at the end of training")
    found = train.objectives[-1]
    if math.isnan(found.output_sum):
        return None  # another fault's: the answers are no numbers at all
    smallest, largest = (numerator / (math.e + train.setup.num_classes - 1) for numerator in (1, math.e))  # that softmax makes of 0 and 1
    within = found.output_low >= smallest - SOFTMAX_SLACK and largest - SOFTMAX_SLACK * 10 <= found.output_high <= largest + SOFTMAX_SLACK
    saturates = max(abs(found.output_low - smallest), abs(found.output_high - largest)) < SATURATED
    # Two classes hardly known may end within those bounds by chance.
    has_learned = train.setup.num_classes > 2 and _has_learned(evidence)
    twice = within and abs(found.output_sum - 1) < MAX_SUM_ERROR and (saturates or has_learned)
    no_shares = found.output_low < -1e-6 or abs(found.output_sum - 1) >= MAX_SUM_ERROR
    difference = abs(found.loss - found.recomputed_loss)
    differs = not difference <= MAX_LOSS_DIFFERENCE * (1 + abs(found.recomputed_loss))
    if not (twice or no_shares or differs):
        return None
    reason = (
        f"no answer ever exceeds {found.output_high:.3f}, the most that a softmax makes of a softmax over {train.setup.num_classes} classes"
        if twice
        else f"the outputs are no probabilities (lowest {found.output_low:.3g}, sum {found.output_sum:.3g})"
        if no_shares
        else f"the loss is {found.loss:.3g}, and cross-entropy of the same answers {found.recomputed_loss:.3g}"
    )
    return Finding(
        fault="loss-mismatch",
        severity="critical",
        evidence={
            "loss": found.loss,
            "recomputed_loss": found.recomputed_loss,
            "lowest_output": found.output_low,
            "highest_output": found.output_high,
            "sum_of_outputs": found.output_sum,
        },
        explanation=f"{reason}.",
        fix=action("let the last layer be one softmax and the loss CategoricalCrossentropy(from_logits=False) (model.py, train.py)"),
    )


def _has_learned(evidence: Evidence) -> bool:
    """Whether accuracy on training images is at least half way from chance to perfect."""
    known = probe(evidence.train, "A")
    return known is not None and evidence.train is not None and skill(evidence.train, known.accuracy) >= MIN_LEARNED


def label_order_mismatch(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Validation calls the classes by other numbers than training: under the best renaming of the classes its accuracy is far higher.

    Each split that lists its own folders, or another sorting of the names, does this.
    """
    known, validated = probe(evidence.train, "A"), probe(evidence.train, "V")
    if evidence.train is None or known is None or validated is None:
        return Missing("the probe at the end of training")
    if validated.num_images < MIN_IMAGES_A_CLASS * evidence.train.setup.num_classes:
        return Missing("enough validation images of each class in the probe")
    gain = validated.matched_accuracy - validated.accuracy
    if gain < MIN_MATCHED_GAIN or validated.matched_accuracy < (known.accuracy + validated.accuracy) / 2 or not _has_learned(evidence):
        return None
    return Finding(
        fault="label-order-mismatch",
        severity="critical",
        evidence={
            "validation_accuracy": validated.accuracy,
            "accuracy_if_renamed": validated.matched_accuracy,
            "accuracy_on_training": known.accuracy,
        },
        explanation=f"validation accuracy is {validated.accuracy:.2f}, and would be {validated.matched_accuracy:.2f} if its classes were "
        "renamed: their order differs from that of training.",
        fix=action("take the class names of validation from training"),
    )
