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
    MUTED,
    NOTHING,
    Y_TITLE,
    Point,
    View,
    bits_name,
    group_by_bits,
    place_labels,
    staircase,
    view_of,
)
from trainables.quantization.bits import FULL_PRECISION

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
    """Adds the staircase, the dominated points, and the front on top of them."""
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
    return "diamond" if bits == FULL_PRECISION else "circle"


def add_labels(figure: go.Figure, points: Sequence[Point], view: View) -> None:
    """Labels the front's points, placed for a small window; a larger one moves them apart."""
    font = 11
    for label in place_labels(points, view, (800, 420), font):
        across, up = label.shift
        figure.add_annotation(
            x=view.along(label.point.x),
            y=label.point.y,
            text=label.point.label,
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
