"""Rules about the data and the stream that training sees of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stages.shared.evidence import Evidence, Probe, TrainEvidence
from stages.shared.params import Params
from stages.shared.rules.outcome import Finding, Missing, action, changes, rounded
from stages.shared.rules.signals import chance_deviation, probe

MAX_OVERLAP = 0.01  # of the images of validation and test together
MAX_SPLIT_DISTANCE = 0.3
LEVELLED = 1.5  # the largest class over the smallest, at most
SMALLEST_MIXTURE = 0.6  # of the classes that a batch has in random order
MIN_DOUBTED_SHARE = 0.03
# Standard deviations by which validation is known better: three moments are looked at, so that each may err in one of a hundred.
BEYOND_CHANCE, BEYOND_CHANCE_WITH_DOUBTS = 2.4, 1.64
MIN_CLASS_RATIO = 3
MIN_RECALL_GAP = 0.15
LOW_RECALL = 0.6
MOMENTS = {"end": "at the end of training", "phase end": "when the head had been trained", "kept": "in the epoch that was kept"}
MAX_NAMED = 5  # classes in a sentence


def leakage(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Images of validation or test are (nearly) in training too, so that their figures are too good.

    Copies come into several splits when a folder is split after images were resized, cropped or taken from one film.
    """
    if evidence.data is None or not evidence.data.split_counts.get("val"):
        return Missing("the splits")
    found = sum(evidence.data.num_offenders.get(name, 0) for name in ("split-overlap", "near-split-overlap"))
    held_out = sum(sum(evidence.data.split_counts.get(name, {}).values()) for name in ("val", "test"))
    if found <= MAX_OVERLAP * held_out:
        return None
    return Finding(
        fault="leakage",
        severity="critical",
        evidence={"num_shared": found, "num_held_out": held_out},
        explanation=f"{found} images are in more than one split, as they are or nearly; {held_out} are held out.",
        fix=action(
            "split by group, so that copies stay together: leave the splitting to validate (a source without train/val/test folders)"
        ),
    )


