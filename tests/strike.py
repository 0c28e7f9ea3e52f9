"""Ways to end a run at a given moment, from inside a stage's process or from outside.

For those from inside, ``sitecustomize.py`` in a folder on PYTHONPATH starts a thread in the stage named; nothing of the
project knows of it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from stages.flight.record import journal
from tests import tiny

SITECUSTOMIZE = """
import ctypes, os, resource, sys, threading, time
stage, way, delay = os.environ["STRIKE"].split(",")

class Exit(SystemExit):
    def __init__(self):
        super().__init__(3 if way == "sys.exit(3)" else 0)

class Injected(RuntimeError):
    pass

def raise_in_main_thread(error):
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(threading.main_thread().ident), ctypes.py_object(error))

def strike():
    time.sleep(float(delay))
    open(os.environ["STRIKE_MARK"], "w").close()
    if way == "exception":
        raise_in_main_thread(Injected)
    elif way.startswith("sys.exit"):
        raise_in_main_thread(Exit)
    elif way == "os._exit(0)":
        os._exit(0)
    elif way == "os._exit(3)":
        os._exit(3)
    elif way == "address space":
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used, used))
    elif way == "memory of the group":
        held = []
        while True:
            held.append(bytearray(64 << 20))

if sys.orig_argv[-1] == f"stages.{stage}":
    threading.Thread(target=strike, daemon=True).start()
"""
INSIDE = ("exception", "sys.exit(3)", "sys.exit(0)", "os._exit(0)", "os._exit(3)", "address space", "memory of the group")
GROUP = Path("/sys/fs/cgroup/memory") / f"flight-recorder-tests-{os.getpid()}"
GROUP_LIMIT_BYTES = 3 << 30


# Way → the signal, and who gets it.
OUTSIDE = {
    "Ctrl-C": (signal.SIGINT, ("dvc", "launcher")),
    "SIGTERM to dvc": (signal.SIGTERM, ("dvc",)),
    "SIGTERM to the launcher": (signal.SIGTERM, ("launcher",)),
    "SIGTERM to the stage": (signal.SIGTERM, ("stage",)),
    "SIGKILL to dvc": (signal.SIGKILL, ("dvc",)),
    "SIGKILL to the launcher": (signal.SIGKILL, ("launcher",)),
    "SIGKILL to the stage": (signal.SIGKILL, ("stage",)),
    "SIGKILL to the recorder": (signal.SIGKILL, ("recorder",)),
    "power loss": (signal.SIGKILL, ("recorder", "dvc", "launcher", "stage")),
}
# Way → (status, kinds that tell the truth).
EXPECTED = {
    "exception": ("FAILED", {"exception"}),
    "sys.exit(3)": ("FAILED", {"exception"}),
    "sys.exit(0)": ("FAILED", {"exception"}),
    "os._exit(0)": ("FAILED", {"exception"}),
    "os._exit(3)": ("FAILED", {"exception"}),
    "address space": ("FAILED", {"out-of-memory"}),
    "memory of the group": ("FAILED", {"out-of-memory"}),
    "Ctrl-C": ("KILLED", {"interrupted"}),
    "SIGTERM to dvc": ("KILLED", {"terminated"}),
    "SIGTERM to the launcher": ("KILLED", {"terminated"}),
    "SIGTERM to the stage": ("KILLED", {"terminated"}),
    "SIGKILL to dvc": ("KILLED", {"terminated"}),
    "SIGKILL to the launcher": ("KILLED", {"killed"}),
    "SIGKILL to the stage": ("KILLED", {"killed"}),
    "SIGKILL to the recorder": ("FINISHED", {"-"}),
    "power loss": ("KILLED", {"lost"}),
}


def make_group() -> bool:
    """A control group whose limit a stage can exceed; False where groups of version 1 cannot be made."""
    try:
        GROUP.mkdir(exist_ok=True)
        (GROUP / "memory.limit_in_bytes").write_text(str(GROUP_LIMIT_BYTES))
    except OSError:
        return False
    return True


def run(clone: Path, injection: Path, stage: str, way: str, delay_s: float) -> tuple[Path | None, int]:
    """``dvc repro`` in ``clone``, struck ``delay_s`` after ``stage`` has begun.

    Returns the run's folder (None: the stage was over too soon) and DVC's exit code.
    """
    injection.mkdir(exist_ok=True)
    mark = injection / "struck"
    mark.unlink(missing_ok=True)
    (injection / "sitecustomize.py").write_text(SITECUSTOMIZE)
    before = set(clone.glob(".flight/runs/[!.]*/"))
    command = ["dvc", "repro"]
    if way in INSIDE:
        command = ["env", f"PYTHONPATH={injection}", f"STRIKE={stage},{way},{delay_s}", f"STRIKE_MARK={mark}", *command]
    if way == "memory of the group":
        command = ["sh", "-c", f'echo $$ > {GROUP}/cgroup.procs; exec "$@"', "sh", *command]
    dvc = tiny.start(clone, *command)
    struck = way not in INSIDE and _strike(clone, before, dvc.pid, stage, way, delay_s)
    dvc.communicate()
    folder = next(iter(set(clone.glob(".flight/runs/[!.]*/")) - before))
    return (folder if struck or mark.exists() else None), dvc.returncode


def _strike(clone: Path, before: set[Path], dvc: int, stage: str, way: str, delay_s: float) -> bool:
    started = None
    while started is None and psutil.Process(dvc).status() != psutil.STATUS_ZOMBIE:
        for folder in set(clone.glob(".flight/runs/[!.]*/")) - before:
            records = journal.read_run(folder)
            started = next((record for record in records if record["type"] == "stage-start" and record["stage"] == stage), None)
        time.sleep(0.02)
    time.sleep(delay_s)
    if started is None or any(record["type"] == "stage-end" for record in journal.read_run(folder)):
        return False
    recorder = next(process.pid for process in tiny.processes(clone) if str(folder) in process.cmdline())
    pids = {"dvc": dvc, "launcher": started["launcher"]["pid"], "stage": started["process"]["pid"], "recorder": recorder}
    number, receivers = OUTSIDE[way]
    for receiver in receivers:
        os.kill(pids[receiver], number)
    return True
