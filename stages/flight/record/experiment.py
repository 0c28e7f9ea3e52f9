"""How MLflow shows the experiment: its kind, its main metric, and a saved view of the runs with their outcomes."""

from __future__ import annotations

import base64
import json
import zlib

from stages.flight.record import names

# Without the kind, MLflow's pages open on traces of language models.
TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "evaluate/accuracy",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
}
VIEW_KEY = "outcomes"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
VIEW_COLUMNS = (
    "attributes.`Duration`",
    f"tags.`{names.TAG_VERDICT}`",
    f"tags.`{names.TAG_FAILURE_STAGE}`",
    f"tags.`{names.TAG_FAILURE_KIND}`",
    "metrics.`evaluate/accuracy`",
    "metrics.`evaluate/macro_f1`",
    f"tags.`{names.TAG_GATES}`",
    f"tags.`{names.TAG_CHAMPION}`",
)


def saved_view(created_ms: int) -> str:
    """The value of the tag in which MLflow's pages (3.17) keep a saved view: the state as JSON, deflated, in base 64."""
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(VIEW_COLUMNS),
        "runsHiddenMode": "FIRST_10_RUNS",
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": "Outcomes", "createdAt": created_ms, "updatedAt": created_ms, "state": f"deflate;{packed}"})
