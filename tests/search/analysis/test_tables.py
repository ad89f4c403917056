from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_networks import traced_student
from matplotlib.legend import Legend
from PIL import Image
from rich.console import Console

from search.analysis.pareto_page import class_lines, draw_page
from search.analysis.pareto_plot import draw_picture
from search.analysis.plot_layout import (
    COLORS,
    MISSES_CLASSES,
    PUBLISHED,
    Box,
    View,
    label_box,
    place_labels,
    plot_points,
    staircase,
    view_of,
)
from search.analysis.report import draw_front
from search.analysis.tables import BASE_COLUMNS, front_table, write_tables
from search.core.baselines import Baseline
from search.core.objectives import named_objectives
from search.core.pareto import pareto_front
from search.core.record import Record, RecordState
from trainables.config import TrialConfig
from trainables.core.metrics import Metrics
from trainables.core.units import human_size
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.models.configs import UNetConfig
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import (
    AdamW,
    Distill,
    Original,
    Qat,
    QatDistill,
    Recipe,
    Supervised,
)

CLASSES = ("sky", "road", "<b>", "tree")
"""Class names of the data; no label holds the last one."""
FAILED = Record("0000", "FAIL", "the space failed", None, None)


def metrics(miou: float, size_bytes: int | None, epoch: int = 60) -> Metrics:
    return Metrics(
        epoch=epoch,
        time_ms=0,
        miou=miou,
        pixel_accuracy=0.9,
        losses={"cross_entropy": 0.4},
        class_iou=(miou + 0.1, miou - 0.1, 0.0, None),
        classes_never_predicted=1 if miou < 0.6 else 0,
        device_seconds=1234.5,
        start_seconds=300.0,
        num_params=7_760_000_000,
        macs=5_000_000_000,
        ram_bytes=262_144,
        predicted_size_bytes=size_bytes or 70_000,
        size_bytes=size_bytes,
    )


def record(
    trial_id: str,
    miou: float,
    size_bytes: int | None,
    recipe: Recipe | None = None,
    state: RecordState = "COMPLETE",
    width: int = 8,
) -> Record:
    config = TrialConfig(student=UNetConfig(width=width), recipe=recipe or Supervised())
    return Record(trial_id, state, "", config, metrics(miou, size_bytes))


def quantized(weight_bits: int, activation_bits: int = 8) -> Qat:
    return Qat(
        optimizer=AdamW(learning_rate=0.00125),
        quantizer=Lsq(weight_bits=weight_bits, activation_bits=activation_bits),
    )


@pytest.fixture
def records() -> list[Record]:
    """All states; 0004, 0003 and 0006 are the front, smallest first."""
    return [
        FAILED,
        record("0001", 0.61, None, Qat(), state="PRUNED"),
        record("0002", 0.50, 90_000, quantized(8)),
        record("0003", 0.60, 61_900, quantized(4, 6)),
        record("0004", 0.41, 20_400, QatDistill(quantizer=Lsq(weight_bits=2)), width=4),
        record("0005", 0.66, 2_500_000, Supervised(), width=16),
        record("0006", 0.67, 1_950_000, Distill(losses=by_name(Pixelwise(), Pairwise()))),
        record("0007", 0.99, None, Qat(), state="RUNNING"),
    ]


def staircase_of(count: int) -> list[Record]:
    """A front of `count` points, ever closer to each other."""
    return [
        record(f"{n:04d}", 0.7 - 0.3 / (n + 1), int(1e7 * (3 - 2 / (n + 1))), quantized(2 + n % 7))
        for n in range(count)
    ]


