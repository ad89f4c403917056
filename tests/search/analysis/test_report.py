"""The figure of a front and its page show the same."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from foreign_networks import traced_student
from front_factories import CLASSES, FAILED, metrics, record, staircase_of
from PIL import Image

from search.analysis.page_data import PageContext
from search.analysis.pareto_plot import draw_picture
from search.analysis.plot_layout import (
    MISSES_CLASSES,
    place_labels,
    plot_points,
    view_of,
)
from search.analysis.report import draw_front
from search.analysis.tables import front_table
from search.core.baselines import Baseline
from search.core.record import Record
from trainables.config import TrialConfig
from trainables.recipes.configs import Original


class Loads(HTMLParser):
    """Collects what a page asks its browser to load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        named = ("src", "srcset", "href", "data", "poster")
        self.addresses += [value or "" for name, value in attrs if name in named]


class TestDrawing:
    @pytest.mark.parametrize("finished", [True, False])
    def test_files(self, records: list[Record], finished: bool, tmp_path: Path) -> None:
        context = PageContext(CLASSES)
        draw_front(records if finished else [FAILED], tmp_path, "A <study> of $U$-Nets", context)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["front.html", "front.png"]
        with Image.open(tmp_path / "front.png") as image:
            image.load()
            assert image.size == (1500, 900)
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10
        page = (tmp_path / "front.html").read_text()
        assert "<title>A &lt;study&gt; of $U$-Nets</title>" in page
        assert ("No trial has finished yet" in page) is not finished
        loads = Loads(page)
        assert loads.scripts > 0
        assert all(address.startswith("data:") for address in loads.addresses)

    def test_rings_show_who_misses_classes(self, records: list[Record]) -> None:
        points = plot_points(records)
        figure = draw_picture(points, "t", "s")
        (line,) = (ln for ln in figure.axes[0].lines if ln.get_markerfacecolor() == "none")
        assert list(np.asarray(line.get_ydata())) == pytest.approx([41.0, 50.0])
        assert MISSES_CLASSES in [text.get_text() for text in figure.legends[0].get_texts()]
        good = [point for point in points if not point.misses_classes]
        legend = draw_picture(good, "t", "s").legends[0]
        assert MISSES_CLASSES not in [text.get_text() for text in legend.get_texts()]

    def test_published_models_are_drawn_beside_the_front(self, records: list[Record]) -> None:
        far = Baseline(name="<b>theirs</b> $\\foo$", size_bytes=9_000_000, miou=0.99)
        points = plot_points(records)
        axes = draw_picture(points, "t", "s", [far]).axes[0]
        (star,) = [line for line in axes.lines if line.get_marker() == "*"]
        assert [list(data) for data in (star.get_xdata(), star.get_ydata())] == [[9000], [99]]
        assert axes.get_xlim()[1] > 9000
        assert axes.get_ylim()[1] > 99
        assert "<b>theirs</b> $\\foo$" in {text.get_text() for text in axes.texts}
        axes.figure.draw_without_rendering()  # its name is no formula
        small = Baseline(name="a long name without room at its left", size_bytes=10_000, miou=0.3)
        (label,) = place_labels([], view_of([*points, small]), (700, 400), 8.5, [small])
        assert (label.anchor, label.moved) == ("left", False)

    @pytest.mark.parametrize("count", [1, 2, 300])
    def test_any_number_of_points(self, count: int) -> None:
        points = plot_points(staircase_of(count))
        assert all(point.on_front for point in points)
        texts = draw_picture(points, "title", "subtitle").axes[0].texts
        assert len(texts) >= min(count, 10)


def test_a_network_to_compare_with_is_shown_where_it_is_dominated_too() -> None:
    config = TrialConfig(student=traced_student(), recipe=Original(), num_epochs=1)
    original = Record("0000", "COMPLETE", "", config, metrics(0.5, 3000))
    records = [original, record("0001", 0.6, 2000), record("0002", 0.4, 2500)]
    points = plot_points(records)
    assert [point.trial_id for point in points if point.on_front] == ["0001"]
    assert [point.label for point in points if point.is_named] == ["0001", "original"]
    table = front_table(records)
    assert list(table.columns[0].cells) == ["0001", "0000"]
    assert str(table.title).endswith("1 of 3 finished trials, mIoU at the labels' own size")
    earlier = front_table(records, label_size="packed")
    assert str(earlier.title).endswith("trials, mIoU at the networks' input size")
    texts = [text.get_text() for text in draw_picture(points, "title", "subtitle").axes[0].texts]
    assert {"0001", "original"} <= set(texts)
