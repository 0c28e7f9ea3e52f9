"""What a person sees in MLflow's own pages, in Chromium; the pictures are left in the folder that pytest names."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import augment, validate
from stages.flight.record import experiment, journal, moment, names
from stages.flight.runs import ablation, diff, moment_page, rerun
from stages.flight.runs.ablation import Ends, Factor
from stages.shared import diagnosis, model
from stages.shared.params import load
from stages.shared.prepared import Prepared
from stages.shared.quality.scan import scan
from stages.shared.rules import judge
from stages.shared.sampling import plan_sampling
from stages.shared.training.batches import TrainBatches
from tests import bad_images, rule_cases, servers, test_diff, tiny
from tests.policies import EVERYTHING

CHROMIUM = shutil.which("chromium")
WAIT_MS = 60_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium. Type: apt-get install chromium")


@pytest.fixture(scope="module")
def address(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, folder = servers.free_port(), tmp_path_factory.mktemp("ui")
    uri = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{trained / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port), "--workers", "1"]
    with servers.running(command, port, folder):
        servers.wait_for_mlflow(uri)
        yield uri


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with something to say of nearly every check, about files with hostile names."""
    folder = tmp_path_factory.mktemp("messy")
    bad_images.write(folder / "raw", "<img src=x onerror=alert(1)> & co")
    verdict = validate.validate(scan(folder / "raw", folder / "kept"), load(tiny.ROOT / "params.yaml").validate_)
    validate.write(verdict, load(tiny.ROOT / "params.yaml").validate_, folder / "raw", folder / "manifest.parquet", folder / "report")
    return folder / "report/index.html"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    found = browser.new_page(viewport={"width": 1700, "height": 1000})
    found.set_default_timeout(WAIT_MS)
    # The panel of MLflow's assistant, which opens by itself once, would cover a third of the page.
    found.add_init_script("window.localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    yield found
    found.close()


@pytest.fixture(scope="module")
def run(trained: Path) -> Any:
    return tiny.mlflow_runs(trained)[0]


def run_page(address: str, run: Any, tab: str = "") -> str:
    return f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}{tab}"


def test_the_table_of_runs_with_their_outcomes(address: str, page: Any, run: Any, tmp_path: Path) -> None:
    """In the saved view: name, verdict and accuracy of each run."""
    page.goto(f"{address}/#/experiments/{run.info.experiment_id}/runs?viewStateShareKey={experiment.VIEW_KEY}")
    page.get_by_text("first run").first.wait_for()
    page.get_by_text(names.TAG_VERDICT, exact=True).first.wait_for()
    page.get_by_text(run.data.tags["verdict"], exact=True).first.wait_for()
    page.get_by_text("evaluate/accuracy").first.wait_for()
    page.screenshot(path=tmp_path / "runs.png")
    page.get_by_role("button", name="Outcomes").wait_for()  # the view's name, where others may be chosen


def test_the_overview_begins_with_the_outcome(address: str, page: Any, run: Any, tmp_path: Path) -> None:
    page.goto(run_page(address, run))
    page.get_by_text(run.data.tags[names.TAG_DESCRIPTION].splitlines()[0]).first.wait_for()
    page.get_by_text("tiny (").first.wait_for()
    page.screenshot(path=tmp_path / "overview.png")


def test_charts_are_grouped_by_stage(address: str, page: Any, run: Any, tmp_path: Path) -> None:
    page.goto(run_page(address, run, "/model-metrics"))
    page.get_by_text("max_displacement").first.wait_for()
    assert "\naugment\n" in page.locator("main").inner_text()
    page.get_by_placeholder("Search metric charts").fill("val_loss")
    page.get_by_text("val_loss", exact=True).first.wait_for()
    page.get_by_text("max_displacement").first.wait_for(state="hidden")
    page.locator("main .js-plotly-plot").first.wait_for()
    assert "\ntrain\n" in page.locator("main").inner_text()
    page.screenshot(path=tmp_path / "charts.png")
    page.goto(run_page(address, run, "/system-metrics"))
    page.get_by_text("cpu_utilization_percentage").first.wait_for()
    page.screenshot(path=tmp_path / "system.png")


