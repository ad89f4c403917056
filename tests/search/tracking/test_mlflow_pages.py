"""What a person sees in MLflow's own pages, in a real browser, for three studies of 120 trials."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from factories import make_metrics, make_study_file
from mlflow import MlflowClient

from search.analysis.diagnostics import HypervolumePoint
from search.core.objectives import MIOU_AND_SIZE
from search.core.pareto import mious_within, pareto_front
from search.core.record import Record
from search.core.tracking_uri import default_tracking_uri
from search.storage.layout import (
    DIAGNOSTICS_PLOT,
    FRONT_PAGE,
    FRONT_PLOT,
    FRONT_TABLE,
    STUDY_FILE,
    TRIALS_TABLE,
    mlflow_artifact_folder,
)
from search.tracking.mlflow import MlflowTracker, make_store
from search.tracking.mlflow_models import registry_name
from search.tracking.mlflow_views import (
    FRONTS,
    MODELS,
    STUDIES,
    TRAINING,
    TRIALS,
    fallback_path,
    view_path,
)
from search.tracking.run_content import best_tags
from search.tracking.web_server import choose_port, mlflow_server
from trainables.config import TrialConfig
from trainables.models.model_file import MODEL_FILE
from trainables.recipes.configs import Qat

pytestmark = pytest.mark.slow
NAMES = ("qkd", 'qat "<b>quoted</b>"', "größe")
NUM_TRIALS = 40
DRAWN = "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data)"
"""What all charts of a page have drawn, in JavaScript."""
ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""
"""Keeps a panel closed that MLflow opens at the first visit."""


def make_records(seed: int) -> list[Record]:
    """Trials whose mIoU grows with their size, and a few that failed."""
    draw, records = random.Random(seed), []
    for number in range(NUM_TRIALS):
        width, bits = draw.choice([4, 6, 8, 12]), draw.randint(2, 8)
        size = 400 * width**2 * bits + number
        miou = 0.2 + 0.04 * seed + 0.00001 * size**0.8 + draw.gauss(0, 0.01)
        metrics = make_metrics(miou, size, 2, class_iou=(miou, miou, None))
        record = Record(
            f"{number:04d}",
            "COMPLETE" if number % 10 else "FAIL",
            "" if number % 10 else "not learning",
            TrialConfig(recipe=Qat()),
            metrics,
            params={
                "student.width": width,
                "recipe.quantizer.weight_bits": bits,
                "recipe.optimizer.learning_rate": 10 ** draw.uniform(-4, -2),
            },
            reports={2: metrics},
        )
        records.append(record)
    return records


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, study: Path) -> Path:
    """A storage with three studies of one data set."""
    storage = tmp_path_factory.mktemp("studies")
    uri = default_tracking_uri(storage)
    make_store(uri)
    for seed, name in enumerate(NAMES):
        folder = storage / f"study-{seed}"
        folder.mkdir()
        records = make_records(seed)
        for record in records:
            model = folder / "models" / record.trial_id
            model.mkdir(parents=True)
            shutil.copy(study / "models/0000" / MODEL_FILE, model)
        for file in (TRIALS_TABLE, FRONT_TABLE, FRONT_PLOT, FRONT_PAGE, DIAGNOSTICS_PLOT):
            (folder / file).write_text("")
        (folder / STUDY_FILE).write_text("{}")
        tracking = MlflowTracker(
            uri,
            "camvid 96x72",
            name,
            f"id {seed}",
            mlflow_artifact_folder(storage),
            {},
            ("sky", "road", "tree"),
            {"space": "qkd", "samples": str(NUM_TRIALS)},
            MIOU_AND_SIZE,
        )
        best = max(r.metrics.miou for r in records if r.metrics and r.state == "COMPLETE")
        steps = [HypervolumePoint(10.0 * n, 0.1 * n - 0.02 * seed, 1000 * n) for n in range(1, 6)]
        within = {f"miou_within.{kb:04d}KB": m for kb, m in mious_within(records).items()}
        numbers = {"best_miou": best, "device_seconds": 50.0, **within}
        tracking.finish(records, make_study_file(folder, id=f"id {seed}"), numbers, steps, False)
    return storage


@pytest.fixture(scope="module")
def address(storage: Path) -> Iterator[str]:
    uri = default_tracking_uri(storage)
    with mlflow_server(uri, mlflow_artifact_folder(storage), choose_port(None, 5300)) as address:
        yield address


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1500, "height": 900})
    page.add_init_script(ASSISTANT)
    page.set_default_timeout(90_000)
    yield page
    page.close()


def open_view(page: Any, address: str, path: str) -> None:
    page.goto(f"{address}/{path}")
    page.get_by_role("link", name="größe").first.wait_for()


def on_first_screen(page: Any, text: str) -> bool:
    """Whether a text is seen without scrolling."""
    box = page.get_by_text(text, exact=True).first.bounding_box()
    assert box
    assert page.viewport_size
    size = page.viewport_size
    return bool(
        box["x"] >= 0 and box["x"] + box["width"] <= size["width"] and box["y"] < size["height"]
    )


def test_the_table_of_studies_says_which_model_and_which_study(
    page: Any, address: str, storage: Path
) -> None:
    open_view(page, address, view_path("1", STUDIES))
    for name in ("within 50 KB", "within 100 KB", "within 300 KB", "within 1000 KB"):
        assert on_first_screen(page, name)
    for seed in range(len(NAMES)):
        says = best_tags(make_records(seed))
        assert on_first_screen(page, says["within 300 KB"])
    rows = page.get_by_role("row").all_inner_texts()
    order = [next((i for i, row in enumerate(rows) if name in row), -1) for name in NAMES]
    assert order == sorted(order)  # the first study has the greatest hypervolume
    assert -1 not in order
    assert on_first_screen(page, "hypervolume")
    for seed in range(len(NAMES)):
        assert on_first_screen(page, f"{0.5 - 0.02 * seed:g}")
    page.screenshot(path=storage / "studies.png")


def test_fronts_lie_over_each_other(page: Any, address: str, storage: Path) -> None:
    open_view(page, address, view_path("1", FRONTS))
    plot = page.locator(".js-plotly-plot").first
    plot.wait_for()
    page.get_by_text("front.size_kb").first.wait_for()
    page.wait_for_function(
        "document.querySelector('.js-plotly-plot').data.filter(t => t.x && t.x.length).length >= 3"
    )
    drawn = page.evaluate(
        "document.querySelector('.js-plotly-plot').data.map(t => [t.name, Array.from(t.x || [])])"
    )
    sizes = {name: xs for name, xs in drawn if xs}
    for seed, name in enumerate(NAMES):
        front = pareto_front(make_records(seed))
        expected = [
            r.metrics.size_bytes / 1000 for r in front if r.metrics and r.metrics.size_bytes
        ]
        assert any(xs == pytest.approx(expected) for key, xs in sizes.items() if name in key)
    page.screenshot(path=storage / "fronts.png")


def test_models_of_fronts_are_sorted_by_size(page: Any, address: str, storage: Path) -> None:
    open_view(page, address, view_path("1", MODELS))
    for name in ("size_bytes", "miou", "width", "weight_bits", "learning_rate"):
        assert on_first_screen(page, name)
    smallest = min(
        (r.metrics.size_bytes, NAMES[seed], r.trial_id)
        for seed in range(len(NAMES))
        for r in pareto_front(make_records(seed))
        if r.metrics and r.metrics.size_bytes
    )
    assert on_first_screen(page, f"{smallest[1]}/{smallest[2]}")
    page.screenshot(path=storage / "models.png")


def test_trials_are_drawn(page: Any, address: str, storage: Path) -> None:
    open_view(page, address, view_path("1", TRIALS))
    page.get_by_text("size_bytes vs. miou").first.wait_for()
    page.get_by_text("Parallel Coordinates").first.wait_for()
    page.wait_for_function(f"{DRAWN}.some(t => t.x && t.x.length >= 90)")
    page.locator(".parcoords .label").first.wait_for()
    axes = page.locator(".parcoords .label").all_text_contents()
    assert axes == ["width", "weight_bits", "learning_rate", "size_bytes", "miou"]
    page.screenshot(path=storage / "trials.png")


def test_without_views_a_link_has_the_front_by_size(page: Any, address: str, storage: Path) -> None:
    open_view(page, address, fallback_path("1"))
    assert page.get_by_role("link", name="/00").count() > 3


def test_the_run_of_a_study_shows_its_note(page: Any, address: str, storage: Path) -> None:
    client = MlflowClient(default_tracking_uri(storage))
    (run,) = client.search_runs(["1"], "tags.kind = 'study' and tags.`paretoseg.study` = 'qkd'")
    page.goto(f"{address}/#/experiments/1/runs/{run.info.run_id}?workflowType=machine_learning")
    page.get_by_text("Best mIoU within 50 KB").first.wait_for()
    page.get_by_text("samples").first.wait_for()
    page.screenshot(path=storage / "study.png")
    smallest = pareto_front(make_records(0))[0].trial_id
    link = page.get_by_role("link", name=smallest, exact=True).first.get_attribute("href")
    page.goto(f"{address}/{link}")
    page.get_by_text(f"qkd/{smallest}").first.wait_for()


def runs_of(storage: Path, query: str) -> list[Any]:
    """Runs in the order of their trials."""
    client = MlflowClient(default_tracking_uri(storage))
    return sorted(client.search_runs(["1"], query), key=lambda run: run.info.run_name)


def open_comparison(page: Any, address: str, runs: list[Any]) -> str:
    """MLflow's page that compares runs, as text."""
    ids = quote(json.dumps([run.info.run_id for run in runs]))
    page.goto(f"{address}/#/compare-runs?runs={ids}&experiments={quote(json.dumps(['1']))}")
    for run in runs:
        page.get_by_text(run.info.run_name).first.wait_for()
    page.wait_for_timeout(1000)
    return str(page.locator("body").inner_text())


