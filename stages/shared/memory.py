"""What the kernel says of memory: the limit of this process, and how often its out-of-memory killer has struck."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
# Control groups without a limit have a number near the largest of 64 bits.
NO_LIMIT_BYTES = 1 << 60


def num_oom_kills() -> int:
    """Processes of our control group that the kernel has killed for lack of memory; without groups, of the whole machine.

    Source: the kernel's manual, ``cgroup-v2`` (memory.events) and ``cgroup-v1/memory`` (memory.oom_control).
    """
    for path in (*_group_files("memory.events", "memory.oom_control"), Path("/proc/vmstat")):
        found = re.search(r"^oom_kill (\d+)$", _read(path), re.MULTILINE)
        if found:
            return int(found[1])
    return 0


def limit_bytes() -> int:
    """The least of the machine's memory, the control group's limit, and the limit of the address space."""
    limits = [psutil.virtual_memory().total]
    for path in _group_files("memory.max", "memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdigit() and int(text) < NO_LIMIT_BYTES:
            limits.append(int(text))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min(limits)


def free_bytes() -> int:
    """What this process may still take, by the machine and by its limits."""
    used = psutil.Process().memory_info()
    left = [psutil.virtual_memory().available, limit_bytes() - used.rss]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        left.append(soft - used.vms)
    return max(0, min(left))


def _group_files(version_2: str, version_1: str) -> list[Path]:
    """A file of our control group, in version 2 (``0::/path``) or 1 (``4:memory:/path``); inside a container the path is its own root."""
    files = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        base, name = (CGROUPS, version_2) if not controllers else (CGROUPS / "memory", version_1)
        if not controllers or "memory" in controllers.split(","):
            files += [base / path.lstrip("/") / name, base / name]
    return files


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