class TestTables:
    def test_holds_every_row(self, records: list[Record], tmp_path: Path) -> None:
        write_tables(records, tmp_path, CLASSES)
        rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
        assert len(rows) == len(records)
        for row, written in zip(records, rows, strict=True):
            expected = row.row(CLASSES)
            assert {name: written[name] for name in expected} == expected
            assert all(written[name] is None for name in written.keys() - expected.keys())
            assert all(type(written[name]) is type(value) for name, value in expected.items())

    def test_puts_fixed_columns_first(self, records: list[Record], tmp_path: Path) -> None:
        write_tables(records, tmp_path, CLASSES)
        names = pq.read_schema(tmp_path / "trials.parquet").names
        leaves = dict.fromkeys(n for r in records if r.config for n in r.config.flatten())
        classes = [f"iou.{name}" for name in CLASSES]
        assert names == [*BASE_COLUMNS, *classes, *leaves]
        assert [*BASE_COLUMNS, *classes] == list(FAILED.row(CLASSES))

    def test_types(self, records: list[Record], tmp_path: Path) -> None:
        write_tables(records, tmp_path, CLASSES)
        schema = pq.read_schema(tmp_path / "trials.parquet")
        for name in ("size_bytes", "predicted_size_bytes", "num_params", "macs", "epochs"):
            assert schema.field(name).type == pa.int64()
        for name in ("miou", "pixel_accuracy", "device_seconds", "start_seconds"):
            assert schema.field(name).type == pa.float64()
        for name in CLASSES:
            assert schema.field(f"iou.{name}").type == pa.float64()
        assert schema.field("classes_never_predicted").type == pa.int64()
        assert schema.field("recipe").type == pa.string()
        assert schema.field("student.width").type == pa.int64()
        assert schema.field("recipe.quantizer.weight_bits").type == pa.int64()
        assert schema.field("recipe.optimizer.learning_rate").type == pa.float64()
        assert schema.field("recipe.start_epochs").type == pa.null()

    def test_iou_of_classes(self, records: list[Record], tmp_path: Path) -> None:
        old = record("0008", 0.4, 80_000)
        assert old.metrics
        unknown = old.metrics.replace(class_iou=None, classes_never_predicted=None)
        write_tables([*records, replace(old, metrics=unknown)], tmp_path, CLASSES)
        rows = {r["trial_id"]: r for r in pq.read_table(tmp_path / "trials.parquet").to_pylist()}
        iou = {id: [row[f"iou.{name}"] for name in CLASSES] for id, row in rows.items()}
        assert iou["0003"] == [pytest.approx(0.7), pytest.approx(0.5), 0.0, None]
        assert iou["0000"] == iou["0008"] == [None] * 4
        missed = [rows[id]["classes_never_predicted"] for id in ("0002", "0003", "0008")]
        assert missed == [1, 0, None]

    def test_front(self, records: list[Record], tmp_path: Path) -> None:
        write_tables(records, tmp_path, CLASSES)
        front = pq.read_table(tmp_path / "front.parquet")
        assert front.schema == pq.read_schema(tmp_path / "trials.parquet")
        assert front["trial_id"].to_pylist() == [r.trial_id for r in pareto_front(records)]
        assert front["trial_id"].to_pylist() == ["0004", "0003", "0006"]

    def test_front_is_that_of_the_objectives(self, tmp_path: Path) -> None:
        records = [
            replace(record(trial_id, miou, size), latency_ms=latency)
            for trial_id, miou, size, latency in (
                ("0000", 0.6, 1000, 9.0),
                ("0001", 0.5, 2000, 3.0),
                ("0002", 0.4, 3000, 4.0),
            )
        ]
        for names, front in (
            (("miou", "size"), ["0000"]),
            (("miou", "latency"), ["0000", "0001"]),
        ):
            write_tables(records, tmp_path, CLASSES, named_objectives(names))
            table = pq.read_table(tmp_path / "front.parquet")
            assert table["trial_id"].to_pylist() == front
            assert pq.read_table(tmp_path / "trials.parquet").num_rows == 3

    @pytest.mark.parametrize("records", [[], [FAILED]], ids=["none", "all failed"])
    def test_without_results(self, records: list[Record], tmp_path: Path) -> None:
        write_tables(records, tmp_path, CLASSES)
        trials = pq.read_table(tmp_path / "trials.parquet")
        assert trials.to_pylist() == [r.row(CLASSES) for r in records]
        classes = {f"iou.{name}": pa.float64() for name in CLASSES}
        types = dict(zip(trials.schema.names, trials.schema.types, strict=True))
        assert types == BASE_COLUMNS | classes
        assert pq.read_table(tmp_path / "front.parquet").num_rows == 0

    def test_leaves_nothing_else(self, records: list[Record], tmp_path: Path) -> None:
        for _ in range(2):
            write_tables(records, tmp_path / "study", CLASSES)
        names = sorted(path.name for path in (tmp_path / "study").iterdir())
        assert names == ["front.parquet", "trials.parquet"]


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
        draw_front(records if finished else [FAILED], tmp_path, "A <study> of $U$-Nets", CLASSES)
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
        assert loads.addresses == []
        assert '"showSendToCloud": false' in page

    def test_page_tells_of_each_finished_trial(self, records: list[Record]) -> None:
        figure = draw_page(plot_points(records), "title", "subtitle", CLASSES)
        texts = [text for trace in figure.data for text in trace.hovertext or ()]
        assert len(texts) == 5
        (told,) = (text for text in texts if "trial 0003" in text)
        for part in ("60.0 %", "61.9 KB", "W/A 4/6", "student unet 8", "qat", "0.0013"):
            assert part in told
        assert "<br>0 of 3 classes never predicted<br>" in told
        assert told.endswith("<br>IoU in %, lowest first:<br>&lt;b&gt; 0.0, road 50.0, sky 70.0")
        (told,) = (text for text in texts if "trial 0002" in text)
        assert "<br><b>! 1 of 3 classes never predicted</b><br>" in told
        assert {a.text for a in figure.layout.annotations} == {"0003", "0004", "0006"}
        assert figure.layout.xaxis.type == "log"

    def test_page_lists_the_lowest_of_many_classes(self) -> None:
        names = [f"class {index}" for index in range(100)]
        lines = class_lines([1 - index / 100 for index in range(100)], names)
        assert lines[1] == "class 99 1.0, class 98 2.0, class 97 3.0"
        assert len(lines) == 12
        assert lines[-1] == "70 more classes above"

    def test_rings_show_who_misses_classes(self, records: list[Record]) -> None:
        points = plot_points(records)
        (rings,) = (
            t for t in draw_page(points, "t", "s", CLASSES).data if t.name == MISSES_CLASSES
        )
        assert list(rings.y) == pytest.approx([41.0, 50.0])
        figure = draw_picture(points, "t", "s")
        (line,) = (ln for ln in figure.axes[0].lines if ln.get_markerfacecolor() == "none")
        assert list(np.asarray(line.get_ydata())) == pytest.approx([41.0, 50.0])
        assert MISSES_CLASSES in [text.get_text() for text in figure.legends[0].get_texts()]
        good = [point for point in points if not point.misses_classes]
        assert not any(t.name == MISSES_CLASSES for t in draw_page(good, "t", "s", CLASSES).data)
        legend = draw_picture(good, "t", "s").legends[0]
        assert MISSES_CLASSES not in [text.get_text() for text in legend.get_texts()]

    def test_published_models_are_drawn_beside_the_front(self, records: list[Record]) -> None:
        far = Baseline(name="<b>theirs</b>", size_bytes=9_000_000, miou=0.99)
        points = plot_points(records)
        axes = draw_picture(points, "t", "s", [far]).axes[0]
        (star,) = [line for line in axes.lines if line.get_marker() == "*"]
        assert [list(data) for data in (star.get_xdata(), star.get_ydata())] == [[9000], [99]]
        assert axes.get_xlim()[1] > 9000
        assert axes.get_ylim()[1] > 99
        assert "<b>theirs</b>" in {text.get_text() for text in axes.texts}
        small = Baseline(name="a long name without room at its left", size_bytes=10_000, miou=0.3)
        (label,) = place_labels([], view_of([*points, small]), (700, 400), 8.5, [small])
        assert (label.anchor, label.moved) == ("left", False)
        page = draw_page(points, "t", "s", CLASSES, [far])
        (trace,) = [trace for trace in page.data if trace.name == PUBLISHED]
        assert trace.hovertext == (
            "<b>&lt;b&gt;theirs&lt;/b&gt;</b><br>mIoU 99.0 %<br>size 9.00 MB",
        )
        assert "&lt;b&gt;theirs&lt;/b&gt;" in {note.text for note in page.layout.annotations}
        assert PUBLISHED not in {trace.name for trace in draw_page(points, "t", "s", CLASSES).data}

    def test_picture_shows_each_finished_trial(self, records: list[Record]) -> None:
        figure = draw_picture(plot_points(records), "title", "subtitle")
        (axes,) = figure.axes
        drawn = [
            np.size(line.get_xdata())
            for line in axes.lines
            if line.get_marker() in ("o", "D") and line.get_markerfacecolor() != "none"
        ]
        assert sum(drawn) == 5
        assert {text.get_text() for text in axes.texts} >= {"0003", "0004", "0006", "subtitle"}
        assert "KB" in axes.get_xlabel()
        assert "%" in axes.get_ylabel()
        legend = figure.legends[0]
        assert isinstance(legend, Legend)
        entries = [text.get_text() for text in legend.get_texts()]
        bits = ["2", "4", "8", "32 (full precision)"]
        assert entries == [*bits, "Pareto front", "dominated", MISSES_CLASSES]

    @pytest.mark.parametrize("count", [1, 2, 300])
    def test_any_number_of_points(self, count: int) -> None:
        points = plot_points(staircase_of(count))
        assert all(point.on_front for point in points)
        draw_picture(points, "title", "subtitle")
        assert len(draw_page(points, "title", "subtitle", CLASSES).layout.annotations) >= min(
            count, 10
        )

    def test_full_precision_quantizer_counts_as_full_precision(self) -> None:
        (point,) = plot_points([record("0000", 0.5, 1000, quantized(32, 32))])
        assert point.bits == "32/32"
        assert point.weight_bits in COLORS


