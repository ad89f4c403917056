"""The Pareto front as a picture (matplotlib) and as an interactive page (plotly)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path

import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from search.front import pareto_front
from search.objectives import MIOU_AND_SIZE, Objective
from search.record import Record
from trainables.config import TrialConfig
from trainables.files import replace_file
from trainables.metrics import Metrics
from trainables.quant.layers import OFF

COLORS = {
    2: "#882255",
    3: "#d55e00",
    4: "#e69f00",
    5: "#009e73",
    6: "#56b4e9",
    7: "#0072b2",
    8: "#332288",
    OFF: "#3f4a54",
}
"""Colours by weight bits, from the palettes of Okabe & Ito and of Tol: distinct to all eyes."""

INK, MUTED, GRID, LINE, SHADE = "#1f2933", "#66727f", "#e6e9ed", "#8a97a6", "#f3f5f8"
X_TITLE, Y_TITLE, LEGEND_TITLE = "model size (KB of 1000 bytes)", "mIoU (%)", "weight bits"
NOTHING = "No trial has finished yet"
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>body {{ margin: 0 }}</style></head>
<body>
{body}
</body>
</html>
"""
LOG_FROM = 8
"""Sizes whose largest exceeds the smallest by more than this factor are drawn to a log scale."""

Pair = tuple[float, float]


def draw_front(
    records: Sequence[Record],
    folder: Path,
    title: str,
    objectives: Sequence[Objective] = MIOU_AND_SIZE,
) -> None:
    """Draws mIoU against model size of all finished trials: front.png and front.html."""
    points = read_points(records, objectives)
    subtitle = count_trials(records, points)
    picture = BytesIO()
    draw_picture(points, title, subtitle).savefig(picture, format="png")
    replace_file(folder / "front.png", picture.getvalue())
    replace_file(folder / "front.html", write_page(draw_page(points, title, subtitle), title))