@pytest.mark.parametrize(("stage", "scheme"), [("validate", "dark"), ("evaluate", "light")])
def test_a_report_opens_inside_mlflow(address: str, page: Any, run: Any, stage: str, scheme: Any, tmp_path: Path) -> None:
    """In the sandboxed frame of the artifact viewer, with its pictures, and without asking for any other file."""
    page.emulate_media(color_scheme=scheme)
    asked: list[str] = []
    faults = faults_of(page)
    page.on("request", lambda request: asked.append(request.url) if request.frame != page.main_frame else None)
    page.goto(run_page(address, run, f"/artifacts/reports/{stage}/index.html"))
    frame = page.frame_locator("iframe")
    frame.locator("h1").first.wait_for()
    page.screenshot(path=tmp_path / "report.png")
    picture = frame.locator("img").first
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.screenshot(path=tmp_path / "report-pictures.png")
    assert [fault for fault in faults if "blob:" in fault] == []
    assert [url for url in asked if not url.startswith(("blob:", "data:"))] == []


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_data_quality_report_from_its_file(messy: Path, browser: Any, width: int, height: int, scheme: Any, tmp_path: Path) -> None:
    """Nothing is wider than the screen, every picture is drawn, copying says what it did, no other file is asked for."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    faults, asked = faults_of(page), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(messy.as_uri())
    page.screenshot(path=tmp_path / "first-screen.png")
    page.screenshot(path=tmp_path / "whole.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("Promise.all([...document.images].map(image => image.decode())).then(() => document.images.length)") > 20
    background, text = page.evaluate("['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])")
    assert (sum(rgb(background)) < sum(rgb(text))) == (scheme == "dark")
    page.locator("[data-copy]").first.click()
    page.get_by_text(re.compile("^(copied|selected)$")).wait_for()
    page.locator("a.check").first.click()
    assert page.url.count("#") == 1
    assert faults == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_augmentation_report_from_its_file(browser: Any, width: int, scheme: Any, tmp_path: Path) -> None:
    """Of a policy that is too strong in all ways, for classes with long names: nothing is wider than the screen, pictures are drawn."""
    names = tuple(f"a class with rather a long name, the {number}th" for number in range(30))
    images = np.random.default_rng(0).integers(0, 256, (180, 32, 32, 3), dtype=np.uint8)
    train_set = Prepared(names, np.arange(180) % 30, ("",) * 180, 32, (images,), "")
    absurd = EVERYTHING.model_copy(update={"width_shift": 0.9, "brightness": 0.9, "random_erasing": 1.0, "mixup": 9.0, "cutmix": 9.0})
    augment.write(augment.augment(train_set, absurd), train_set, tmp_path / "augmented", tmp_path / "report")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults = faults_of(page)
    page.goto((tmp_path / "report/index.html").as_uri())
    page.screenshot(path=tmp_path / "whole.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("Promise.all([...document.images].map(image => image.decode())).then(() => document.images.length)") == 176
    assert "-S augment.width_shift=0.2" in page.locator("pre").inner_text()
    assert faults == []
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_diagnosis_from_its_file(browser: Any, width: int, scheme: Any, tmp_path: Path) -> None:
    """Of several faults: nothing is wider than the screen, the moment is marked, the command can be copied; hostile texts stay texts."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults, asked = faults_of(page), []
    page.on("request", lambda request: asked.append(request.url))
    hostile = rule_cases.failed("out-of-memory", "<img src=x onerror=alert(1)> " + "allocating" * 40)
    cases = [(name, found[0]) for name, found in rule_cases.FIRES.items() if name in PICTURED]
    for name, case in [*cases, ("hostile", rule_cases.healthy(failure=hostile)), ("healthy", rule_cases.healthy())]:
        diagnosis.write(judge(case, load(tiny.ROOT / "params.yaml")), case, tmp_path / name)
        page.goto((tmp_path / name / "index.html").as_uri())
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("svg line[stroke-dasharray]").count() == (name in PICTURED)
        assert page.locator(".probe tr").count() > 3
        if page.locator("pre").count():
            assert "dvc exp run -S" in page.locator("pre").first.inner_text()
            page.locator("[data-copy]").first.click()
            page.get_by_text(re.compile("^(copied|selected)$")).first.wait_for()
    assert (tmp_path / "overfitting/index.html").read_text().count("<pre>") == 1
    assert faults == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()


# Faults of which a curve shows the moment.
PICTURED = ("overfitting", "learning-rate-too-high", "learning-rate-collapsed", "destructive-fine-tuning", "under-trained")