class TestView:
    @pytest.mark.parametrize(("largest", "log"), [(8000, False), (8001, True)])
    def test_scale(self, largest: int, log: bool) -> None:
        view = view_of(plot_points([record("0", 0.4, 1000), record("1", 0.5, largest)]))
        assert view.log is log
        assert 0 <= view.x[0] < 1
        assert view.x[1] > largest / 1000

    def test_shows_every_point(self, records: list[Record]) -> None:
        points = plot_points(records)
        view = view_of(points)
        for point in points:
            assert all(0 < fraction < 1 for fraction in view.fraction(point))

    def test_single_failed_student(self) -> None:
        (point,) = plot_points([record("0000", 0.0, 500)])
        assert all(0 < fraction < 1 for fraction in view_of([point]).fraction(point))

    def test_ticks(self) -> None:
        assert View((9.0, 210.0), (0, 1), log=True).ticks == [10, 20, 50, 100, 200]
        assert View((0.15, 1.1), (0, 1), log=True).ticks == pytest.approx([0.2, 0.5, 1])

    def test_staircase(self) -> None:
        points = plot_points(
            [record("0", 0.4, 1000), record("1", 0.5, 3000), record("2", 0.3, 2000)]
        )
        xs, ys = staircase(points, View((0.5, 4.0), (20.0, 60.0), log=False))
        assert xs == [1, 1, 3, 3, 4]
        assert ys == pytest.approx([20, 40, 40, 50, 50])