def human_size(num_bytes: int) -> str:
    """A size to three digits, such as 61.9 KB or 1.95 MB, where 1 KB is 1000 bytes."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    size, units = num_bytes / 1000, iter(("KB", "MB", "GB"))
    unit = next(units)
    while size >= 999.5 and unit != "GB":
        size, unit = size / 1000, next(units)
    decimals = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{size:.{decimals}f} {unit}"


@dataclass(frozen=True)
class Point:
    """A finished trial: a trained student, measured as the file it left."""

    trial_id: str
    config: TrialConfig
    metrics: Metrics
    size_bytes: int
    on_front: bool

    @property
    def color(self) -> str:
        """Its colour, paler where dominated: opaque all the same, so that crowds stay pale."""
        return COLORS[self.weight_bits] if self.on_front else paler(COLORS[self.weight_bits])

    @property
    def x(self) -> float:
        """Size in KB."""
        return self.size_bytes / 1000

    @property
    def y(self) -> float:
        """Mean IoU in percent."""
        return 100 * self.metrics.miou

    @property
    def weight_bits(self) -> int:
        return self.config.quantizer.weight_bits if self.config.quantizer else OFF

    @property
    def bits(self) -> str:
        """Bits of weights and activations, such as 4/8."""
        quantizer = self.config.quantizer
        return f"{self.weight_bits}/{quantizer.activation_bits if quantizer else OFF}"

    @property
    def hover(self) -> str:
        """What the page tells of a point under the pointer."""
        recipe = self.config.recipe
        lines = (
            f"<b>trial {self.trial_id}</b>" + (" (on the front)" if self.on_front else ""),
            f"mIoU {self.y:.1f} %",
            f"size {human_size(self.size_bytes)}",
            f"bits W/A {self.bits}",
            f"width {self.config.student.width}",
            f"recipe {recipe.name}",
            f"learning rate {rate:.2g}" if (rate := self.config.learning_rate) else "not trained",
        )
        return "<br>".join(lines)


def paler(color: str) -> str:
    """A third of a colour such as #0072b2, in white."""
    parts = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{255 - (255 - part) // 3:02x}" for part in parts)


def read_points(
    records: Sequence[Record], objectives: Sequence[Objective] = MIOU_AND_SIZE
) -> list[Point]:
    """The finished trials, smallest first."""
    members = {record.trial_id for record in pareto_front(records, objectives)}
    points = []
    for record in records:
        if record.state == "COMPLETE":
            config, metrics = record.config, record.metrics
            assert config is not None
            assert metrics is not None
            assert metrics.size_bytes is not None
            on_front = record.trial_id in members
            points.append(Point(record.trial_id, config, metrics, metrics.size_bytes, on_front))
    return sorted(points, key=lambda point: point.size_bytes)


def count_trials(records: Sequence[Record], points: Sequence[Point]) -> str:
    on_front = sum(point.on_front for point in points)
    trials = "1 trial" if len(records) == 1 else f"{len(records)} trials"
    return f"{trials}, {len(points)} finished, {on_front} on the front"


@dataclass(frozen=True)
class View:
    """The window of both drawings: from and to which size (KB) and mIoU (%)."""

    x: Pair
    y: Pair
    log: bool

    def fraction(self, point: Point) -> Pair:
        """Where `point` lies in the window, from (0, 0) at the lower left to (1, 1)."""
        left, right = (self.along(limit) for limit in self.x)
        bottom, top = self.y
        return (self.along(point.x) - left) / (right - left), (point.y - bottom) / (top - bottom)

    def along(self, size: float) -> float:
        return math.log10(size) if self.log else size

    @property
    def ticks(self) -> list[float]:
        """One, two and five times the powers of ten in a logarithmic window."""
        low, high = self.x
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
        ticks = (step * 10.0**power for power in powers for step in (1, 2, 5))
        return [tick for tick in ticks if low <= tick <= high]

    @property
    def x_title(self) -> str:
        return f"{X_TITLE}, log scale" if self.log else X_TITLE


def view_of(points: Sequence[Point]) -> View:
    """A window round all points, with room for labels at the left and on top."""
    smallest, largest = min(p.x for p in points), max(p.x for p in points)
    worst, best = at_least(2.0, [p.y for p in points])
    tall = best - worst
    y = max(worst - 0.08 * tall, -0.02 * tall), best + 0.12 * tall
    if largest > LOG_FROM * smallest:
        factor = largest / smallest
        return View((smallest * factor**-0.08, largest * factor**0.06), y, log=True)
    smallest, largest = at_least(0.2 * largest, [p.x for p in points])
    wide = largest - smallest
    return View((max(smallest - 0.08 * wide, 0.0), largest + 0.06 * wide), y, log=False)


def at_least(span: float, values: Sequence[float]) -> Pair:
    """From the least to the greatest value, widened on both sides where they lie closer."""
    low, high = min(values), max(values)
    missing = max(0.0, span - (high - low)) / 2
    return low - missing, high + missing


def staircase(points: Sequence[Point], view: View) -> tuple[list[float], list[float]]:
    """Corners of the best mIoU at every size, from the window's bottom to its right side."""
    best = accumulate((point.y for point in points), max)
    front = [(p.x, p.y) for p, y in zip(points, best, strict=True) if p.on_front and p.y == y]
    corners = [(front[0][0], view.y[0]), front[0]]
    for (_, before), (x, y) in pairwise(front):
        corners += [(x, before), (x, y)]
    corners.append((view.x[1], front[-1][1]))
    return [x for x, _ in corners], [y for _, y in corners]


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def inside(self, extent: Pair) -> bool:
        within = self.right <= extent[0] and self.top <= extent[1]
        return self.left >= 0 and self.bottom >= 0 and within

    def overlaps(self, other: "Box") -> bool:
        apart_across = self.right <= other.left or other.right <= self.left
        apart_up = self.top <= other.bottom or other.top <= self.bottom
        return not (apart_across or apart_up)


@dataclass(frozen=True)
class Label:
    """A front point's name, with its lower right corner `shift` away from the point."""

    point: Point
    shift: Pair
    moved: bool


def place_labels(points: Sequence[Point], view: View, extent: Pair, font: float) -> list[Label]:
    """Labels of the front, upper left of its points, where nothing else can lie; none overlap.

    `extent` is the window's width and height, in the unit of `font`, the letters' height. Where a
    crowd leaves no room near a point, it goes without a label. Both ends come first.
    """
    labels: list[Label] = []
    taken: list[Box] = []
    front = [point for point in points if point.on_front]
    for point in sorted(front, key=lambda p: p not in (front[0], front[-1])):
        across, up = view.fraction(point)
        spot = across * extent[0], up * extent[1]
        size = 0.66 * font * len(point.trial_id), 1.1 * font
        for step, shift in enumerate(shifts(font, size[0])):
            boxes = [label_box(spot, shift, size), *(leader(spot, shift) if step else ())]
            if boxes[0].inside(extent) and not any(a.overlaps(b) for a in boxes for b in taken):
                taken += boxes
                labels.append(Label(point, shift, moved=step > 0))
                break
    return labels


def label_box(spot: Pair, shift: Pair, size: Pair) -> Box:
    right, bottom = spot[0] + shift[0], spot[1] + shift[1]
    return Box(right - size[0], bottom, right, bottom + size[1])


def leader(spot: Pair, shift: Pair) -> list[Box]:
    """The line from a point to its label, as boxes of a point's size."""
    steps = [(spot[0] + shift[0] * i / 12, spot[1] + shift[1] * i / 12) for i in range(2, 12)]
    return [Box(x, y, x, y) for x, y in steps]


def shifts(font: float, width: float) -> list[Pair]:
    """Places to try for a label, nearest first."""
    left, up = -0.5 * font, 0.4 * font
    places = [(left - i * 0.6 * width, up + j * 1.2 * font) for i in range(3) for j in range(4)]
    return sorted(places, key=lambda place: math.hypot(*place))


def bits_name(bits: int) -> str:
    return "32 (full precision)" if bits == OFF else str(bits)


def group_by_bits(points: Sequence[Point]) -> list[tuple[int, list[Point]]]:
    """Points that look the same, with their weight bits: the dominated ones first."""
    kinds = sorted({(point.on_front, point.weight_bits) for point in points})
    return [
        (bits, [p for p in points if (p.on_front, p.weight_bits) == (on_front, bits)])
        for on_front, bits in kinds
    ]


# The picture


def draw_picture(points: Sequence[Point], title: str, subtitle: str) -> Figure:
    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(f"{title}\n", loc="left", size=14, weight="bold", color=INK, parse_math=False)
    axes.text(0, 1.025, subtitle, transform=axes.transAxes, size=10, color=MUTED)
    if not points:
        axes.text(0.5, 0.5, NOTHING, ha="center", va="center", size=14, color=MUTED)
        axes.set_axis_off()
        return figure
    view = view_of(points)
    style_axes(axes, view)
    draw_points(axes, points, view)
    draw_legend(figure, points)
    figure.draw_without_rendering()  # lays the axes out, whose extent the labels need
    draw_labels(axes, points, view)
    return figure


def style_axes(axes: Axes, view: View) -> None:
    axes.set_xscale("log" if view.log else "linear")
    if view.log:
        axes.xaxis.set_major_locator(FixedLocator(view.ticks))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set(xlim=view.x, ylim=view.y)
    axes.set_xlabel(view.x_title, size=11, color=INK, labelpad=8)
    axes.set_ylabel(Y_TITLE, size=11, color=INK, labelpad=8)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelsize=10, labelcolor=MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)


