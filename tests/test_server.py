"""A team's server: MLflow with PostgreSQL, an S3 store and passwords, all real, reached by environment variables alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.flight.record import names
from tests import servers, tiny

COLLEAGUE = "colleague"

pytestmark = pytest.mark.slow


def test_postgresql_s3_and_passwords(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.server

    port = servers.free_port()
    uri = f"http://127.0.0.1:{port}"
    configuration = tmp_path / "auth.ini"
    with servers.postgresql() as database, servers.s3(tmp_path / "s3") as store:
        configuration.write_text(f"[mlflow]\ndefault_permission = EDIT\ndatabase_uri = sqlite:///{tmp_path / 'auth.db'}\n")
        environment = {
            **store,
            "MLFLOW_AUTH_CONFIG_PATH": str(configuration),
            "MLFLOW_AUTH_ADMIN_USERNAME": servers.ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": servers.PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "only-for-this-test",
        }
        options = ("--artifacts-destination", f"s3://{servers.BUCKET}/artifacts", "--app-name", "basic-auth")
        with servers.mlflow(tmp_path / "mlflow", port, *options, environment=environment, backend=database):
            address = (f"MLFLOW_TRACKING_URI={uri}", f"MLFLOW_TRACKING_USERNAME={servers.ADMIN}")
            # Without the password: the pipeline runs, and says what is wrong; sync, with it, ships the run.
            tiny.set_params(clone, {"evaluate.gates.accuracy.min": 0.01})
            refused = tiny.run(clone, "env", *address, "MLFLOW_TRACKING_PASSWORD=wrong", "dvc", "repro")
            tiny.wait_for_recorders(clone)
            assert "401" in refused.stderr + refused.stdout or "UNAUTHENTICATED" in refused.stderr
            assert "flight sync" in refused.stderr
            assert "correct-horse" not in refused.stderr
            right = (*address, f"MLFLOW_TRACKING_PASSWORD={servers.PASSWORD}")
            assert "1 shipped, 0 left" in tiny.run(clone, "env", *right, "flight", "sync").stdout
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", servers.ADMIN)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", servers.PASSWORD)
            mlflow.server.get_app_client("basic-auth", tracking_uri=uri).create_user(COLLEAGUE, servers.PASSWORD)
            theirs = (address[0], f"MLFLOW_TRACKING_USERNAME={COLLEAGUE}", f"MLFLOW_TRACKING_PASSWORD={servers.PASSWORD}")
            tiny.set_params(clone, {"train.seed": 5})
            tiny.run(clone, "env", *theirs, "dvc", "repro")
            tiny.wait_for_recorders(clone)

            mlflow.set_tracking_uri(uri)
            client = mlflow.MlflowClient(uri)
            experiment = client.get_experiment_by_name(names.DEFAULT_EXPERIMENT)
            newest, first = client.search_runs([experiment.experiment_id])
            assert {newest.info.status, first.info.status} == {"FINISHED"}
            assert newest.info.run_name == "train.seed=5"
            assert newest.data.tags["stage.train"] == "ran"
            assert first.data.tags["stage.train"] == "cached"
            for secret, code in ((servers.PASSWORD, 1), ("wrong", 2)):
                known = (*theirs[:2], f"MLFLOW_TRACKING_PASSWORD={secret}")
                asked = tiny.run(tmp_path, "env", *known, "flight", "why", first.info.run_id, "--json", check=False)
                assert asked.returncode == code, asked.stderr
                assert (first.info.run_id in asked.stdout) == (code == 1)
            assert [point.step for point in client.get_metric_history(newest.info.run_id, "train/val_loss")] == [0, 1]
            page = Path(client.download_artifacts(newest.info.run_id, "reports/diagnose/index.html", str(tmp_path)))
            assert page.read_bytes() == (clone / "reports/diagnose/index.html").read_bytes()
            assert list((tmp_path / "s3/files" / servers.BUCKET).rglob("diagnose/index.html")), "the artifacts are not in the S3 store"
            champion = client.get_model_version_by_alias(names.DEFAULT_EXPERIMENT, names.CHAMPION_ALIAS)
            assert champion.run_id in {newest.info.run_id, first.info.run_id}
            model = mlflow.pyfunc.load_model(f"models:/{names.DEFAULT_EXPERIMENT}@{names.CHAMPION_ALIAS}")
            assert model.predict(model.input_example).shape == (1, len(tiny.CLASSES))
            mlflow.set_tracking_uri(f"sqlite:///{clone / 'mlflow.db'}")
    assert not (clone / "mlflow.db").exists()
