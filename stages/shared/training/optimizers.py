"""The optimizer and the schedule of its rate, made from the parameters."""

from __future__ import annotations

from typing import Any

import keras

from stages.shared.params import TrainParams

# Rates of BatchNorm and biases are left alone: to shrink them does not regularise (He et al. 2019, 'Bag of Tricks', section 3.1).
UNDECAYED = ["gamma", "beta", "bias"]


def optimizer(params: TrainParams, rate: float, num_steps: int, steps_per_epoch: int) -> Any:
    """The optimizer of one phase of at most ``num_steps`` batches, whose highest rate is ``rate``."""
    optimizers: dict[str, tuple[Any, dict[str, Any]]] = {
        "adam": (keras.optimizers.Adam, {}),
        "adamw": (keras.optimizers.AdamW, {}),
        "sgd": (keras.optimizers.SGD, {"momentum": params.momentum}),
        "rmsprop": (keras.optimizers.RMSprop, {"momentum": params.momentum}),
        "adagrad": (keras.optimizers.Adagrad, {}),
        "adadelta": (keras.optimizers.Adadelta, {}),
    }
    make, options = optimizers[params.optimizer]
    made = make(
        learning_rate=_schedule(params, rate, num_steps, params.warmup_epochs * steps_per_epoch),
        global_clipnorm=params.clip_norm,
        weight_decay=params.weight_decay or (0.0 if params.optimizer == "adamw" else None),
        gradient_accumulation_steps=params.gradient_accumulation_steps if params.gradient_accumulation_steps > 1 else None,
        **options,
    )
    if params.weight_decay:
        made.exclude_from_weight_decay(var_names=UNDECAYED)
    return made


def _schedule(params: TrainParams, rate: float, num_steps: int, num_warmup_steps: int) -> Any:
    """The rate by step; ``plateau`` sets it by a callback, so there it is a number."""
    schedules = keras.optimizers.schedules
    if params.schedule == "cosine":
        if not num_warmup_steps:
            return schedules.CosineDecay(rate, num_steps)
        num_decay_steps = max(1, num_steps - num_warmup_steps)
        return schedules.CosineDecay(0.0, num_decay_steps, warmup_target=rate, warmup_steps=num_warmup_steps)
    if num_warmup_steps:
        return schedules.PolynomialDecay(0.0, num_warmup_steps, end_learning_rate=rate, power=1.0)
    return rate