def draw_points(axes: Axes, points: Sequence[Point], view: View) -> None:
    corners = staircase(points, view)
    axes.fill_between(*corners, view.y[0], color=SHADE, linewidth=0, zorder=0.4)
    axes.plot(*corners, color=LINE, linewidth=1.5, zorder=1)
    for bits, group in group_by_bits(points):
        on_front = group[0].on_front
        axes.plot(
            [point.x for point in group],
            [point.y for point in group],
            linestyle="",
            marker=marker(bits),
            color=group[0].color,
            markersize=8.5 if on_front else 6.5,
            markeredgecolor="white",
            markeredgewidth=1 if on_front else 0.5,
            zorder=3 if on_front else 2,
        )


def marker(bits: int) -> str:
    return "D" if bits == OFF else "o"


def draw_legend(figure: Figure, points: Sequence[Point]) -> None:
    entries = [
        Line2D([], [], ls="", marker=marker(bits), ms=8, color=COLORS[bits], label=bits_name(bits))
        for bits in sorted({point.weight_bits for point in points})
    ]
    entries.append(Line2D([], [], color=LINE, linewidth=1.5, label="Pareto front"))
    if not all(point.on_front for point in points):
        pale = paler(MUTED)
        entries.append(Line2D([], [], ls="", marker="o", ms=6, color=pale, label="dominated"))
    legend = figure.legend(
        handles=entries,
        title=LEGEND_TITLE,
        loc="outside right upper",
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        labelspacing=0.7,
        alignment="left",
    )
    legend.get_title().set(color=MUTED, size=10)


