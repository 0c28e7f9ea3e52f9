"""The classifier as an MLflow model, and as the champion among the registered ones."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException

from stages.flight.record import lock, names
from stages.flight.record.description import GATES
from stages.shared import files, model, prepared, scores

SAVED = "model"
EXAMPLE = "input_example.npy"
LOCK = "champion.lock"
# Which of two models is better is decided by this, as `best` among the runs is.
DECIDING_METRIC = "macro_f1"
TEST_SPLIT = "data/prepared/test"
TAG_SCORE, TAG_TEST_SPLIT, TAG_RUN = f"evaluate.{DECIDING_METRIC}", "test-split", names.TAG_FLIGHT_ID
BATCH_IMAGES = 64


def log(client: mlflow.MlflowClient, run_id: str, folder: Path, workspace: Path) -> None:
    """Log the model that a run has kept, and make it the champion if its gates passed and it is the best; loads TensorFlow."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the GPU's memory belongs to the next training
    run = client.get_run(run_id)
    logged = run.outputs.model_outputs if run.outputs is not None else []
    model_id = logged[0].model_id if logged else _log(client, run, folder / SAVED)
    gates = folder / GATES
    if gates.is_file() and all(gate["passed"] for gate in files.read_json(gates).values()):
        with (folder.parent.parent / LOCK).open("ab") as held:  # two recorders of a repository decide one after the other
            fcntl.flock(held, fcntl.LOCK_EX)
            _challenge(client, run, model_id, folder, workspace)


def _log(client: mlflow.MlflowClient, run: Any, saved: Path) -> str:
    import mlflow.tensorflow
    from mlflow.models import Model, infer_signature

    for left in client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"):
        client.delete_logged_model(left.model_id)  # by a try that was cut off
    classifier = model.load(saved)
    example = np.load(saved / EXAMPLE).astype(np.float32)
    signature = infer_signature(example, np.asarray(classifier(example)))
    requirements = [f"{package}=={importlib.metadata.version(package)}" for package in ("keras", "numpy", "tensorflow")]
    mlflow.set_experiment(experiment_id=run.info.experiment_id)
    # mlflow.keras cannot save an input example (3.17.2), and the fluent log_model would end the run.
    logged = Model.log(
        None,
        flavor=mlflow.tensorflow,
        name=names.MODEL_NAME,
        run_id=run.info.run_id,
        model=classifier,
        signature=signature,
        input_example=example,
        pip_requirements=requirements,
    )
    return str(logged.model_id)


def _challenge(client: mlflow.MlflowClient, run: Any, model_id: str, folder: Path, workspace: Path) -> None:
    """Register the model under the experiment's name, with the alias, if it scores higher than the champion on the same test split."""
    name = client.get_experiment(run.info.experiment_id).name
    score = files.read_json(folder / "reports/evaluate/metrics.json")[DECIDING_METRIC]
    split = _test_split(folder)
    champion = _champion(client, name)
    if champion is not None and champion.tags.get(TAG_RUN) == run.data.tags[names.TAG_FLIGHT_ID]:
        return
    if champion is not None:
        is_measured = TAG_SCORE in champion.tags and champion.tags.get(TAG_TEST_SPLIT) == split
        standing = float(champion.tags[TAG_SCORE]) if is_measured else _score(champion, split, workspace)
        told = "cannot be compared: its test split or its classes differ" if standing is None else f"has {standing:.4f}"
        if standing is None or score <= standing:
            outcome = f"no: {DECIDING_METRIC} {score:.4f}; version {champion.version} {told}"
            client.set_tag(run.info.run_id, names.TAG_CHAMPION, outcome)
            return
    if champion is None and not any(known.name == name for known in client.search_registered_models(f"name = '{name}'")):
        client.create_registered_model(name)
    tags = {TAG_SCORE: repr(score), TAG_TEST_SPLIT: split, TAG_RUN: run.data.tags[names.TAG_FLIGHT_ID]}
    begun = client.search_model_versions(f"name = '{name}' and run_id = '{run.info.run_id}'")  # by a try that was cut off
    version = begun[0] if begun else client.create_model_version(name, f"models:/{model_id}", run.info.run_id, tags=tags, model_id=model_id)
    client.set_registered_model_alias(name, names.CHAMPION_ALIAS, version.version)
    client.set_tag(run.info.run_id, names.TAG_CHAMPION, f"yes: version {version.version}")


def _champion(client: mlflow.MlflowClient, name: str) -> Any:
    try:
        return client.get_model_version_by_alias(name, names.CHAMPION_ALIAS)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model, no such alias
            return None
        raise


def _test_split(folder: Path) -> str:
    deps = lock.read_stages(folder / "dvc.lock").get("evaluate", {}).get("deps", [])
    return str(next((dep["md5"] for dep in deps if dep["path"] == TEST_SPLIT), ""))


def _score(champion: Any, split: str, workspace: Path) -> float | None:
    """The champion's figure on the present test split, on which it has not been measured; None if it does not fit."""
    if not (workspace / TEST_SPLIT).is_dir() or lock.md5(workspace / TEST_SPLIT) != split:
        return None
    uri = f"models:/{champion.name}/{champion.version}"
    if "tensorflow" not in mlflow.models.get_model_info(uri).flavors:
        return None
    test = prepared.read(workspace / "data/prepared", "test")
    classifier = mlflow.tensorflow.load_model(uri)
    if classifier.input_shape[1] != test.size_px or classifier.output_shape[1] != len(test.classes):
        return None
    parts = [np.arange(start, min(start + BATCH_IMAGES, len(test.labels))) for start in range(0, len(test.labels), BATCH_IMAGES)]
    probabilities = np.concatenate([np.asarray(classifier(test.gather(part).astype(np.float32))) for part in parts])
    return float(scores.score(test.labels, probabilities)[DECIDING_METRIC])