class TestLabels:
    @pytest.mark.parametrize("count", [1, 2, 12, 100])
    def test_neither_overlap_nor_leave_the_window(self, count: int) -> None:
        points, extent, font = plot_points(staircase_of(count)), (500.0, 300.0), 9.0
        view = view_of(points)
        labels = place_labels(points, view, extent, font)
        named = {label.point.trial_id for label in labels}
        assert {points[0].trial_id, points[-1].trial_id} <= named
        boxes = []
        for label in labels:
            across, up = view.fraction(label.point)
            size = 0.66 * font * len(label.point.trial_id), 1.1 * font
            boxes.append(label_box((across * 500, up * 300), label.shift, size))
        assert all(box.inside(extent) for box in boxes)
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))

    def test_boxes(self) -> None:
        box = Box(0, 0, 2, 2)
        assert box.overlaps(Box(1, 1, 3, 3))
        assert not box.overlaps(Box(2, 0, 3, 2))
        assert box.inside((2, 2))
        assert not box.inside((2, 1))


class TestFrontTable:
    def test_smallest_first(self, records: list[Record]) -> None:
        timed = [
            replace(record, latency_ms=1.2345) if record.trial_id == "0003" else record
            for record in records
        ]
        lines = printed(timed, 120)
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
        assert cells == [
            [
                "0004",
                "41.0",
                "20.4 KB",
                "! 1 of 3",
                "",
                "262 KB",
                "2/4",
                "unet 4",
                "qat_distill",
                "60",
                "1,234",
            ],
            [
                "0003",
                "60.0",
                "61.9 KB",
                "0 of 3",
                "1.23 ms",
                "262 KB",
                "4/6",
                "unet 8",
                "qat",
                "60",
                "1,234",
            ],
            [
                "0006",
                "67.0",
                "1.95 MB",
                "0 of 3",
                "",
                "262 KB",
                "32/32",
                "unet 8",
                "distill",
                "60",
                "1,234",
            ],
        ]
        assert "3 of 5 finished trials" in lines[0]

    @pytest.mark.parametrize("width", [80, 60, 40])
    def test_a_narrow_terminal_drops_whole_columns(self, width: int, records: list[Record]) -> None:
        timed = [replace(record, latency_ms=1.2345) for record in records]
        lines, whole = printed(timed, width), printed(timed, 120)
        assert max(map(len, lines)) <= width
        assert names_of(lines)[:3] == ["trial", "mIoU %", "size"]
        assert set(names_of(lines)) <= set(names_of(whole))
        assert len(names_of(lines)) < len(names_of(whole)) or width == 80
        assert any("0003" in line and "60.0" in line and "61.9 KB" in line for line in lines)
        assert ("never predicted" in names_of(lines)) == (width > 40)
        assert "…" not in "".join(lines)

    def test_a_report_of_an_older_version_does_not_say_what_is_never_predicted(self) -> None:
        old = record("0000", 0.5, 1000)
        assert old.metrics
        unknown = old.metrics.replace(class_iou=None, classes_never_predicted=None)
        table = front_table([replace(old, metrics=unknown)])
        (cells,) = (list(c.cells) for c in table.columns if c.header == "never predicted")
        assert cells == [""]

    def test_without_results(self) -> None:
        assert "0 of 0 finished trials" in printed([])[0]


