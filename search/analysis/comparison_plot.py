"""The differences of a comparison as a figure (matplotlib)."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import wrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from search.analysis.comparison_summary import ArmSummary
from search.analysis.plot_layout import GRID, INK, LINE, MUTED
from search.storage.layout import COMPARISON_PLOTS
from trainables.core.files import replace_file

COLORS = {"better": "#0072b2", "worse": "#d55e00", "within noise": MUTED}
"""By verdict, from the colour-blind-safe palette of Okabe & Ito."""
ROW_INCHES, FRAME_INCHES = 0.45, 1.7
"""Height of a row, and of title, axis and legend together."""
LABEL_WIDTH = 36
"""Characters of a line of a label."""
X_TITLE = (
    "difference to the reference (points of mIoU)\n"
    "mean and 95 % confidence interval; small: each seed"
)
NOTHING = "No pair of trainings has finished"


def draw_comparison(summaries: Sequence[ArmSummary], folder: Path, title: str) -> None:
    """Writes comparison.png and comparison.svg."""
    figure = draw_differences(summaries, title)
    for name in COMPARISON_PLOTS:
        content = BytesIO()
        figure.savefig(content, format=name.rpartition(".")[2])
        replace_file(folder / name, content.getvalue())


def draw_differences(summaries: Sequence[ArmSummary], title: str) -> Figure:
    """A row for each compared arm: its mean difference, the interval, and a dot for each seed."""
    shown = [summary for summary in summaries if summary.difference]
    mious = {summary.arm.name: summary.mious for summary in summaries}
    figure = Figure(
        figsize=(9, FRAME_INCHES + ROW_INCHES * max(1, len(shown))),
        dpi=150,
        layout="constrained",
        facecolor="white",
    )
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", size=12, color=INK, parse_math=False)
    if not shown:
        axes.text(0.5, 0.5, NOTHING, ha="center", va="center", size=12, color=MUTED)
        axes.set_axis_off()
        return figure
    for row, summary in enumerate(shown):
        draw_row(axes, row, summary, mious)
    style(axes, shown)
    draw_legend(figure, shown)
    return figure


def draw_row(
    axes: Axes, row: int, summary: ArmSummary, mious: Mapping[str, Mapping[int, float]]
) -> None:
    difference, reference = summary.difference, summary.arm.reference
    assert difference
    assert reference
    color = COLORS.get(difference.verdict or "", MUTED)
    if difference.interval:
        axes.plot([100 * end for end in difference.interval], [row, row], color=color, linewidth=2)
    axes.plot(100 * difference.mean, row, "o", color=color, markersize=9, zorder=3)
    others = mious[reference.name]
    seeds = [100 * (miou - others[s]) for s, miou in summary.mious.items() if s in others]
    axes.plot(seeds, [row + 0.22] * len(seeds), "o", color=LINE, markersize=3.5, zorder=2)


def style(axes: Axes, shown: Sequence[ArmSummary]) -> None:
    axes.axvline(0, color=INK, linewidth=1, zorder=1)
    axes.set_yticks(range(len(shown)), [label(summary, shown) for summary in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel(X_TITLE, size=10, color=INK)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:+g}" if x else "0")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6, labelsize=10, labelcolor=MUTED)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    for text in axes.get_yticklabels():
        text.set_parse_math(False)


def label(summary: ArmSummary, shown: Sequence[ArmSummary]) -> str:
    """The recipe, below its student where there are several."""
    students = {each.arm.student for each in shown}
    lines = wrap(summary.arm.recipe, LABEL_WIDTH)
    return "\n".join(lines if len(students) == 1 else [summary.arm.student, *lines])


def draw_legend(figure: Figure, shown: Sequence[ArmSummary]) -> None:
    verdicts = {summary.difference.verdict for summary in shown if summary.difference}
    entries = [
        Line2D([], [], marker="o", markersize=8, linewidth=2, color=color, label=verdict)
        for verdict, color in COLORS.items()
        if verdict in verdicts
    ]
    entries.append(Line2D([], [], ls="", marker="o", ms=3.5, color=LINE, label="one seed"))
    figure.legend(
        handles=entries,
        loc="outside lower right",
        ncols=len(entries),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
