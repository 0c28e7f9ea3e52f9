"""No secret leaves the machine: some of each kind are planted, and MLflow's whole store is searched for them."""

from __future__ import annotations

import json
from pathlib import Path

from tests import tiny

ENVIRONMENT = {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCY", "SERVICE_TOKEN": "plain-words-of-a-token"}
ADDRESS_WORD = "s3cr3tword"
PATCH = {
    "settings.ini": ("password = hunter22hunter", "hunter22hunter"),
    "cloud.env": ("AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    "client.py": ('headers = {"Authorization": "Bearer abcdef0123456789abcdef"}', "abcdef0123456789abcdef"),
    "hub.py": ("login('hf_0123456789abcdefghij0123')", "hf_0123456789abcdefghij0123"),
    "key.pem": ("-----BEGIN PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END PRIVATE KEY-----", "MIIEowIBAAKCAQEA"),
    "quoted.txt": (f"the service said {ENVIRONMENT['SERVICE_TOKEN']}", ENVIRONMENT["SERVICE_TOKEN"]),
}
PARAM_WORD = "t0p secret value"  # in quotes, which JSON writes otherwise


def test_nothing_planted_reaches_mlflow(clone: Path) -> None:
    tiny.run(clone, "git", "remote", "add", "origin", f"https://me:{ADDRESS_WORD}@host/x.git")
    tiny.run(clone, "dvc", "remote", "add", "storage", f"https://me:{ADDRESS_WORD}@host/x")
    for name, (line, _) in PATCH.items():
        (clone / name).write_text(line + "\n")
    tiny.set_params(clone, {"ingest.backbone_weights": f'/gone/token="{PARAM_WORD}"'})
    failed = tiny.run(
        clone, "env", f"PWD={clone}", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), "dvc", "repro", check=False
    )
    assert failed.returncode != 0
    tiny.wait_for_recorders(clone)
    (run,) = tiny.mlflow_runs(clone)
    assert run.data.tags["failure.stage"] == "ingest"
    searched = {path: path.read_bytes() for path in [clone / "mlflow.db", *(clone / "mlruns").rglob("*")] if path.is_file()}
    names = {path.name for path in searched}
    assert {"mlflow.db", "changes.patch", "journal.jsonl", "traceback.txt", "index.html", "verdict.json", "params.yaml"} <= names
    patch = next(content for path, content in searched.items() if path.name == "changes.patch").decode()
    assert all(name in patch for name in PATCH)
    traceback = next(content for path, content in searched.items() if path.name == "traceback.txt").decode()
    assert f"{clone}/stages/ingest.py" in traceback, "the working folder is no secret"
    lines = next(content for path, content in searched.items() if path.name == "journal.jsonl").splitlines()
    assert [json.loads(line)["type"] for line in lines].count("failure") == 1, "what is masked is JSON still"
    for secret in [ADDRESS_WORD, PARAM_WORD, *ENVIRONMENT.values(), *(secret for _, secret in PATCH.values())]:
        holding = [path.name for path, content in searched.items() if secret.encode() in content]
        assert holding == [], f"{secret} is in {holding}"
