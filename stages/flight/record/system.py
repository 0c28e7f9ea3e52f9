"""The load of the machine while a stage runs, under the names that MLflow's page of system metrics shows."""

from __future__ import annotations

import contextlib

import psutil
import pynvml

MEGABYTE = 1e6


def gpus() -> list[dict[str, str | int]]:
    """Name, memory, compute capability, driver and CUDA of each GPU; none without NVIDIA's driver."""
    found: list[dict[str, str | int]] = []
    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        cuda = pynvml.nvmlSystemGetCudaDriverVersion()
        for number in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(number)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(gpu)
            found.append(
                {
                    "name": str(pynvml.nvmlDeviceGetName(gpu)),
                    "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(gpu).total),
                    "compute_capability": f"{major}.{minor}",
                    "driver": str(pynvml.nvmlSystemGetDriverVersion()),
                    "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",  # 12040 is 12.4
                }
            )
    return found


class SystemSampler:
    """Samples processor, memory and GPUs; percentages of the processor count since the sample before."""

    def __init__(self) -> None:
        self._gpus = []
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._gpus = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        psutil.cpu_percent()

    def sample(self, stage: psutil.Process | None) -> dict[str, float]:
        """Name → value: of the machine, and the resident memory of the process of the stage."""
        memory = psutil.virtual_memory()
        values = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": (memory.total - memory.available) / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
        }
        with contextlib.suppress(psutil.Error):
            if stage is not None:
                values["stage_memory_usage_megabytes"] = stage.memory_info().rss / MEGABYTE
        for number, gpu in enumerate(self._gpus):
            with contextlib.suppress(pynvml.NVMLError):
                used = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                values[f"gpu_{number}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu)
                values[f"gpu_{number}_memory_usage_megabytes"] = used.used / MEGABYTE
                values[f"gpu_{number}_memory_usage_percentage"] = 100 * used.used / used.total
                values[f"gpu_{number}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
        return values
