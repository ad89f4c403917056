"""The page of a front: what it holds."""

import json
import re
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from front_factories import CLASSES, FAILED, metrics, quantized, record, staircase_of
from PIL import Image

from search.analysis.diagnostics import HypervolumePoint, SearchDiagnostics
from search.analysis.other_fronts import OtherFront
from search.analysis.page_data import NUM_EPOCHS, PageContext
from search.analysis.pareto_page import write_page
from search.analysis.plot_layout import plot_points
from search.core.baselines import Baseline
from search.core.record import Record
from trainables.core.metrics import SplitMetrics, TeacherMetrics
from trainables.training.examples import Examples

with BytesIO() as file:
    Image.new("RGB", (30, 20), "white").save(file, format="png")
    PICTURE = file.getvalue()
SPLIT = SplitMetrics(miou=0.7, class_iou=(0.9, 0.5, 0.7, None), never_predicted=())


def page_of(records: list[Record], **context: Any) -> str:
    points = plot_points(records)
    about = PageContext(CLASSES, export="python -m search.export here", **context)
    return write_page(records, points, "a <title>", "subtitle", PICTURE, about)


def data_of(page: str) -> dict[str, Any]:
    """What the page's script reads."""
    (text,) = re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)
    return dict(json.loads(text))


def trial_of(page: str, trial_id: str) -> dict[str, Any]:
    (found,) = (trial for trial in data_of(page)["trials"] if trial["id"] == trial_id)
    return dict(found)


def test_the_page_tells_of_each_trial(records: list[Record]) -> None:
    page = page_of(records)
    assert len(data_of(page)["trials"]) == len(records)
    trial = trial_of(page, "0003")
    assert {name: trial[name] for name in ("miou", "size", "bits", "student", "recipe")} == {
        "miou": 0.6,
        "size": 61_900,
        "bits": "4/6",
        "student": "unet 8",
        "recipe": "qat",
    }
    assert trial["iou"] == [0.7, 0.5, 0.0, None]
    assert trial["missed"] == "0 of 3"
    assert trial["export"] == "python -m search.export here --trial 0003 --out exported"
    assert trial_of(page, "0002")["misses"]
    on_front = {trial["id"] for trial in data_of(page)["trials"] if trial["front"]}
    assert on_front == {"0003", "0004", "0006"}


def test_the_table_holds_all_trials_without_a_script(records: list[Record]) -> None:
    page = page_of([*records, FAILED])
    (body,) = re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert body.count("<tr ") == len(records) + 1
    assert "the space failed" in body
    assert '<noscript id="picture"><img src="data:image/png;base64,' in page


def test_names_are_text() -> None:
    odd = '</script><script>alert("x")</script> größe'
    failed = replace(record("0001", 0.5, None, state="FAIL"), reason=odd)
    records = [record("0000", 0.5, 1000), failed]
    page = page_of(
        records,
        baselines=[Baseline(name=odd, size_bytes=1, miou=0.5)],
        others=[OtherFront(odd, [(1, 0.5)])],
    )
    assert page.count("</script>") == 2
    data = data_of(page)
    assert data["baselines"][0]["name"] == data["others"][0]["name"] == odd
    assert "&lt;/script&gt;" in page
    assert data["classes"] == list(CLASSES)


def test_a_page_without_finished_trials_says_why() -> None:
    page = page_of([FAILED])
    assert "No trial has finished yet" in page
    assert "the space failed" in page
    assert "<noscript" not in page


def test_the_teacher_is_compared_with() -> None:
    page = page_of([record("0000", 0.5, 1000)], teacher=TeacherMetrics(train=SPLIT, val=SPLIT))
    assert data_of(page)["teacher"] == {"miou": 0.7, "iou": [0.9, 0.5, 0.7, None]}


def test_what_models_predict_is_shown_beside_the_teacher() -> None:
    image, mask = np.zeros((2, 6, 8, 3), np.uint8), np.ones((2, 6, 8), np.uint8)
    page = page_of(
        [record("0000", 0.5, 1000), record("0001", 0.6, 2000)],
        examples=Examples(image, mask, mask),
        masks={"0001": mask},
    )
    assert trial_of(page, "0000")["masks"] == []
    shown = trial_of(page, "0001")["masks"]
    assert len(shown) == 2
    assert shown == data_of(page)["examples"]["truths"] == data_of(page)["examples"]["teacher"]
    assert data_of(page)["classColors"][:2] == ["#000000", "#800000"]
    assert data_of(page_of([]))["examples"] is None


def test_long_curves_are_thinned() -> None:
    reports = {epoch: metrics(0.001 * epoch, None, epoch) for epoch in range(1, 301)}
    page = page_of([replace(record("0000", 0.3, 1000), reports=reports)])
    curve = trial_of(page, "0000")["curve"]
    assert len(curve) <= NUM_EPOCHS + 1
    assert (curve[0], curve[-1]) == ([1, 0.001], [300, 0.3])


def test_the_search_is_shown(records: list[Record]) -> None:
    found = SearchDiagnostics(
        [HypervolumePoint(10.0, 0.25, 0)],
        0.125,
        {"miou": {"recipe.quantizer.weight_bits": 0.75, "student.width": 0.25}},
    )
    page = page_of(records, diagnostics=found)
    assert "12 % of the device seconds" in page
    assert data_of(page)["hypervolume"] == [[10.0, 0.25]]
    assert data_of(page)["importances"] == {"miou": {"weight_bits": 0.75, "width": 0.25}}


def test_costs_to_choose_by_are_those_that_are_known() -> None:
    one = record("0000", 0.5, 1000, quantized(4))
    assert [c["key"] for c in data_of(page_of([one]))["costs"]] == ["size", "ram", "macs"]
    timed = replace(one, latency_ms=1.5)
    keys = [c["key"] for c in data_of(page_of([timed]))["costs"]]
    assert keys == ["size", "latency", "ram", "macs"]
    assert "1.5 ms</td>" in page_of([timed])
    disturbed = page_of([replace(timed, latency_disturbed=True)])
    assert ">1.5 ms *</td>" in disturbed
    assert "<p>* measured beside other work</p>" in disturbed
    assert "<p>*" not in page_of([timed])
    (trial,) = data_of(disturbed)["trials"]
    assert trial["latencyNote"] == "measured beside other work"


def test_a_large_front_shows_fewer_examples() -> None:
    draw = np.random.default_rng(0)
    blocks = draw.integers(0, 11, (18, 8, 12, 16), dtype=np.uint8)
    masks = blocks.repeat(8, 2).repeat(8, 3)  # as uneven as masks of street scenes
    images = draw.integers(0, 256, (8, 12, 16, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    records = staircase_of(16)
    predicted = {r.trial_id: mask for r, mask in zip(records, masks[2:], strict=True)}
    page = page_of(records, examples=Examples(images, masks[0], masks[1]), masks=predicted)
    assert {len(trial["masks"]) for trial in data_of(page)["trials"]} == {3}
    assert len(data_of(page)["examples"]["images"]) == 3
    assert len(page) < 300_000


@pytest.mark.parametrize("count", [1, 300])
def test_the_page_needs_no_network_and_few_bytes(count: int) -> None:
    page = page_of(staircase_of(count))
    assert not re.search(r'(?:src|href)="(?!data:)|@import|fetch\(|url\((?!#)', page)
    assert len(page) < 45_000 + 1500 * count