def draw_labels(axes: Axes, points: Sequence[Point], view: View) -> None:
    font = 8.5
    window = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted())
    for label in place_labels(points, view, (72 * window.width, 72 * window.height), font):
        axes.annotate(
            label.point.trial_id,
            (label.point.x, label.point.y),
            xytext=label.shift,
            textcoords="offset points",
            ha="right",
            va="bottom",
            size=font,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": LINE, "lw": 0.6} if label.moved else None,
            zorder=2.5,
        )


# The page


def write_page(figure: go.Figure, title: str) -> str:
    """The figure as HTML that holds all it needs, and sends nothing anywhere."""
    config = {
        "displaylogo": False,
        "showSendToCloud": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d"],
        "responsive": True,
    }
    body = figure.to_html(
        config=config,
        include_plotlyjs=True,
        full_html=False,
        div_id="front",
        default_height="100vh",
    )
    return PAGE.format(title=escape(title), body=body)


def draw_page(points: Sequence[Point], title: str, subtitle: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title={
            "text": f"<b>{escape(title)}</b>",
            "subtitle": {"text": subtitle, "font": {"size": 13, "color": MUTED}},
            "x": 0.02,
        },
        template="plotly_white",
        font={"family": "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif", "color": INK},
        legend={"title": {"text": LEGEND_TITLE}},
        hoverlabel={
            "bgcolor": "white",
            "bordercolor": LINE,
            "font": {"color": INK},
            "align": "left",
        },
        margin={"t": 90},
    )
    if not points:
        figure.add_annotation(text=NOTHING, showarrow=False, font={"size": 18, "color": MUTED})
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        return figure
    view = view_of(points)
    add_axes(figure, view)
    add_points(figure, points, view)
    add_labels(figure, points, view)
    return figure


def add_axes(figure: go.Figure, view: View) -> None:
    figure.update_xaxes(
        title=view.x_title,
        type="log" if view.log else "linear",
        range=[view.along(limit) for limit in view.x],
        tickformat=",~r",
        tickvals=view.ticks if view.log else None,
        linecolor=LINE,
        gridcolor=GRID,
        zeroline=False,
    )
    figure.update_yaxes(title=Y_TITLE, range=view.y, gridcolor=GRID, zeroline=False)


def add_points(figure: go.Figure, points: Sequence[Point], view: View) -> None:
    """Adds the staircase, the dominated points, and upon them the front."""
    xs, ys = staircase(points, view)
    line = {"color": LINE, "width": 2}
    figure.add_scatter(
        x=xs, y=ys, mode="lines", line=line, name="Pareto front", hoverinfo="skip", legendrank=1001
    )
    for bits, group in group_by_bits(points):
        add_group(figure, bits, group)
    for bits in sorted({point.weight_bits for point in points}):
        add_legend_entry(figure, bits)


def add_group(figure: go.Figure, bits: int, points: Sequence[Point]) -> None:
    """Adds points that look the same."""
    on_front = points[0].on_front
    figure.add_scatter(
        x=[point.x for point in points],
        y=[point.y for point in points],
        hovertext=[point.hover for point in points],
        hoverinfo="text",
        mode="markers",
        marker={
            "color": points[0].color,
            "symbol": symbol(bits),
            "size": 12 if on_front else 9,
            "opacity": 1,
            "line": {"color": "white", "width": 1 if on_front else 0.5},
        },
        legendgroup=str(bits),
        showlegend=False,
    )


def add_legend_entry(figure: go.Figure, bits: int) -> None:
    """Adds a trace without points, which stands in the legend for all with these weight bits."""
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"color": COLORS[bits], "symbol": symbol(bits), "size": 12},
        name=bits_name(bits),
        legendgroup=str(bits),
    )


def symbol(bits: int) -> str:
    return "diamond" if bits == OFF else "circle"


def add_labels(figure: go.Figure, points: Sequence[Point], view: View) -> None:
    """Names the front's points, placed for a small window: a larger one only spreads them."""
    font = 11
    for label in place_labels(points, view, (800, 420), font):
        across, up = label.shift
        figure.add_annotation(
            x=view.along(label.point.x),
            y=label.point.y,
            text=label.point.trial_id,
            font={"size": font},
            xanchor="right",
            yanchor="bottom",
            borderpad=0,
            **(
                {"ax": across, "ay": -up, "arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": LINE}
                if label.moved
                else {"showarrow": False, "xshift": across, "yshift": up}
            ),
        )
