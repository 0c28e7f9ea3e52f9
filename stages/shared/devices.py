"""What Keras computes on: seeds, determinism, precision, GPUs and threads, whichever backend it has."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import Any

import keras
import pynvml

from stages.shared import memory
from stages.shared.errors import UntrainableError
from stages.shared.params import TrainParams

# NVIDIA's tensor cores, which mixed_float16 needs to gain anything, came with compute capability 7.0.
TENSOR_CORES = (7, 0)


def set_up(params: TrainParams) -> dict[str, Any]:
    """Apply seed, determinism and precision; returns what was found, for the record.

    Raises:
        UntrainableError: if Keras runs on another backend.
    """
    if keras.backend.backend() not in _SET_UP:
        raise UntrainableError(f"KERAS_BACKEND is {keras.backend.backend()}. Expected {' or '.join(_SET_UP)}; type: unset KERAS_BACKEND")
    keras.utils.set_random_seed(params.seed)
    found: dict[str, Any] = {"backend": keras.backend.backend(), "keras": keras.__version__}
    found |= _SET_UP[keras.backend.backend()](deterministic=params.deterministic)
    precision = params.precision
    if precision == "auto":
        precision = "mixed_float16" if found["tensor_cores"] else "float32"
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


def _set_up_jax(*, deterministic: bool) -> dict[str, Any]:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # as TensorFlow's memory growth; read when devices are first asked for
    if deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    import jax

    gpus = [device for device in jax.devices() if device.platform == "gpu"]
    capabilities = [tuple(int(part) for part in gpu.compute_capability.split(".")) for gpu in gpus]
    return {
        "jax": jax.__version__,
        "gpus": [gpu.device_kind for gpu in gpus],
        "tensor_cores": bool(gpus) and min(capabilities) >= TENSOR_CORES,
        "op_determinism": deterministic,
    }


_SET_UP = {"tensorflow": _set_up_tensorflow, "jax": _set_up_jax}


def distribution() -> Any:
    """A context to make and compile a model in, so that it trains on all GPUs of the machine, each with its share of a batch.

    On JAX it trains on the first: its ``DataParallel`` refuses batches that the devices do not divide, such as an epoch's last.
    """
    if keras.backend.backend() == "jax":
        return contextlib.nullcontext()
    strategy = _mirrored()
    return contextlib.nullcontext() if strategy is None else strategy.scope()


@functools.cache
def _mirrored() -> Any:
    import tensorflow as tf

    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in found]) if len(found) > 1 else None


def num_replicas() -> int:
    """How many devices share a batch."""
    if keras.backend.backend() == "jax":
        return 1
    strategy = _mirrored()
    return 1 if strategy is None else int(strategy.num_replicas_in_sync)


def free_memory_bytes() -> int:
    """What is free on the device that computes: the first GPU, else the machine's memory, within its limits."""
    if keras.backend.backend() == "jax":
        import jax

        statistics = jax.devices()[0].memory_stats()
        return int(statistics["bytes_limit"] - statistics["bytes_in_use"]) if statistics else memory.free_bytes()
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        return memory.free_bytes()
    pynvml.nvmlInit()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(int(visible) if visible.isdigit() else 0)).free)


def hint(found: dict[str, Any]) -> str | None:
    """What to say where training has no GPU although the machine may have one; None where all is well."""
    if found["gpus"]:
        return None
    num_gpus = _num_nvidia_gpus()
    if not num_gpus:
        return "no GPU found: training on the CPU"
    return (
        f"training on the CPU, although NVIDIA's driver sees {num_gpus} GPU{'s' * (num_gpus > 1)}: "
        f"{found['backend']} was installed without CUDA, or CUDA_VISIBLE_DEVICES hides them. Type: make run EXTRA=gpu"
    )


def _num_nvidia_gpus() -> int:
    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0
