"""Pages and figures of several studies: a comparison of some, and the index of a storage."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
from matplotlib.figure import Figure
from rich.table import Table

from search.analysis.other_fronts import read_points
from search.analysis.pareto_page import fill_page, image_tag
from search.analysis.pareto_plot import style_axes
from search.analysis.plot_layout import COLORS, INK, NOTHING, Placed, view_of
from search.analysis.study_summary import StudySummary, differing_settings
from search.core.baselines import Baseline
from search.core.pareto import SIZES_KB
from search.storage.layout import FRONT_PAGE, FRONT_TABLE, STORAGE_INDEX, STUDY_FILE
from search.storage.study_file import read_study_file
from trainables.core.files import replace_file
from trainables.core.units import human_cost

STYLES = ("-", "--", "-.", ":")
"""Lines of fronts, which colour alone need not tell apart."""
FRONT_COLORS = (COLORS[7], COLORS[3], COLORS[5], COLORS[2], COLORS[4], COLORS[8])


def comparison_rows(summaries: Sequence[StudySummary]) -> list[tuple[str, list[str]]]:
    """The table of a comparison: what is compared, and its value for each study."""
    best = [f"{100 * s.best_miou:.1f}" if s.best_miou is not None else "" for s in summaries]
    rows = [
        ("trials, finished", [f"{s.num_trials}, {s.num_finished}" for s in summaries]),
        ("best mIoU %", best),
        *((f"best mIoU % within {kb:,} KB", [s.best(kb) for s in summaries]) for kb in SIZES_KB),
        ("hypervolume", [f"{s.hypervolume:.4f}" for s in summaries]),
        ("device seconds", [f"{s.device_seconds:,.0f}" for s in summaries]),
    ]
    if any(s.cost is not None for s in summaries):
        rows.append(("cost", [human_cost(s.cost) for s in summaries]))
    return [*rows, *differing_settings(summaries).items()]


def comparison_terminal_table(summaries: Sequence[StudySummary], span: str) -> Table:
    """The table of a comparison for the terminal; `span` says what hypervolumes count on."""
    table = Table(title=f"{len(summaries)} studies of the same data", caption=span)
    table.add_column("")
    for summary in summaries:
        table.add_column(summary.name, justify="right")
    for name, values in comparison_rows(summaries):
        table.add_row(name, *values)
    return table


def draw_fronts(summaries: Sequence[StudySummary], title: str) -> Figure:
    """The fronts of studies over each other: the best mIoU at every size."""
    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", size=14, weight="bold", color=INK, parse_math=False)
    fronts = [points_of(summary) for summary in summaries]
    every: list[Placed] = [point for front in fronts for point in front]
    if not every:
        axes.text(0.5, 0.5, NOTHING, ha="center", va="center", size=14)
        axes.set_axis_off()
        return figure
    view = view_of(every)
    style_axes(axes, view)
    for index, (summary, front) in enumerate(zip(summaries, fronts, strict=True)):
        if front:
            axes.plot(
                [*(point.x for point in front), view.x[1]],
                [*(point.y for point in front), front[-1].y],
                drawstyle="steps-post",
                color=FRONT_COLORS[index % len(FRONT_COLORS)],
                linestyle=STYLES[index % len(STYLES)],
                marker="o",
                markevery=list(range(len(front))),
                label=summary.name.replace("$", r"\$"),
            )
    axes.legend(loc="lower right", frameon=False)
    return figure


def points_of(summary: StudySummary) -> list[Baseline]:
    """The members of a front by size and mIoU, smallest first."""
    return [
        Baseline(name=summary.name, size_bytes=r.metrics.size_bytes, miou=r.metrics.miou)
        for r in summary.front
        if r.metrics and r.metrics.size_bytes
    ]


def comparison_page(
    summaries: Sequence[StudySummary], title: str, picture: bytes, span: str
) -> str:
    """The comparison as a page that loads nothing, with a PNG file of the fronts.

    `span` says what hypervolumes count on.
    """
    names = [f'<a href="{quote(s.name)}/{FRONT_PAGE}">{escape(s.name)}</a>' for s in summaries]
    rows = [(escape(n), [escape(v) for v in values]) for n, values in comparison_rows(summaries)]
    shown = image_tag(picture, "the fronts of the studies over each other")
    return fill_page(
        title, f"studies of the same data; {span}", f"{shown}\n{table('', names, rows)}"
    )


def table(corner: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table in HTML, whose texts are HTML."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    first = f'<th scope="col">{corner}</th>' if corner else "<td></td>"
    body = "\n".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{value}</td>" for value in values)}</tr>'
        for name, values in rows
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="the studies">'
        f"<table><thead><tr>{first}{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def write_index(storage: Path) -> None:
    """Writes the page that lists the studies of a storage, by their data, with links."""
    by_data: dict[str, list[tuple[str, list[str]]]] = {}
    for folder in sorted(path.parent for path in storage.glob(f"*/{STUDY_FILE}")):
        try:
            file = read_study_file(folder, "--storage")
        except (ValueError, OSError):
            continue
        front = front_of(folder)
        link = f'<a href="{quote(folder.name)}/{FRONT_PAGE}">{escape(folder.name)}</a>'
        shown = link if (folder / FRONT_PAGE).is_file() else escape(folder.name)
        best = f"{100 * max(front.values()):.1f}" if front else ""
        within = [best_of(front, 1000 * kb) for kb in SIZES_KB]
        heading = f"{Path(file.config.data).name}, {file.config.image_size} pixels"
        rows = by_data.setdefault(f"{heading} ({file.data_digest[-8:]})", [])
        rows.append((shown, [escape(file.config.space), str(file.config.samples), best, *within]))
    names = ["space", "samples", "best mIoU %", *(f"within {kb:,} KB" for kb in SIZES_KB)]
    content = "\n".join(
        f"<section><h2>{escape(data)}</h2>{table('study', names, rows)}</section>"
        for data, rows in by_data.items()
    )
    number = sum(map(len, by_data.values()))
    subtitle = "1 study" if number == 1 else f"{number} studies"
    replace_file(storage / STORAGE_INDEX, fill_page("Studies", subtitle, content))


def front_of(folder: Path) -> Mapping[int, float]:
    """By size in bytes, the mIoU of the members of a front; empty without one."""
    try:
        return dict(read_points(folder / FRONT_TABLE))
    except (OSError, ValueError, LookupError, pa.ArrowException):
        return {}


def best_of(front: Mapping[int, float], size_bytes: int) -> str:
    mious = [miou for size, miou in front.items() if size <= size_bytes]
    return f"{100 * max(mious):.1f}" if mious else ""