def names_of(lines: list[str]) -> list[str]:
    """The headings of a printed table."""
    heading = next(line for line in lines if "trial" in line and "┃" in line)
    return [name.strip() for name in heading.split("┃")[1:-1]]


def printed(records: list[Record], width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(front_table(records, width=width))
    return capture.get().splitlines()


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (9_994, "9.99 KB"),
        (9_996, "10.0 KB"),
        (61_900, "61.9 KB"),
        (99_960, "100 KB"),
        (123_456, "123 KB"),
        (999_499, "999 KB"),
        (999_500, "1.00 MB"),
        (1_950_000, "1.95 MB"),
        (31_000_000, "31.0 MB"),
        (2_500_000_000, "2.50 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_human_size(num_bytes: int, text: str) -> None:
    assert human_size(num_bytes) == text


def test_what_was_sampled_and_resolved_to_others_has_columns_of_its_own() -> None:
    config = TrialConfig(recipe=Qat(quantizer=Lsq(weight_bits=4, activation_bits=4)))
    params = {"recipe.quantizer.weight_bits": 4.5, "recipe.quantizer.activation_bits": 4}
    row = Record("0000", "RUNNING", "", config, None, params=params).row(CLASSES)
    assert row["recipe.quantizer.weight_bits"] == 4
    assert row["asked.recipe.quantizer.weight_bits"] == 4.5
    assert "asked.recipe.quantizer.activation_bits" not in row


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
    notes = {
        note.text for note in draw_page(points, "title", "subtitle", CLASSES).layout.annotations
    }
    assert {"0001", "original"} <= notes
