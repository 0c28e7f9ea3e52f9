"""What made a training slow: findings from the journal of a run, beside its verdict, since a slow training may be a good one.

A short training is never worth a finding, and neither is a CPU by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Share of the time in which training waits for images: from here on that is what it is slow by, and up to here it is not.
WAITING, COMPUTING = 0.4, 0.1
MAX_SHARE = 0.99  # of what is noted, which is the most that it can be
# So much time has to be lost, or spent, to be worth a change.
LEAST_WAIT_S, LEAST_TRAINING_S = 60.0, 600.0
# Millions of multiply-adds for one image of 224 px, by alpha: Sandler et al. 2018, and the table at keras.io/api/applications/mobilenet.
MULTIPLY_ADDS = {0.35: 59, 0.5: 97, 0.75: 209, 1.0: 300, 1.3: 509, 1.4: 582}
PUBLISHED_SIZE_PX = 224
# Forwards once, and backwards, where all weights are trained, twice as much: the most that a step may take.
STEP_OVER_FORWARD = 3
# Billions of multiply-adds a second: two cores do some 3, a server's processor tens, and the smallest GPUs for training hundreds.
SLOW_RATE = 100.0
BARELY_USED_PERCENT = 30.0
LARGE_SIZE_PX, LARGE_ALPHA, LARGE_BATCH = 96, 0.5, 256
PUBLISHED_WEIGHTS = ("none", "imagenet")  # a file's are of one alpha
WORK_OF_EACH_IMAGE = ("random_erasing", "mixup", "cutmix", "brightness", "contrast")

Records = Sequence[dict[str, Any]]
Params = dict[str, Any]


@dataclass(frozen=True)
class _Training:
    """Epochs without those in which a graph was traced: their steps took ``seconds``, of which ``waited_s`` were for images."""

    num_epochs: int
    num_images: float
    seconds: float
    waited_s: float

    @property
    def wait_share(self) -> float:
        return self.waited_s / self.seconds

    def told(self) -> str:
        epochs = f"{self.num_epochs} epoch{'s' * (self.num_epochs > 1)}"
        return f"{self.seconds / 60:.1f} min of training ({epochs}, {self.num_images / self.seconds:.1f} images/s)"

    def evidence(self) -> dict[str, float]:
        return {
            "data_wait_share": round(self.wait_share, 3),
            "images_per_second": round(self.num_images / self.seconds, 1),
            "training_seconds": round(self.seconds, 1),
            "num_epochs": self.num_epochs,
        }


def findings(records: Records, params: Params) -> list[dict[str, Any]]:
    """Findings, shaped as those of a verdict, from a run's journal and its parameters by dotted name; none if nothing is worth one."""
    training = _training(records)
    if training is None:
        return []
    if training.wait_share >= WAITING and training.waited_s >= LEAST_WAIT_S:
        return [_input_bound(training, records, params)]
    if training.wait_share <= COMPUTING and training.seconds >= LEAST_TRAINING_S:
        return _compute_bound(training, records, params)
    return []


def _training(records: Records) -> _Training | None:
    """The epochs that tell of speed. The first of a phase, and the first after a cut, include the tracing of their graph."""
    setups, epochs = _evidence(records, "setup"), _evidence(records, "epoch")
    traced = {(record["phase"], record["epoch"]) for record in records if record["type"] == "resumed"}
    measured = {record["step"]: record["values"] for record in records if _is_speed(record)}
    steady = [
        measured[number]
        for number, epoch in enumerate(epochs)
        if number in measured and epoch["epoch"] > 0 and (epoch["phase"], epoch["epoch"]) not in traced
    ]
    if not setups or not steady:
        return None
    num_images = float(setups[-1]["num_train"])
    seconds = [num_images / values["images_per_second"] for values in steady]
    waited = sum(time_s * min(values["data_wait_share"], MAX_SHARE) for time_s, values in zip(seconds, steady, strict=True))
    return _Training(len(steady), num_images * len(steady), sum(seconds), waited)


def _evidence(records: Records, part: str) -> list[dict[str, Any]]:
    return [record["values"] for record in records if record["type"] == "evidence" and record["part"] == part]


def _is_speed(record: dict[str, Any]) -> bool:
    return record["type"] == "metrics" and record["stage"] == "train" and "data_wait_share" in record["values"]


