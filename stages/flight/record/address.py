"""Where runs are shipped to, and whether that can ever work; found out before any work, without loading MLflow."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from urllib.parse import urlsplit

SQLITE = "sqlite:///"
UNUSABLE = ("?", "%")  # in a database's address they mean something else
DATABASES = ("postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks", "databricks-uc")


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, a relative SQLite file taken from the repository, or the repository's own SQLite file."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    relative = uri.removeprefix(SQLITE)
    return f"{SQLITE}{root / relative}" if relative != uri and not relative.startswith("/") else uri


def fault(uri: str) -> str | None:
    """Why nothing can ever be shipped to this address, and what would be right; None if it may work."""
    try:
        return _fault(uri)
    except (ValueError, OSError) as error:  # urllib's, and the system's of a file's name
        return f"it is no address ({error}). Expected: http://host:5000"


def _fault(uri: str) -> str | None:
    scheme = (uri if uri in SERVERS else urlsplit(uri).scheme).split("+")[0]  # `databricks` is a whole address
    if scheme in ("http", "https"):
        return None if urlsplit(uri).hostname else "it names no host. Expected: http://host:5000"
    if scheme in ("", "file"):
        allowed = os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1")
        return None if allowed else f"MLflow no longer writes to a folder. Expected: {SQLITE}mlflow.db, or http://host:5000"
    if scheme == "sqlite":
        return _fault_of_file(uri)
    if scheme in DATABASES:
        return _fault_of_driver(uri)
    plugins = {point.name for point in importlib.metadata.entry_points(group="mlflow.tracking_store")}
    if scheme in SERVERS or scheme in plugins:
        return None
    known = ", ".join(f"{name}://" for name in (*SERVERS, *DATABASES, "sqlite"))
    return f"MLflow knows no address that begins with {scheme}:. Expected one of {known}"


def _fault_of_driver(uri: str) -> str | None:
    """Which package SQLAlchemy, and so MLflow, lacks for the database."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except (ImportError, SQLAlchemyError) as error:
        return f"{error}. Ship through a server (http://host:5000), or install the database's package"
    return None


def _fault_of_file(uri: str) -> str | None:
    if not uri.startswith(SQLITE):
        return f"Expected: {SQLITE}mlflow.db"
    path = Path(uri.removeprefix(SQLITE))
    if wrong := [sign for sign in UNUSABLE if sign in uri]:
        return f"an SQLite address cannot hold {wrong[0]}. Expected another folder for the clone, or {SQLITE}/a/plain/path.db"
    folder = next(parent for parent in path.parents if parent.exists())
    if path.is_dir() or not folder.is_dir():
        return f"{path if path.is_dir() else folder} is not what it should be: expected a file in a folder"
    if not os.access(path if path.exists() else folder, os.W_OK):
        return f"{path if path.exists() else folder} cannot be written to. Expected a file of your own"
    return None