def bad_split(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Validation has other classes, or other shares of them, than training: its figures say little about what was learned.

    A tail cut off from a sorted list is the usual reason.
    """
    if evidence.data is None or not all(sum(evidence.data.split_counts.get(name, {}).values()) for name in ("train", "val")):
        return Missing("the splits")
    train_counts, val_counts = evidence.data.train_counts, evidence.data.split_counts["val"]
    total, num_val = sum(train_counts.values()), sum(val_counts.values())
    classes = train_counts.keys() | val_counts.keys()
    missing = [label for label in sorted(classes) if not val_counts.get(label)]
    distance = _distance(train_counts, val_counts)
    # By chance, a share among n images is off by about sqrt(p / n).
    by_chance = sum((count / total / num_val) ** 0.5 for count in train_counts.values()) / 2
    # To validate on classes of like size what was trained on unlike ones, or the other way round, is good practice.
    is_meant = not missing and (_is_levelled(train_counts) or _is_levelled(val_counts))
    if (distance < MAX_SPLIT_DISTANCE + by_chance / 2 and not missing) or is_meant:
        return None
    return Finding(
        fault="bad-split",
        severity="critical",
        evidence={"distance": rounded(distance), "num_classes_missing_in_validation": len(missing)},
        explanation=f"the classes' shares in validation lie {distance:.2f} from those in training (0 to 1)"
        + (f", and {_few(missing)} missing there." if missing else "."),
        fix=action("stratify: leave the splitting to validate (a source without train/val/test folders)"),
    )


def _few(labels: Sequence[str]) -> str:
    """The first five, and how many others."""
    named = ", ".join(map(repr, labels[:MAX_NAMED]))
    others = len(labels) - MAX_NAMED
    return named + (f" and {others} others are" if others > 0 else " are" if len(labels) > 1 else " is")


def _distance(some: Mapping[str, int], others: Mapping[str, int]) -> float:
    """Between the classes' shares of two splits, from 0 (alike) to 1 (no class in common)."""
    totals = [max(1, sum(counts.values())) for counts in (some, others)]
    return sum(abs(some.get(label, 0) / totals[0] - others.get(label, 0) / totals[1]) for label in some.keys() | others.keys()) / 2


def _is_levelled(counts: Mapping[str, int]) -> bool:
    return max(counts.values()) <= LEVELLED * min(counts.values())


def unshuffled_data(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Batches hold far fewer classes than in random order: the network follows the class of the hour and forgets the others."""
    if evidence.train is None or not evidence.train.orders:
        return Missing("the order of training")
    worst = min(evidence.train.orders, key=lambda order: order.distinct_labels / max(order.expected_distinct_labels, 1e-9))
    if not worst.expected_distinct_labels >= 1.5 or worst.distinct_labels > SMALLEST_MIXTURE * worst.expected_distinct_labels:
        return None
    return Finding(
        fault="unshuffled-data",
        severity="critical",
        evidence={"classes_a_batch": rounded(worst.distinct_labels), "expected": rounded(worst.expected_distinct_labels)},
        explanation=f"a batch holds {worst.distinct_labels:.1f} classes; in random order it would be {worst.expected_distinct_labels:.1f}.",
        fix=action("shuffle the training images in each epoch (stages/shared/sampling.py)"),
    )


def label_noise(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Many training labels contradict the images: the data check doubts them, or validation is known better than training itself.

    A network learns the clean labels first (Arpit et al. 2017). While it has not memorised the wrong ones, it knows clean validation
    images better than the training images, looked at without augmentation and dropout: at the end, or when only the head had been trained,
    or in the epoch that was kept.
    """
    pairs = _known_and_validated(evidence.train)
    if evidence.data is None or not pairs:
        return Missing("the data check and the probe at the end of training")
    known, validated = max(pairs, key=lambda pair: pair[1].accuracy - pair[0].accuracy)
    is_alike = _distance(evidence.data.train_counts, evidence.data.split_counts.get("val", {})) < MAX_SPLIT_DISTANCE / 2
    looked_at = min(evidence.data.num_ok, params.validate_.max_label_noise_images) if params is not None else evidence.data.num_ok
    is_out = params is not None and params.validate_.policy.label_noise == "quarantine"
    doubted = 0.0 if is_out else evidence.data.num_offenders.get("label-noise", 0) / max(1, looked_at)
    gap = validated.accuracy - known.accuracy if is_alike and validated.loss < known.loss else 0.0
    both = (known.accuracy + validated.accuracy) / 2
    deviation = (both * (1 - both) * (1 / known.num_images + 1 / validated.num_images)) ** 0.5
    by_check = doubted >= MIN_DOUBTED_SHARE
    # A doubt of the check that alone would be too little, and a gap likewise, are enough together.
    by_both = doubted >= MIN_DOUBTED_SHARE / 2 and gap >= BEYOND_CHANCE_WITH_DOUBTS * deviation
    if not (by_check or by_both or gap >= max(BEYOND_CHANCE * deviation, 1e-9)):
        return None
    when = MOMENTS[known.moment]
    return Finding(
        fault="label-noise",
        severity="warning",
        evidence={"doubted_share": rounded(doubted), "accuracy_on_training": known.accuracy, "accuracy_on_validation": validated.accuracy},
        explanation=(f"the data check doubts {doubted:.1%} of {looked_at} labels; " if looked_at and not is_out else "")
        + f"{when} the network knew "
        f"{known.accuracy:.0%} of the training images as they are, and {validated.accuracy:.0%} of those of validation.",
        fix=action(
            "look through the doubted labels in reports/validate/index.html; relabel or remove the wrong ones"
            if by_check
            else "look through the labels of the training images, those of confused classes first; relabel or remove the wrong ones"
        ),
    )


def _known_and_validated(train: TrainEvidence | None) -> list[tuple[Probe, Probe]]:
    """Answers to training and to validation images, at each moment past the start that has both; the end's among them."""
    found = [(probe(train, "A", moment), probe(train, "V", moment)) for moment in MOMENTS]
    return [(known, validated) for known, validated in found if known and validated] if all(found[0]) else []


def class_imbalance(evidence: Evidence, params: Params | None) -> Finding | Missing | None:
    """Rare classes are hardly recognised, while the frequent ones carry the accuracy.

    The network answers them too seldom. Drawing them more often, or class weights, make up for the numbers; macro F1 shows what they cost.
    """
    if evidence.data is None or evidence.evaluate is None or not any(evidence.data.train_counts.values()):
        return Missing("the class counts and the test")
    counts = {label: count for label, count in evidence.data.train_counts.items() if count}
    results = {result.label: result for result in evidence.evaluate.classes}
    largest, smallest = max(counts, key=lambda label: counts[label]), min(counts, key=lambda label: counts[label])
    ratio = counts[largest] / counts[smallest]
    rare = [results[label] for label in counts if label in results and counts[label] * MIN_CLASS_RATIO <= counts[largest]]
    if not rare and ratio >= MIN_CLASS_RATIO:
        return Missing("the test result of the rare classes")
    num_images = sum(result.num_images for result in rare)
    recall = sum(result.recall * result.num_images for result in rare) / max(1, num_images)
    others = [result.recall for label, result in results.items() if counts.get(label, 0) * MIN_CLASS_RATIO > counts[largest]]
    gap = sum(others) / max(1, len(others)) - recall
    answered = sum(result.predicted for result in rare)
    if not rare or gap < MIN_RECALL_GAP + chance_deviation(num_images) or recall >= LOW_RECALL or answered >= num_images:
        return None
    present = evidence.augment.balancing if evidence.augment else "none"
    drawn = changes(params, {"augment.balancing": "oversample"}) if present != "oversample" else ()
    return Finding(
        fault="class-imbalance",
        evidence={
            "class_ratio": rounded(ratio),
            "recall_of_rare": rounded(recall),
            "recall_of_others": rounded(gap + recall),
            "answered": answered,
            "in_test": num_images,
            "rarest": smallest,
        },
        explanation=f"'{smallest}' has {counts[smallest]} training images, '{largest}' {counts[largest]}; of the rare classes "
        f"{recall:.0%} is recognised, of the others {gap + recall:.0%}.",
        fix=drawn or action("collect more images of the rare classes"),
    )
