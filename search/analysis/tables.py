"""Tables of the trials and of the front of a study, as Parquet files and for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import JustifyMethod
from rich.table import Table

from search.analysis.plot_layout import Point, plot_points
from search.core.objectives import MIOU_AND_SIZE, Objective
from search.core.pareto import pareto_front
from search.core.record import COST, DISTURBED, DISTURBED_MARK, Record, class_columns
from search.storage.layout import FRONT_TABLE, TRIALS_TABLE
from trainables.core.config_base import Leaf
from trainables.core.files import replace_file
from trainables.core.metrics import Metrics
from trainables.core.units import human_cost, human_size
from trainables.data.configs import MEASURED_ON, LabelSize

BASE_COLUMNS = {
    "trial_id": pa.string(),
    "state": pa.string(),
    "reason": pa.string(),
    "recipe": pa.string(),
    "config_digest": pa.string(),
    "epochs": pa.int64(),
    "miou": pa.float64(),
    "pixel_accuracy": pa.float64(),
    "classes_never_predicted": pa.int64(),
    "size_bytes": pa.int64(),
    "compressed_bytes": pa.int64(),
    "changed_pixels": pa.int64(),
    "predicted_size_bytes": pa.int64(),
    "num_params": pa.int64(),
    "macs": pa.int64(),
    "ram_bytes": pa.int64(),
    "device_seconds": pa.float64(),
    "start_seconds": pa.float64(),
    "parts": pa.int64(),
    "latency_ms": pa.float64(),
    "latency_disturbed": pa.bool_(),
    "other_seed_miou": pa.float64(),
    "cost": pa.float64(),
}
"""Columns of every table, before those of the classes and of the configurations."""

ARROW = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def write_tables(
    records: Sequence[Record],
    folder: Path,
    class_names: Sequence[str],
    objectives: Sequence[Objective] = MIOU_AND_SIZE,
) -> None:
    """Writes all trials to trials.parquet, and those of the front to front.parquet."""
    rows = [record.row(class_names) for record in records]
    front = [record.row(class_names) for record in pareto_front(records, objectives)]
    schema = schema_of(rows, class_names)
    write_parquet(rows, schema, folder / TRIALS_TABLE)
    write_parquet(front, schema, folder / FRONT_TABLE)


def schema_of(rows: Sequence[dict[str, Leaf]], class_names: Sequence[str]) -> pa.Schema:
    """The fixed columns, then the others in the order of their first appearance."""
    fixed = BASE_COLUMNS | dict.fromkeys(class_columns(class_names), pa.float64())
    others = dict.fromkeys(name for row in rows for name in row if name not in fixed)
    types = fixed | {name: arrow_type([row.get(name) for row in rows]) for name in others}
    return pa.schema(list(types.items()))


def arrow_type(values: Sequence[Leaf]) -> pa.DataType:
    """The narrowest type that holds all values; null where all are None."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.null()
    if len(kinds) == 1:
        return ARROW[kinds.pop()]
    return pa.float64() if kinds == {int, float} else pa.string()


def write_parquet(rows: Sequence[dict[str, Leaf]], schema: pa.Schema, path: Path) -> None:
    columns = [
        pa.array([cast(row.get(field.name), field.type) for row in rows], field.type)
        for field in schema
    ]
    content = BytesIO()
    pq.write_table(pa.table(columns, schema=schema), content)
    replace_file(path, content.getvalue())


def cast(value: Leaf, kind: pa.DataType) -> Leaf:
    """`value` in the type of its column; a column with values of several types holds strings."""
    return value if value is None or kind != pa.string() else str(value)


def front_table(
    records: Sequence[Record],
    objectives: Sequence[Objective] = MIOU_AND_SIZE,
    width: int | None = None,
    label_size: LabelSize = "own",
) -> Table:
    """The front as a table for the terminal, smallest first, and what others are compared with.

    "! 3 of 11" says how many of the classes in the labels a student never predicts.
    In fewer than `width` characters, as far as trial, mIoU and size allow.
    """
    points = plot_points(records, objectives)
    shown = [point for point in points if point.is_named]
    by_id = {record.trial_id: record for record in records}
    columns = {name: [cell(p, by_id[p.trial_id]) for p in shown] for name, cell in CELLS}
    for name in (OTHER_SEED, COST):
        if not any(columns[name]):
            del columns[name]
    columns = fitting(columns, width)
    marked = any(cell.endswith(DISTURBED_MARK) for cell in columns.get("latency", ()))
    num_on_front = sum(point.on_front for point in points)
    table = Table(
        title=f"Pareto front: {num_on_front} of {len(points)} finished trials, mIoU "
        f"{MEASURED_ON[label_size]}",
        caption=f"{DISTURBED_MARK} {DISTURBED}" if marked else None,
    )
    for name in columns:
        justify: JustifyMethod = "left" if name in ("trial", "student", "recipe") else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def other_seed_cell(_: Point, record: Record) -> str:
    miou = record.other_seed_miou
    return "" if miou is None else f"{100 * miou:.1f}"


def ram_cell(point: Point, _: object) -> str:
    ram_bytes = point.metrics.ram_bytes
    return "" if ram_bytes is None else human_size(ram_bytes)


def write_never_predicted(metrics: Metrics) -> str:
    """The classes that a student never predicts, marked where there are any: "! 3 of 11"."""
    mark = "! " if metrics.classes_never_predicted else ""
    return f"{mark}{metrics.share_never_predicted}"


OTHER_SEED = "other seed"
"""The column of the mIoU of trials that were trained again, which is left out without any."""
CELLS: tuple[tuple[str, Callable[[Point, Record], str]], ...] = (
    ("trial", lambda point, _: point.trial_id),
    ("mIoU %", lambda point, _: f"{point.y:.1f}"),
    (OTHER_SEED, other_seed_cell),
    ("size", lambda point, _: human_size(point.size_bytes)),
    ("never predicted", lambda point, _: write_never_predicted(point.metrics)),
    ("latency", lambda _, record: record.written_latency),
    ("RAM", ram_cell),
    ("bits W/A", lambda point, _: point.bits),
    ("student", lambda point, _: point.config.student.describe()),
    ("recipe", lambda point, _: point.config.recipe.name),
    ("epochs", lambda point, _: str(point.metrics.epoch)),
    ("device s", lambda point, _: f"{point.metrics.device_seconds:,.0f}"),
    (COST, lambda _, record: human_cost(record.cost)),
)
"""The table's columns: the name of each, and a function that gives the cell of a trial."""
DROPPED = (
    COST,
    "device s",
    "epochs",
    "RAM",
    "recipe",
    "student",
    "latency",
    "bits W/A",
    "never predicted",
    OTHER_SEED,
)
"""Columns left out on a narrow terminal, in this order."""
FRAME = 3
"""Characters that a column needs in addition to its text; the table needs one more."""


def fitting(
    columns: Mapping[str, list[str]], width: int | None, dropped: Sequence[str] = DROPPED
) -> dict[str, list[str]]:
    """The columns that fit into a table of a width, without the first of `dropped` if need be."""
    kept = dict(columns)
    for name in dropped if width is not None else ():
        if 1 + sum(FRAME + max(map(len, [n, *cells])) for n, cells in kept.items()) <= (width or 0):
            break
        kept.pop(name, None)
    return kept