def test_the_comparison_from_its_file(trained: Path, browser: Any, tmp_path: Path) -> None:
    """Of two runs that differ in parameter, code and answers, tested: cause, patch, pictures; nothing is wider than the screen."""
    clone = Path(shutil.copytree(trained, tmp_path / "clone", symlinks=True))
    hostile = test_diff.in_file("journal.jsonl", '"name": "first run"', '"name": "<img src=x onerror=alert(1)>"')
    rate = test_diff.in_file("params.yaml", "learning_rate: 3e-3", "learning_rate: 1e-5")
    code = test_diff.with_code(clone, "stages/notes.py", "NOTE = '<script>alert(1)</script>'\n" + "#" * 300 + "\n")
    other = test_diff.another(clone, hostile, rate, code, test_diff.without_answers(5), test_diff.with_accuracy(0.1))
    runs = [test_diff.first(clone), other]
    for run in runs:  # nothing of this is to be shipped to the store of other tests
        journal.Journal(run.folder).write("address", tracking_uri=rerun.HELD_BACK)
    factors = [Factor("train.learning_rate", ("train.learning_rate",)), Factor("code (stages/notes.py)", code=True)]
    ends = Ends({0: 0.8, 1: 0.82, 2: 0.79}, {0: 0.1, 1: 0.12, 2: 0.09})
    tested = ablation.walk(factors, ends, lambda switched, _: 0.5 if len(switched) == 1 else 0.1) | {"untested": ["package numpy"]}
    path = diff.write(test_diff.compared(clone, *runs) | {"test": tested}, runs, clone)
    asked: list[str] = []
    for width, scheme in itertools.product((1280, 390), ("light", "dark")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        faults = faults_of(page)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.locator("details summary").first.click()
        page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("Promise.all([...document.images].map(image => image.decode())).then(() => document.images.length)") == 5
        text = page.locator("main").inner_text()
        assert page.locator("h1").inner_text() == "code (stages/notes.py) is the cause"
        assert "<script>alert(1)</script>" in text
        assert "package numpy" in text
        assert faults == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert (other.folder / path.relative_to(clone / ".flight")).read_bytes() == path.read_bytes(), "MLflow shows it with the newer run"
        page.close()
    tiny.wait_for_recorders(clone)


def test_the_moment_from_its_file(browser: Any, tmp_path: Path) -> None:
    """A picture of each image of the batch, those of the highest loss first."""
    labels = np.arange(16) % 3
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    classes = ("cat", "<b>dog</b>", "a class with rather a long name")
    split = Prepared(classes, labels, tuple(f"{classes[label]}/{i}.png" for i, label in enumerate(labels)), 32, (images,), "")
    policy = EVERYTHING.model_copy(update={"mixup": 0.4})
    batches = TrainBatches(split, plan_sampling(split.class_counts(), "none"), policy, batch_size=8, seed=0)
    classifier = model.build_classifier(3, 32, alpha=0.35, dropout=0.2, batchnorm_momentum=0.9, seed=0)
    moment.write(classifier, batches, 1, 1, tmp_path)
    path = moment_page.write(tmp_path, until=3)
    assert path is not None
    for width, scheme in itertools.product((1280, 390), ("light", "dark")):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        faults = faults_of(page)
        page.goto(path.as_uri())
        page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("Promise.all([...document.images].map(image => image.decode())).then(() => document.images.length)") == 8
        losses = [float(text) for text in page.locator("tr td:nth-child(6)").all_inner_texts()]
        assert losses == sorted(losses, reverse=True)
        assert sorted(page.locator("tr td:nth-child(1)").all_inner_texts()) == sorted(
            split.image_paths[row] for row in batches.order(1)[8:16]
        )
        assert faults == []
        page.close()


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", colour)[:3])


def faults_of(page: Any) -> list[str]:
    """Errors of scripts and of the console from now on, with where they came from."""
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(f"{message.location['url']} {message.text}") if message.type == "error" else None)
    return faults


def test_an_image_is_shown(address: str, page: Any, run: Any, tmp_path: Path) -> None:
    page.goto(run_page(address, run, "/artifacts/previews/worst_mistakes.png"))
    picture = page.locator("main img").first
    picture.wait_for()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    page.screenshot(path=tmp_path / "image.png")
