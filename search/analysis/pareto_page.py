"""The Pareto front as an interactive page (plotly)."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from search.analysis.plot_layout import (
    COLORS,
    GRID,
    INK,
    LEGEND_TITLE,
    LINE,
    MISSES_CLASSES,
    MISSES_COLOR,
    MUTED,
    NOTHING,
    PUBLISHED,
    Y_TITLE,
    Point,
    View,
    bits_name,
    group_by_bits,
    place_labels,
    staircase,
    view_of,
)
from search.core.baselines import Baseline
from trainables.core.units import human_size
from trainables.quantization.bits import FULL_PRECISION

NUM_CLASSES_SHOWN, CLASSES_PER_LINE = 30, 3
"""Classes that a hover text lists, those with the lowest IoU, and the number in a line."""
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>body {{ margin: 0 }}</style></head>
<body>
{body}
</body>
</html>
"""


def write_page(figure: go.Figure, title: str) -> str:
    """The figure as a self-contained HTML page, which makes no network requests."""
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


def draw_page(
    points: Sequence[Point],
    title: str,
    subtitle: str,
    class_names: Sequence[str],
    baselines: Sequence[Baseline] = (),
) -> go.Figure:
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
    view = view_of([*points, *baselines])
    add_axes(figure, view)
    add_points(figure, points, view, class_names)
    if baselines:
        add_baselines(figure, baselines)
    add_labels(figure, points, view, baselines)
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


def add_points(
    figure: go.Figure, points: Sequence[Point], view: View, class_names: Sequence[str]
) -> None:
    """Adds the staircase, the dominated points, and the front on top of them."""
    xs, ys = staircase(points, view)
    line = {"color": LINE, "width": 2}
    figure.add_scatter(
        x=xs, y=ys, mode="lines", line=line, name="Pareto front", hoverinfo="skip", legendrank=1001
    )
    for bits, group in group_by_bits(points):
        add_group(figure, bits, group, class_names)
    for bits in sorted({point.weight_bits for point in points}):
        add_legend_entry(figure, bits)
    if missing := [point for point in points if point.misses_classes]:
        add_rings(figure, missing)


def add_group(
    figure: go.Figure, bits: int, points: Sequence[Point], class_names: Sequence[str]
) -> None:
    """Adds points that look the same."""
    on_front = points[0].on_front
    figure.add_scatter(
        x=[point.x for point in points],
        y=[point.y for point in points],
        hovertext=[hover_text(point, class_names) for point in points],
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


def add_rings(figure: go.Figure, points: Sequence[Point]) -> None:
    """Adds a ring around each of the points, and its meaning to the legend."""
    figure.add_scatter(
        x=[point.x for point in points],
        y=[point.y for point in points],
        hoverinfo="skip",
        mode="markers",
        marker={
            "symbol": "circle-open",
            "size": 20,
            "color": MISSES_COLOR,
            "line": {"width": 1.5},
        },
        name=MISSES_CLASSES,
        legendrank=1002,
    )


def add_baselines(figure: go.Figure, baselines: Sequence[Baseline]) -> None:
    """Adds the published models, whose names are also shown under the pointer."""
    figure.add_scatter(
        x=[baseline.x for baseline in baselines],
        y=[baseline.y for baseline in baselines],
        hovertext=[
            f"<b>{escape(b.label)}</b><br>mIoU {b.y:.1f} %<br>size {human_size(b.size_bytes)}"
            for b in baselines
        ],
        hoverinfo="text",
        mode="markers",
        marker={"symbol": "star", "size": 13, "color": INK},
        name=PUBLISHED,
        legendrank=1003,
    )


def hover_text(point: Point, class_names: Sequence[str]) -> str:
    """What is shown of a point under the pointer, the IoU of its classes included."""
    recipe, missed = point.config.recipe, point.metrics.share_never_predicted
    lines = [
        f"<b>trial {point.trial_id}</b>" + (" (on the front)" if point.on_front else ""),
        f"mIoU {point.y:.1f} %",
        f"size {human_size(point.size_bytes)}",
        f"bits W/A {point.bits}",
        f"student {point.config.student.describe()}",
        f"recipe {recipe.name}",
        f"learning rate {rate:.2g}" if (rate := recipe.learning_rate) else "not trained",
    ]
    if missed:
        text = f"{missed} classes never predicted"
        lines.append(f"<b>! {text}</b>" if point.misses_classes else text)
    if point.metrics.class_iou is not None:
        lines += class_lines(point.metrics.class_iou, class_names)
    return "<br>".join(lines)


def class_lines(class_iou: Sequence[float | None], class_names: Sequence[str]) -> list[str]:
    """Lines with the IoU of classes that labels hold, lowest first."""
    named = zip(class_iou, class_names, strict=True)
    ranked = sorted((iou, name) for iou, name in named if iou is not None)
    texts = [f"{escape(name)} {100 * iou:.1f}" for iou, name in ranked[:NUM_CLASSES_SHOWN]]
    if len(ranked) > len(texts):
        texts.append(f"{len(ranked) - len(texts)} more classes above")
    rows = range(0, len(texts), CLASSES_PER_LINE)
    lines = [", ".join(texts[first : first + CLASSES_PER_LINE]) for first in rows]
    return ["IoU in %, lowest first:", *lines]


def symbol(bits: int) -> str:
    return "diamond" if bits == FULL_PRECISION else "circle"


def add_labels(
    figure: go.Figure, points: Sequence[Point], view: View, baselines: Sequence[Baseline]
) -> None:
    """Labels the front's points, placed for a small window; a larger one moves them apart."""
    font = 11
    for label in place_labels(points, view, (800, 420), font, baselines):
        across, up = label.shift
        figure.add_annotation(
            x=view.along(label.point.x),
            y=label.point.y,
            text=escape(label.point.label),
            font={"size": font},
            xanchor=label.anchor,
            yanchor="bottom",
            borderpad=0,
            **(
                {"ax": across, "ay": -up, "arrowhead": 0, "arrowwidth": 0.8, "arrowcolor": LINE}
                if label.moved
                else {"showarrow": False, "xshift": across, "yshift": up}
            ),
        )
