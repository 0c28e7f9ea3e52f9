"""`flight why` of a run of another machine: from a real MLflow server, which may hold anything."""

from __future__ import annotations

import base64
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from stages.flight import cli
from stages.flight.record import journal, names
from stages.flight.runs import remote
from stages.flight.runs.changes import read_params
from tests import servers

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server, which MLFLOW_TRACKING_URI names for as long as it runs."""
    folder, port = tmp_path_factory.mktemp("server"), servers.free_port()
    options = ("--artifacts-destination", str(folder / "artifacts"), "--workers", "1")
    with servers.mlflow(folder, port, *options), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(address)


@pytest.fixture(scope="module")
def shipped(trained: Path, address: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The run of ``trained``, as another machine's recorder ships it: its ``flight.id``, and MLflow's."""
    from stages.flight.record.mlflow_store import Store

    (original,) = (trained / ".flight/runs").iterdir()
    folder = tmp_path_factory.mktemp("elsewhere") / original.name
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("model", "mlflow.json"))
    journal.Journal(folder).write("address", tracking_uri=address)
    assert Store(folder).ship()
    return original.name, json.loads((folder / "mlflow.json").read_text())["run_id"]


@pytest.fixture
def ask(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """`flight why` in a clone that has recorded nothing, from a folder below: exit code, standard output and error."""
    (tmp_path / "clone/stages").mkdir(parents=True)
    (tmp_path / "clone/dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "clone/stages")

    def ask(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()  # of MLflow's client, which tells of its runs
        code = cli.main(["why", *arguments])
        return code, *capsys.readouterr()

    return ask


def kept(tmp_path: Path) -> list[str]:
    """The files that a clone has of other machines' runs, and of nothing else."""
    assert {path.name for path in tmp_path.iterdir()} == {"clone"}
    assert not list((tmp_path / "clone/stages").iterdir())
    folder = tmp_path / "clone/.flight/others"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("how", ["flight id", "MLflow id", "prefix", "prefix of MLflow's", "name"])
def test_it_is_shown_like_one_of_this_machine(
    ask: Ask, shipped: tuple[str, str], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    flight_id, mlflow_id = shipped
    typed = {
        "flight id": flight_id,
        "MLflow id": mlflow_id,
        "prefix": flight_id[:15],
        "prefix of MLflow's": mlflow_id[:9],
        "name": "first run",
    }
    code, answer, told = ask(typed[how], "--json")
    monkeypatch.chdir(trained)
    here, local, _ = ask("--json")
    assert code == here
    assert json.loads(answer) == {**json.loads(local), "mlflow_run_id": mlflow_id, "page": None}
    assert f"run {flight_id} is not recorded here, but on http://127.0.0.1:" in told
    assert kept(tmp_path) == [f"{mlflow_id}/{name}" for name in ("diagnosis/verdict.json", "journal.jsonl", "mlflow.json", "summary.json")]


def test_its_parameters_are_those_that_it_was_run_with(address: str, shipped: tuple[str, str], trained: Path, tmp_path: Path) -> None:
    """MLflow has them as text: numbers, truth values, lists and nothing."""
    run = remote.fetch(shipped[0], tmp_path, tell=lambda _: None)
    params = read_params(trained / ".flight/runs" / shipped[0])
    assert {type(value) for value in params.values()} == {bool, int, float, str, list, type(None)}
    assert run is not None
    assert {name: value for name, value in run.params.items() if value != params[name] or type(value) is not type(params[name])} == {}
    assert run.params.keys() == params.keys()


def test_it_loads_neither_tensorflow_nor_mlflow(ask: Ask, shipped: tuple[str, str]) -> None:
    code = (
        f"import sys; from stages.flight.cli import main; main(['why', '{shipped[0]}']); "
        "sys.exit(bool({'tensorflow', 'keras', 'mlflow', 'pandas', 'numpy', 'requests'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert shipped[0] in done.stdout


def test_a_run_is_fetched_once_and_again_if_it_goes_on(ask: Ask, shipped: tuple[str, str], client: Any, tmp_path: Path) -> None:
    import mlflow

    run = client.create_run(client.get_experiment_by_name(names.DEFAULT_EXPERIMENT).experiment_id, tags={names.TAG_FLIGHT_ID: "copy-1"})
    run_id = run.info.run_id
    mine = Path(mlflow.artifacts.download_artifacts(run_id=shipped[1], tracking_uri=client.tracking_uri, dst_path=str(tmp_path.parent)))
    text = (mine / "record/journal.jsonl").read_text().replace(shipped[0], "copy-1")
    code, shown, told = ask("copy-1")
    assert (code, "the run is running" in shown, "has not arrived there yet" in told) == (1, True, True)
    assert kept(tmp_path) == []
    client.set_terminated(run_id, "FINISHED", 5)
    client.log_text(run_id, text, "record/journal.jsonl")
    sentences = ["healthy: as it was", "healthy: as nobody will see", "healthy: as it became"]
    verdict = json.loads((mine / "diagnosis/verdict.json").read_text())
    for sentence, sees in zip(sentences, [sentences[0], sentences[0], sentences[2]], strict=True):
        client.log_text(run_id, json.dumps({**verdict, "verdict": "healthy", "sentence": sentence}), "diagnosis/verdict.json")
        if sentence == sentences[2]:
            client.update_run(run_id, "RUNNING")
            assert "the run is running" in ask("copy-1")[1]
            client.set_terminated(run_id, "FINISHED", 6)
        code, shown, _ = ask("copy-1")
        assert (code, shown.splitlines()[0]) == (0, sees)


def test_a_run_that_was_lost_is_told_by_its_tags(ask: Ask, shipped: tuple[str, str], client: Any) -> None:
    tags = {names.TAG_FLIGHT_ID: "lost-1", names.TAG_FAILURE_KIND: "lost", names.TAG_DESCRIPTION: "lost: no sign of life"}
    run_id = client.create_run(client.get_experiment_by_name(names.DEFAULT_EXPERIMENT).experiment_id, tags=tags).info.run_id
    client.set_terminated(run_id, "KILLED")
    code, answer, _ = ask("lost-1", "--json")
    found = json.loads(answer)
    assert (code, found["status"], found["failure"]["kind"], found["failure"]["cause"]) == (1, "KILLED", "lost", "lost: no sign of life")


def hostile(client: Any, shipped: tuple[str, str], flight_id: str, **artifacts: str) -> str:
    """A run that has ended, with artifacts that no recorder wrote; returns MLflow's id."""
    experiment = client.get_experiment_by_name(names.DEFAULT_EXPERIMENT).experiment_id
    run_id = str(client.create_run(experiment, tags={names.TAG_FLIGHT_ID: flight_id}).info.run_id)
    client.set_terminated(run_id, "FINISHED")
    for name, text in artifacts.items():
        client.log_text(run_id, text, {"verdict": "diagnosis/verdict.json", "journal": "record/journal.jsonl"}[name])
    return run_id


VERDICT: dict[str, Any] = {"verdict": "odd", "sentence": "odd: words", "findings": [], "silent": [], "not_applicable": {}}
FINDING = {"fault": "odd", "score": 1, "severity": "warning", "evidence": {}, "explanation": "", "fix": []}
OPENING = {"type": "run", "time": 1.0, "id": "other", "schema": 2, "stage": "train", "host": "h", "experiment": None, "anchor": {}}
END = {"type": "end", "time": 2.0, "status": "FINISHED", "failure": None, "stages": {}, "data_version": None}


@pytest.mark.parametrize(
    "artifacts",
    [
        {"verdict": "{"},
        {"verdict": "[" * 100_000},
        {"verdict": json.dumps({**VERDICT, "sentence": 5})},
        {"verdict": json.dumps({**VERDICT, "findings": [{**FINDING, "score": float("nan")}]})},
        {"verdict": json.dumps({**VERDICT, "findings": [{**FINDING, "fix": [{"param": "train.seed"}]}]})},
        {"verdict": json.dumps(VERDICT), "journal": json.dumps(OPENING) + "\n" + json.dumps(END) + "\n"},  # of another run
        {"verdict": json.dumps(VERDICT), "journal": "[" * 100_000 + "\n"},
        {"verdict": json.dumps(VERDICT), "journal": json.dumps(END) + "\n"},
        {
            "verdict": json.dumps(VERDICT),
            "journal": json.dumps({**OPENING, "id": "h"}) + "\n" + json.dumps({**END, "status": "[red]"}) + "\n",
        },
    ],
)
def test_a_record_of_wrong_shape_is_refused(
    ask: Ask, shipped: tuple[str, str], client: Any, tmp_path: Path, artifacts: dict[str, str]
) -> None:
    run_id = hostile(client, shipped, "h", **artifacts)
    code, shown, told = ask(run_id)
    assert (code, shown) == (2, "")
    assert "the record of run h on http://127.0.0.1:" in told
    assert "Traceback" not in told
    assert set(kept(tmp_path)) <= {
        f"{run_id}/{name}" for name in ("diagnosis/verdict.json", "journal.jsonl", "mlflow.json", "summary.json")
    }


@pytest.mark.parametrize("flight_id", ["../../../up", "a/b", "", "a" * 65, "\x1b[2J"])
def test_a_run_with_an_odd_id_is_refused(ask: Ask, shipped: tuple[str, str], client: Any, tmp_path: Path, flight_id: str) -> None:
    code, shown, told = ask(hostile(client, shipped, flight_id, verdict=json.dumps(VERDICT)))
    assert (code, shown) == (2, "")
    assert "Flight Recorder has not made it" in told
    assert kept(tmp_path) == []


def test_texts_do_nothing_to_the_terminal(ask: Ask, shipped: tuple[str, str], client: Any) -> None:
    finding = {**FINDING, "fault": "[red]odd", "evidence": {"\x1b[2J[b]": "\x9b1m"}, "fix": [{"action": "look\x07 \u202eup"}]}
    verdict = {**VERDICT, "sentence": "odd:\x1b]0;title\x07 words\ttold", "findings": [finding], "silent": ["[bold]"], "later": "unknown"}
    run_id = hostile(client, shipped, "terminal", verdict=json.dumps(verdict))
    for options in ([], ["--json"]):
        code, shown, _ = ask(run_id, *options)
        assert code == 1
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
        assert "[red]odd" in shown
        assert "[bold]" in shown
        assert "unknown" not in shown


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("nobody", "has no run that is called 'nobody'; and here no run has been recorded yet. Type: dvc repro"),
        ('it\'s "both"', "has no run that is called"),
        ("%", "has no run that is called"),
        ("f" * 32, "has no run that is called"),
        ("twin", "'twin' fits several runs"),
        ("../x", "has no run that is called"),
    ],
)
def test_a_name_that_fits_none_or_several(ask: Ask, shipped: tuple[str, str], client: Any, typed: str, told: str) -> None:
    if typed == "twin":
        for number in range(2):
            hostile(client, shipped, f"twin-{number}")
    code, shown, said = ask(typed)
    assert (code, shown) == (2, "")
    assert told in said


def test_latest_is_of_this_machine(ask: Ask, shipped: tuple[str, str]) -> None:
    for name in ("latest", "latest~1", "best"):
        assert ask(name)[0::2] == (2, "flight: no run has been recorded yet. Type: dvc repro\n")


@pytest.mark.parametrize("kind", ["absent", "silent", "no address"])
def test_a_server_that_does_not_answer(ask: Ask, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # takes a connection and says nothing
        port = {"absent": servers.free_port(), "silent": listening.getsockname()[1], "no address": "port"}[kind]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        code, shown, told = ask("anything")
    assert (code, shown) == (2, "")
    assert f"http://127.0.0.1:{port} cannot be asked" in told
    assert "here no run has been recorded yet" in told


class Gatekeeper(http.server.BaseHTTPRequestHandler):
    """Refuses whom it does not know, and sends the others elsewhere; ``asked`` are the paths and credentials that it has seen."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        credentials = self.headers["Authorization"]
        self.asked.append((self.path.split("?")[0], credentials))
        self.send_response(302 if credentials in KNOWN else 401)
        self.send_header("Location", f"http://localhost:{self.headers['Host'].split(':')[1]}/elsewhere")
        self.end_headers()


NAME, PASSWORD, TOKEN = "colleague", "correct-horse:battery", "a-token-of-some-length"
BASIC = f"Basic {base64.b64encode(f'{NAME}:{PASSWORD}'.encode()).decode()}"
KNOWN = (BASIC, f"Bearer {TOKEN}")


@pytest.mark.parametrize(
    ("user", "variables", "sent"),
    [
        ("", {"USERNAME": NAME, "PASSWORD": PASSWORD, "TOKEN": "other"}, BASIC),
        (f"{NAME}:{PASSWORD.replace(':', '%3A')}@", {"TOKEN": "other"}, BASIC),
        ("", {"TOKEN": TOKEN, "USERNAME": NAME}, f"Bearer {TOKEN}"),
        ("", {"TOKEN": "wrong-token-of-some-length"}, "Bearer wrong-token-of-some-length"),
        ("", {"TOKEN": "wrong\ntoken"}, None),
        ("", {}, None),
    ],
)
def test_credentials_are_sent_to_the_server_alone(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, user: str, variables: dict[str, str], sent: str | None
) -> None:
    """A redirect is not followed, and nothing secret is told."""
    Gatekeeper.asked.clear()
    with http.server.HTTPServer(("127.0.0.1", 0), Gatekeeper) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{user}127.0.0.1:{server.server_port}/mlflow/")
        for name, value in variables.items():
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        code, shown, told = ask("a" * 32)
        server.shutdown()
    assert (code, shown) == (2, "")
    assert f"http://127.0.0.1:{server.server_port}/mlflow " in told
    unsent = "\n" in variables.get("TOKEN", "")
    assert Gatekeeper.asked == ([] if unsent else [("/mlflow/api/2.0/mlflow/runs/get", sent)])
    wanted = (
        "and names http://localhost:" if sent in KNOWN else "cannot be asked" if unsent else "refuses to answer (401); expected MLFLOW_"
    )
    assert wanted in told
    assert not any(word in told for word in ("horse", "wrong", "some-length", BASIC[6:]))
