"""Real servers for tests: MLflow, PostgreSQL, and an S3 store."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import tiny

STARTING_TIMEOUT_S = 90
ADMIN, PASSWORD = "admin", "correct-horse-battery"
S3_KEY, S3_SECRET = "flightkey", "flightsecretflightsecret"
BUCKET = "mlflow"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, folder: Path, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers on ``port``; ended with all its workers afterwards. Its output is in ``folder/log``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**tiny.environment(), **(environment or {})}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for_port(port, process, folder / "log")
        yield process
    finally:
        for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                try:
                    process.wait(0 if number == signal.SIGCONT else 10)
                except subprocess.TimeoutExpired:
                    continue


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when something answers."""
    deadline = time.monotonic() + STARTING_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                break
        except OSError:
            time.sleep(0.1)
    else:
        raise AssertionError(f"{process.args!r} does not answer:\n{log.read_text()[-2000:]}")


def wait_for_mlflow(uri: str) -> None:
    """MLflow answers on its port before its workers do."""
    deadline = time.monotonic() + STARTING_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"{uri} does not answer")


@contextmanager
def mlflow(
    folder: Path, port: int, *options: str, environment: dict[str, str] | None = None, backend: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """``mlflow server``; on an SQLite file in ``folder``, if no other backend is given."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = backend or f"sqlite:///{folder / 'server.db'}"
    options = options or ("--artifacts-destination", str(folder / "artifacts"))
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend, "--port", str(port), "--workers", "2", *options]
    with running(command, port, folder, environment) as process:
        wait_for_mlflow(f"http://127.0.0.1:{port}")
        yield process


@contextmanager
def postgresql() -> Iterator[str]:
    """A new PostgreSQL cluster; yields the address of its database."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert binaries, "this test needs PostgreSQL. Type: apt-get install postgresql"
    port = free_port()
    # PostgreSQL refuses to run as root, and its user cannot enter pytest's folders.
    as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if as_user:
            shutil.chown(folder, "postgres")
        make = [*as_user, str(binaries[-1] / "initdb"), "-D", str(folder / "data"), "-U", "mlflow", "--auth", "trust"]
        subprocess.run(make, check=True, cwd=folder, capture_output=True)
        serve = [*as_user, str(binaries[-1] / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
        with running([*serve, "-h", "127.0.0.1"], port, folder):
            yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 store with a bucket; yields what a client needs in its environment."""
    port = free_port()
    (folder / "files" / BUCKET).mkdir(parents=True)
    command = ["rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{S3_KEY},{S3_SECRET}", str(folder / "files")]
    with running(command, port, folder, {"RCLONE_CONFIG": str(folder / "rclone.conf")}):
        yield {
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": S3_KEY,
            "AWS_SECRET_ACCESS_KEY": S3_SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
