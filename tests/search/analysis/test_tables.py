"""Tables of the trials and of the front, as files and in the terminal."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from front_factories import CLASSES, FAILED, record
from rich.console import Console

from search.analysis.tables import BASE_COLUMNS, front_table, write_tables
from search.core.objectives import named_objectives
from search.core.pareto import pareto_front
from search.core.record import Record


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

    def test_a_latency_that_was_measured_beside_other_work_is_marked(
        self, records: list[Record]
    ) -> None:
        timed = [replace(record, latency_ms=1.2345) for record in records]
        assert "*" not in "".join(printed(timed, 120))
        timed = [replace(record, latency_disturbed=record.trial_id == "0003") for record in timed]
        lines = printed(timed, 120)
        assert sum("1.23 ms *" in line for line in lines) == 1
        assert lines[-1].strip() == "* measured beside other work"
        assert "*" not in "".join(printed(timed, 40))

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

    def test_what_was_trained_again_stands_beside_the_first(self, records: list[Record]) -> None:
        again = [
            replace(record, other_seed_miou=0.587) if record.trial_id == "0003" else record
            for record in records
        ]
        lines = printed(again, 140)
        assert names_of(lines)[1:3] == ["mIoU %", "other seed"]
        (row,) = (line for line in lines if "0003" in line)
        assert [cell.strip() for cell in row.split("│")][2:4] == ["60.0", "58.7"]
        assert "other seed" not in names_of(printed(records, 140))

    def test_costs_are_shown_where_they_are_known(self, records: list[Record]) -> None:
        priced = [replace(record, price_per_hour=36.0) for record in records]
        lines = printed(priced, 160)
        assert names_of(lines)[-1] == "cost"
        (row,) = (line for line in lines if "0003" in line)
        (cost,) = (r.cost for r in priced if r.trial_id == "0003")
        assert float(row.split("│")[-2]) == pytest.approx(cost, rel=0.05)
        assert "cost" not in names_of(printed(records, 160))

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
