"""What Keras computes on: seeds, determinism, precision, GPUs and threads, whichever backend it has."""

from __future__ import annotations

import os
from typing import Any

import keras

from stages.shared.params import TrainParams

# NVIDIA's tensor cores, which mixed_float16 needs to gain anything, came with compute capability 7.0.
TENSOR_CORES = (7, 0)


def set_up(params: TrainParams) -> dict[str, Any]:
    """Apply seed, determinism and precision; returns what was found, for the record."""
    keras.utils.set_random_seed(params.seed)
    found: dict[str, Any] = {"backend": keras.backend.backend(), "keras": keras.__version__, "gpus": []}
    if keras.backend.backend() == "tensorflow":
        found.update(_set_up_tensorflow(deterministic=params.deterministic))
    precision = params.precision
    if precision == "auto":
        precision = "mixed_float16" if found.get("tensor_cores") else "float32"
    keras.config.set_dtype_policy(precision)
    return {**found, "precision": precision}


def _set_up_tensorflow(*, deterministic: bool) -> dict[str, Any]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    build = tf.sysconfig.get_build_info()
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return {
        "tensorflow": tf.__version__,
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
        "gpus": [str(detail.get("device_name")) for detail in details],
        "tensor_cores": bool(details) and all(detail.get("compute_capability", (0, 0)) >= TENSOR_CORES for detail in details),
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "op_determinism": deterministic,
    }
