"""The page of a front in a real browser: what a person sees and does."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from front_factories import CLASSES, FAILED, metrics, quantized, record

from search.analysis.diagnostics import HypervolumePoint, SearchDiagnostics
from search.analysis.other_fronts import OtherFront
from search.analysis.page_data import PageContext
from search.analysis.report import draw_front
from search.core.baselines import Baseline
from search.core.record import Record
from trainables.core.metrics import SplitMetrics, TeacherMetrics
from trainables.training.examples import Examples, Masks

pytestmark = pytest.mark.slow
SPLIT = SplitMetrics(miou=0.7, class_iou=(0.9, 0.5, 0.7, None), never_predicted=())
ODD = 'größe "<b>"'


def make_records(count: int) -> list[Record]:
    """Trials of a front with 20, 40, 80, 160, ... KB, others below it, and two that failed."""
    draw, records = random.Random(0), []
    for number in range(count):
        bits, on_front = draw.randint(2, 8), number < 5
        size = 20_000 * 2**number if on_front else draw.randint(25_000, 300_000)
        miou = 0.3 + 0.1 * number if on_front else draw.uniform(0.1, 0.29)
        reports = {e: metrics(miou * e / 10, None, e) for e in range(1, 11)}
        one = record(f"{number:04d}", miou, size, quantized(bits))
        records.append(replace(one, latency_ms=10 - 0.1 * number, reports=reports))
    pruned = replace(record("9998", 0.2, None, state="PRUNED"), reason="dominated at a rung")
    return [*records, pruned, replace(FAILED, trial_id="9999")]


IMPORTANCES = {"miou": {"recipe.quantizer.weight_bits": 0.75, "student.width": 0.25}}


def make_masks() -> tuple[Examples, dict[str, Masks]]:
    """Eight images, and what the teacher and the five models of the front predict for them."""
    draw = np.random.default_rng(0)
    masks = draw.integers(0, len(CLASSES), (7, 8, 24, 32), dtype=np.uint8)
    images = draw.integers(0, 256, (8, 24, 32, 3), dtype=np.uint8)
    found = {f"{number:04d}": masks[number] for number in range(5)}
    return Examples(images, masks[5], masks[6]), found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with the pages of studies of 16 and 500 trials, and of none that finished."""
    folder = tmp_path_factory.mktemp("pages")
    context = PageContext(
        CLASSES,
        TeacherMetrics(train=SPLIT, val=SPLIT),
        [Baseline(name=ODD, size_bytes=700_000, miou=0.5)],
        [OtherFront("other", [(30_000, 0.35), (500_000, 0.6)])],
        SearchDiagnostics([HypervolumePoint(n, 0.1 * n, 0) for n in range(5)], 0.1, IMPORTANCES),
        "python -m search.export studies/demo",
        *make_masks(),
    )
    for count in (0, 16, 500):
        (folder / str(count)).mkdir()
        draw_front(make_records(count), folder / str(count), f"demo: {ODD}", context)
    return folder


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page of 16 trials; no error may be on its console, and it may ask for nothing."""
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    errors, asked = list[str](), list[str]()
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "16/front.html").as_uri())
    page.locator("#chart svg").wait_for()
    yield page
    page.close()
    assert errors == []
    assert {url.split(":")[0] for url in asked} == {"file"}
    assert len(asked) == 1


def point(page: Any, trial_id: str) -> Any:
    return page.locator(f'#chart [data-trial="{trial_id}"]')


def test_what_the_chosen_model_predicts_stands_beside_the_labels_and_the_teacher(page: Any) -> None:
    point(page, "0003").click()
    masks = page.locator("#chosen img.mask")
    assert masks.count() == 8 * 4
    alts = [masks.nth(index).get_attribute("alt") for index in range(4)]
    names = ("image", "label", "trial 0003", "teacher")
    assert alts == [f"{name} of example 1" for name in names]
    assert page.locator("meter").count() >= 2  # what mIoU depends on


def test_what_one_can_afford(page: Any) -> None:
    page.get_by_role("button", name="100 KB").click()
    assert page.locator("#answer").inner_text() == "Trial 0002: mIoU 50.0 % in 80 KB"
    assert "python -m search.export studies/demo --trial 0002" in page.locator("code").inner_text()
    assert "50.0 % (teacher 70.0 %)" in page.locator("#chosen").inner_text()
    slider = page.get_by_label("the most it may cost")
    slider.fill("0")
    assert page.locator("#answer").inner_text() == "Trial 0000: mIoU 30.0 % in 20 KB"
    slider.press("End")
    assert "Trial 0004" in page.locator("#answer").inner_text()
    page.get_by_label("I can afford").select_option("latency")
    slider.fill("0")
    assert "Trial 0004: mIoU 70.0 % in 9.6 ms" in page.locator("#answer").inner_text()
    page.get_by_label("I can afford").select_option("size")
    page.get_by_role("button", name="50 KB").click()
    assert "Trial 0001" in page.locator("#answer").inner_text()


def test_each_point_is_reached_by_click_and_by_keyboard(page: Any) -> None:
    point(page, "0001").click()
    assert page.locator("#chosen h2").inner_text() == "Trial 0001"
    assert page.locator("#trials tr.selected").get_attribute("data-trial") == "0001"
    page.keyboard.press("Home")
    seen = [page.locator("#chosen h2").inner_text()]
    for _ in range(15):
        page.keyboard.press("ArrowRight")
        seen.append(page.locator("#chosen h2").inner_text())
    assert len(set(seen)) == 16
    assert page.evaluate("document.activeElement.dataset.trial") == seen[-1].split()[-1]
    page.keyboard.press("ArrowLeft")
    assert page.locator("#chosen h2").inner_text() == seen[-2]


def test_zoom_has_labels(page: Any) -> None:
    def ticks() -> list[str]:
        return [t for t in page.locator("#chart svg text").all_text_contents() if t.endswith("KB")]

    point(page, "0002").click()
    whole = ticks()
    for _ in range(4):
        page.get_by_role("button", name="Zoom in").click()
        assert len(ticks()) >= 2
    assert ticks() != whole
    assert point(page, "0002").is_visible()
    page.get_by_role("button", name="Whole front").click()
    assert ticks() == whole
    box = page.locator("#chart svg").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, box["y"] + 300)
    page.mouse.up()
    assert ticks() != whole
    assert len(ticks()) >= 2


def test_the_table_is_sorted(page: Any) -> None:
    def first() -> list[str]:
        return list(page.locator("#trials tbody th").all_inner_texts())

    table = page.locator("#trials")
    table.get_by_role("button", name="mIoU %").click()
    assert first()[-3:] == ["0003", "0004", "9999"]  # what has none comes last
    table.get_by_role("button", name="mIoU %").click()
    assert first()[:5] == ["0004", "0003", "0002", "0001", "0000"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    table.get_by_role("button", name="size").click()
    assert first()[0] == "0000"
    table.get_by_role("button", name="9998").click()
    assert "PRUNED: dominated at a rung" in page.locator("#chosen").inner_text()


def test_other_studies_and_published_models_lie_over_it(page: Any) -> None:
    assert page.locator("#chart path.other").count() == 1
    page.get_by_role("button", name="100 KB").click()
    assert "other: mIoU 35.0 % within 100 KB" in page.locator("#others").inner_text()
    assert page.locator("#chart").get_by_text(ODD, exact=True).count() == 1
    page.get_by_label("other").uncheck()
    assert page.locator("#chart path.other").count() == 0


@pytest.mark.parametrize(
    ("scheme", "count"), [("light", 0), ("light", 16), ("light", 500), ("dark", 16)]
)
def test_it_is_accessible(browser: Any, folder: Path, scheme: str, count: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core").Axe()
    page = browser.new_page(color_scheme=scheme)
    page.goto((folder / str(count) / "front.html").as_uri())
    page.wait_for_timeout(500)
    for summary in page.locator("summary").all():
        summary.click()
    found = axe.run(page)
    assert found.violations_count == 0, found.generate_report()
    page.close()


def test_a_phone_need_not_scroll_sideways(browser: Any, folder: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((folder / "16/front.html").as_uri())
    page.locator("#chart svg").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(path=folder / "phone.png", full_page=True)
    page.close()


def test_without_a_script_there_are_picture_and_table(browser: Any, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "16/front.html").as_uri())
    assert page.locator("noscript img").is_visible()
    assert page.locator("#trials tbody tr").count() == 18
    assert not page.locator("#interactive").is_visible()
    context.close()


def test_a_page_without_finished_trials_says_why(browser: Any, folder: Path) -> None:
    page = browser.new_page()
    page.goto((folder / "0/front.html").as_uri())
    assert page.get_by_text("No trial has finished yet.").is_visible()
    assert page.get_by_text("the space failed").is_visible()
    assert not page.locator("#interactive").is_visible()
    page.close()


def test_the_page_is_small(folder: Path) -> None:
    assert (folder / "16/front.html").stat().st_size < 300_000