def _input_bound(training: _Training, records: Records, params: Params) -> dict[str, Any]:
    model_rate = training.num_images / (training.seconds - training.waited_s)
    own_rate = training.num_images / training.seconds
    num_cores, size_px = _hardware(records).get("num_usable_cpus"), params.get("prepare.image_size_px")
    work = [f"augment.{name}={params[f'augment.{name}']}" for name in WORK_OF_EACH_IMAGE if params.get(f"augment.{name}")]
    cheaper = f"make an image cheaper: smaller than {size_px} px (prepare.image_size_px)"
    return {
        "fault": "input-bound",
        "score": round(training.wait_share, 2),
        "severity": "warning",
        "evidence": training.evidence() | {"waited_seconds": round(training.waited_s, 1)},
        "explanation": f"for {training.wait_share:.0%} of {training.told()} the model waited for images; alone it takes "
        f"{model_rate:.1f} images/s.",
        "fix": [
            {"action": f"run it on more cores than {num_cores}, which made {own_rate:.1f} images/s of the {model_rate:.1f} that it takes"},
            {"action": f"{cheaper}, or with less of {', '.join(work)}" if work else cheaper},
        ],
    }


def _compute_bound(training: _Training, records: Records, params: Params) -> list[dict[str, Any]]:
    alpha, size_px = params.get("train.alpha"), params.get("prepare.image_size_px")
    settings = [record["values"] for record in records if record["type"] == "setting" and record["stage"] == "train"]
    if alpha not in MULTIPLY_ADDS or not isinstance(size_px, int) or not settings:
        return []
    millions = STEP_OVER_FORWARD * MULTIPLY_ADDS[alpha] * (size_px / PUBLISHED_SIZE_PX) ** 2
    rate = millions * training.num_images / training.seconds / 1000
    has_gpu = bool(settings[-1]["gpus"])
    used = _gpu_percent(records)
    if rate >= SLOW_RATE or (has_gpu and (used is None or used >= BARELY_USED_PERCENT)):
        return []
    where = f"a GPU that was busy {used:.0f} % of the time" if has_gpu else "the CPU"
    evidence = training.evidence() | {
        "million_multiply_adds_an_image": round(millions, 1),
        "billion_multiply_adds_a_second": round(rate, 1),
    }
    if has_gpu and used is not None:
        evidence["gpu_utilization_percentage"] = round(used, 1)
    return [
        {
            "fault": "compute-bound",
            "score": round(1 - training.wait_share, 2),
            "severity": "warning",
            "evidence": evidence,
            "explanation": f"for {1 - training.wait_share:.0%} of {training.told()} on {where} the model was computed: alpha {alpha} at "
            f"{size_px} px takes up to {millions:.1f} million multiply-adds an image, so {rate:.1f} billion were done a second; a GPU that "
            f"is kept busy does more than {SLOW_RATE:.0f}.",
            "fix": _use_the_gpu(params) if has_gpu else _compute_less(params, _hardware(records).get("gpus")),
        }
    ]


def _gpu_percent(records: Records) -> float | None:
    """How busy the busiest GPU was from the end of the first epoch to that of the last; None if nobody looked."""
    times = [record["time"] for record in records if _is_speed(record)]
    samples: dict[str, list[float]] = {}
    for record in records:
        if record["type"] == "metrics" and record["stage"] == "system" and times[0] <= record["time"] <= times[-1]:
            for name, value in record["values"].items():
                if name.startswith("gpu_") and name.endswith("_utilization_percentage"):
                    samples.setdefault(name, []).append(value)
    return max((sum(values) / len(values) for values in samples.values()), default=None)


def _use_the_gpu(params: Params) -> list[dict[str, Any]]:
    batch = params.get("train.batch_size")
    fixes = [_change("train.batch_size", batch, min(4 * batch, LARGE_BATCH))] if isinstance(batch, int) and batch < LARGE_BATCH else []
    return fixes or [{"action": "train several runs at a time on this GPU, for one leaves it idle"}]


def _compute_less(params: Params, idle_gpus: Any) -> list[dict[str, Any]]:
    """A GPU that lies idle comes first; else less work, where the model is larger than most need; else a GPU."""
    alpha, size_px = params["train.alpha"], params["prepare.image_size_px"]
    fixes: list[dict[str, Any]] = []
    if idle_gpus:
        fixes.append(
            {"action": "the machine has an NVIDIA GPU that training did not use. Install what TensorFlow needs for it: make run EXTRA=gpu"}
        )
    if size_px > LARGE_SIZE_PX:
        fixes.append(_change("prepare.image_size_px", size_px, max(LARGE_SIZE_PX, size_px // 2)))
    if alpha > LARGE_ALPHA and params.get("ingest.backbone_weights") in PUBLISHED_WEIGHTS:
        smaller = max(other for other, cost in MULTIPLY_ADDS.items() if cost <= 0.7 * MULTIPLY_ADDS[alpha])
        fixes.append(_change("train.alpha", alpha, smaller))
    return fixes or [{"action": "train on a machine with an NVIDIA GPU: make run EXTRA=gpu"}]


def _change(param: str, before: Any, after: Any) -> dict[str, Any]:
    return {"param": param, "from": before, "to": after, "command": f"dvc exp run -S {param}={after}"}


def _hardware(records: Records) -> dict[str, Any]:
    found = next((record for record in records if record.get("part") == "environment"), {})
    return dict(found.get("hardware") or {})
