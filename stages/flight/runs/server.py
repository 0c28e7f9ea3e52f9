"""An MLflow server, asked over its REST interface with the standard library alone: loading MLflow takes seconds.

Name and password go to the address that was set and nowhere else: no redirect is followed.
"""

from __future__ import annotations

import base64
import http
import http.client
import json
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlencode, urlsplit

from stages.flight.runs.index import UnknownRunError

# A person waits so long for a server that is not there. A file may take longer, as long as it keeps coming.
ANSWER_TIMEOUT_S, FILE_TIMEOUT_S = 5.0, 60.0
MAX_ANSWER_BYTES, MAX_FILE_BYTES = 32_000_000, 64_000_000
MAX_REASON_LENGTH = 200
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, of someone who may read it"

Answer = TypeVar("Answer")


class ServerError(UnknownRunError):
    """The server cannot be asked for the run, or answers otherwise than MLflow does; the message says what was expected."""


@dataclass(frozen=True)
class _Reply:
    status: int
    content: bytes
    location: str = ""

    def is_missing(self) -> bool:
        """Whether MLflow says that there is no such thing; another server's 404 says nothing."""
        try:
            return bool(json.loads(self.content)["error_code"] == "RESOURCE_DOES_NOT_EXIST")
        except (ValueError, KeyError, TypeError, RecursionError):
            return False

    def refusal(self) -> str:
        """What to tell of any other status."""
        if self.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            return f"refuses to answer ({self.status}); expected {CREDENTIALS}"
        where = f", and names {self.location[:MAX_REASON_LENGTH]}" if self.location else ""
        return f"answered with status {self.status}{where}; expected an MLflow server, its whole address in MLFLOW_TRACKING_URI"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Have a redirect raised as the error that its status is."""


class Server:
    """The server at ``uri`` (http or https), which may hold a name and a password; ``address`` is the same without."""

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._headers = {"Content-Type": "application/json", **_authorization(parts.username, parts.password)}
        certificates = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get("REQUESTS_CA_BUNDLE")
        try:
            context = ssl.create_default_context(cafile=certificates)
        except OSError as error:
            raise ServerError(f"the certificates in {certificates} cannot be read ({error})") from error
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=context))

    def ask(self, method: str, query: Mapping[str, Any], *, posted: bool = False) -> bytes | None:
        """The JSON that a method of the interface (``runs/get``) answers; None where MLflow has no such thing.

        Raises:
            ServerError: if there is no answer in time, a refusal, or more than MAX_ANSWER_BYTES.
        """
        path = f"api/2.0/mlflow/{method}"
        body = json.dumps(query).encode() if posted else None
        return self._fetch(path if posted else f"{path}?{urlencode(query)}", body, MAX_ANSWER_BYTES, ANSWER_TIMEOUT_S)

    def artifact(self, run_id: str, path: str) -> bytes | None:
        """The content of a run's artifact, or None; raises as ``ask``."""
        return self._fetch(f"get-artifact?{urlencode({'run_id': run_id, 'path': path})}", None, MAX_FILE_BYTES, FILE_TIMEOUT_S)

    def _fetch(self, path: str, body: bytes | None, limit: int, timeout_s: float) -> bytes | None:
        try:
            reply = _in_time(lambda: self._read(f"{self.address}/{path}", body, limit), timeout_s)
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error))[:MAX_REASON_LENGTH] or f"no whole answer within {timeout_s:.0f} s"
            raise ServerError(f"{self.address} cannot be asked ({reason}); expected an MLflow server that answers") from error
        except ValueError as error:  # its words may quote what must not be shown
            raise ServerError(f"{self.address} cannot be asked; expected an address like http://host:5000, and {CREDENTIALS}") from error
        if len(reply.content) > limit:
            raise ServerError(f"{self.address} answered with more than {limit // 1_000_000} MB, which no record of a run has")
        if reply.status == http.HTTPStatus.OK:
            return reply.content
        if reply.is_missing():
            return None
        raise ServerError(f"{self.address} {reply.refusal()}")

    def _read(self, url: str, body: bytes | None, limit: int) -> _Reply:
        request = urllib.request.Request(url, body, self._headers)  # noqa: S310  (who makes a Server has seen the scheme)
        try:
            with self._opener.open(request, timeout=ANSWER_TIMEOUT_S) as answer:
                return _Reply(answer.status, answer.read(limit + 1))
        except urllib.error.HTTPError as error:
            with error:
                return _Reply(error.code, error.read(limit + 1), error.headers.get("Location", ""))


def _authorization(name: str | None, password: str | None) -> dict[str, str]:
    """As MLflow has it: from the address, else from the environment; a token where there is no password."""
    name = unquote(name or "") or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if name and password:
        return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _in_time(work: Callable[[], Answer], timeout_s: float) -> Answer:
    """What ``work`` returns; TimeoutError after ``timeout_s``.

    On a thread that is left behind: neither the look-up of a name nor an answer that comes a byte at a time ends by a socket's timeout.
    """
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout_s)
