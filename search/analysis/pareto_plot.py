"""The Pareto front as a figure (matplotlib)."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

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
    SHADE,
    Y_TITLE,
    Placed,
    Point,
    View,
    bits_name,
    group_by_bits,
    paler,
    place_labels,
    staircase,
    view_of,
)
from trainables.quantization.bits import FULL_PRECISION


def draw_picture(
    points: Sequence[Point], title: str, subtitle: str, baselines: Sequence[Placed] = ()
) -> Figure:
    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(f"{title}\n", loc="left", size=14, weight="bold", color=INK, parse_math=False)
    axes.text(0, 1.025, subtitle, transform=axes.transAxes, size=10, color=MUTED)
    if not points:
        axes.text(0.5, 0.5, NOTHING, ha="center", va="center", size=14, color=MUTED)
        axes.set_axis_off()
        return figure
    view = view_of([*points, *baselines])
    style_axes(axes, view)
    draw_points(axes, points, view)
    if baselines:
        axes.plot([b.x for b in baselines], [b.y for b in baselines], zorder=2.7, **STAR)
    draw_legend(figure, points, has_baselines=bool(baselines))
    figure.draw_without_rendering()  # computes the layout: the labels need the axes' extent
    draw_labels(axes, points, view, baselines)
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


RING: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 13,
    "markerfacecolor": "none",
    "markeredgecolor": MISSES_COLOR,
    "markeredgewidth": 1.2,
}
"""The line of a ring around points that never predict some classes."""

STAR: dict[str, Any] = {
    "linestyle": "",
    "marker": "*",
    "markersize": 12,
    "color": INK,
    "markeredgecolor": "white",
}
"""The marker of a published model."""


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
    missing = [point for point in points if point.misses_classes]
    axes.plot([p.x for p in missing], [p.y for p in missing], zorder=4, **RING)


def marker(bits: int) -> str:
    return "D" if bits == FULL_PRECISION else "o"


def draw_legend(figure: Figure, points: Sequence[Point], has_baselines: bool) -> None:
    entries = [
        Line2D([], [], ls="", marker=marker(bits), ms=8, color=COLORS[bits], label=bits_name(bits))
        for bits in sorted({point.weight_bits for point in points})
    ]
    entries.append(Line2D([], [], color=LINE, linewidth=1.5, label="Pareto front"))
    if not all(point.on_front for point in points):
        pale = paler(MUTED)
        entries.append(Line2D([], [], ls="", marker="o", ms=6, color=pale, label="dominated"))
    if any(point.misses_classes for point in points):
        entries.append(Line2D([], [], label=MISSES_CLASSES, **RING))
    if has_baselines:
        entries.append(Line2D([], [], label=PUBLISHED, **STAR))
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


def draw_labels(
    axes: Axes, points: Sequence[Point], view: View, baselines: Sequence[Placed]
) -> None:
    font = 8.5
    window = axes.get_window_extent().transformed(axes.figure.dpi_scale_trans.inverted())
    extent = 72 * window.width, 72 * window.height
    for label in place_labels(points, view, extent, font, baselines):
        axes.annotate(
            label.point.label,
            (label.point.x, label.point.y),
            xytext=label.shift,
            textcoords="offset points",
            ha=label.anchor,
            va="bottom",
            size=font,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": LINE, "lw": 0.6} if label.moved else None,
            zorder=2.5,
            parse_math=False,
        )