def test_two_trials_differ_by_what_was_sampled(page: Any, address: str, storage: Path) -> None:
    runs = runs_of(storage, "tags.front = 'true' and tags.`paretoseg.study` = 'qkd'")[:2]
    text = open_comparison(page, address, runs)
    for run in runs:
        for name in ("width", "weight_bits", "learning_rate"):
            assert name in text
            assert run.data.params[name] in text
        for name in ("miou", "size_bytes", "iou.sky"):
            assert name in text
    page.screenshot(path=storage / "two-trials.png", full_page=True)


def test_two_studies_differ_by_what_they_reached(page: Any, address: str, storage: Path) -> None:
    runs = runs_of(storage, "tags.kind = 'study'")[:2]
    text = open_comparison(page, address, runs)
    for name in ("best_miou", "miou_within.0100KB", "hypervolume", "device_seconds", "samples"):
        assert name in text
    page.screenshot(path=storage / "two-studies.png", full_page=True)


def test_the_registry_says_what_to_take_for_a_size(page: Any, address: str, storage: Path) -> None:
    name = registry_name("camvid 96x72")
    page.goto(f"{address}/#/models/{name}{TRAINING}")
    page.get_by_text("@ best").first.wait_for()
    client = MlflowClient(default_tracking_uri(storage))
    best = client.get_model_version_by_alias(name, "best")
    assert best.tags["paretoseg.study"] == "study-2"  # the folder of the best
    miou, size, *_ = best.description.split(", ")
    box = page.get_by_text(f"{miou}, {size}").first.bounding_box()
    assert box
    assert box["y"] < 900
    page.screenshot(path=storage / "registry.png")
