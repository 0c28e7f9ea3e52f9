"""Every metric, tag and artifact name in MLflow, once."""

from __future__ import annotations

import hashlib
import re

MAX_NAME_LENGTH = 250  # MLflow's (mlflow/utils/validation.py)

STAGES = ("ingest", "validate", "prepare", "augment", "train", "evaluate", "diagnose")

DEFAULT_EXPERIMENT = "flight-recorder"

TAG_FLIGHT_ID = "flight.id"
TAG_VERDICT = "verdict"
TAG_FAILURE_STAGE = "failure.stage"
TAG_FAILURE_KIND = "failure.kind"
TAG_GIT_DIRTY = "git.dirty"
TAG_DATA_VERSION = "data.version"
TAG_HEARTBEAT = "heartbeat"
TAG_CODE_REF = "code.ref"
TAG_GATES = "gates"
TAG_RESUMED = "resumed"
TAG_REPLAY_OF = "replay.of"
TAG_REPLAY_LEVEL = "replay.level"
TAG_HYBRID_OF = "hybrid.of"
TAG_HYBRID_SWITCHED = "hybrid.switched"
TAG_DRIFT = "drift"
TAG_CHAMPION = "champion"
TAG_HOST = "flight.host"
TAG_DVC_EXPERIMENT = "dvc.experiment"
TAG_DESCRIPTION = "mlflow.note.content"
TAG_GIT_COMMIT = "mlflow.source.git.commit"
TAG_RUN_NAME = "mlflow.runName"
TAG_SOURCE = "mlflow.source.name"
TAG_USER = "mlflow.user"

ARTIFACT_RECORD = "record"
MODEL_NAME = "model"
CHAMPION_ALIAS = "champion"


def stage_tag(stage: str) -> str:
    """The tag that tells what became of a stage: ran, failed, cached, not-reached."""
    return f"stage.{stage}"


def metric(stage: str, name: str) -> str:
    """MLflow groups charts by the part before the slash."""
    return f"{stage}/{name}"


def valid(name: str) -> str:
    """A name that MLflow takes for a metric or parameter; a long one ends in its own hash, so that two stay apart."""
    valid = re.sub(r"[^\w\-./ :]", "_", name, flags=re.ASCII)
    if valid == name and len(name) <= MAX_NAME_LENGTH:
        return name
    return f"{valid[: MAX_NAME_LENGTH - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
