"""Plots of a search: hypervolume against device seconds, and parameter importances."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search.analysis.diagnostics import SearchDiagnostics
from search.analysis.plot_layout import GRID, INK, LINE, MUTED
from search.storage.layout import DIAGNOSTICS_PLOT
from trainables.core.files import replace_file

NUM_SHOWN = 8
"""Parameters with a bar, the most important of each objective."""
COLORS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1")
NAMES = {
    "miou": "mIoU",
    "size_bytes": "size",
    "latency_ms": "latency",
    "macs": "multiply-adds",
    "ram_bytes": "RAM",
}


def draw_diagnostics(diagnostics: SearchDiagnostics, folder: Path, title: str) -> None:
    """Writes search.png."""
    shown = {metric: shares for metric, shares in diagnostics.importances.items() if shares}
    figure = Figure(
        figsize=(10, 4.6 if shown else 4), dpi=150, layout="constrained", facecolor="white"
    )
    widths = [1.6] + [1.0] * len(shown)
    panels = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
    spent = (
        f"{diagnostics.unfinished_share:.0%} of the device seconds for trials that did not finish"
    )
    figure.suptitle(f"{title}; {spent}", x=0.01, ha="left", size=12, color=INK, parse_math=False)
    draw_steps(panels[0], diagnostics)
    for axes, color, (metric, shares) in zip(panels[1:], COLORS, shown.items(), strict=False):
        draw_shares(axes, shares, f"what {NAMES[metric]} depends on", color)
    content = BytesIO()
    figure.savefig(content, format="png")
    replace_file(folder / DIAGNOSTICS_PLOT, content.getvalue())


def draw_steps(axes: Axes, diagnostics: SearchDiagnostics) -> None:
    style(axes, "hypervolume")
    seconds = [0.0] + [step.device_seconds for step in diagnostics.steps]
    volumes = [0.0] + [step.hypervolume for step in diagnostics.steps]
    axes.step(seconds, volumes, where="post", color=COLORS[0], linewidth=2)
    axes.plot(seconds[1:], volumes[1:], "o", color=COLORS[0], markersize=4)
    axes.set_xlim(0, max(seconds[-1], 1e-9) * 1.02)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("device seconds", size=10, color=INK)
    axes.grid(color=GRID, linewidth=0.8)


def draw_shares(axes: Axes, shares: Mapping[str, float], title: str, color: str) -> None:
    style(axes, title)
    most = list(shares.items())[:NUM_SHOWN][::-1]
    axes.barh([short(name) for name, _ in most], [share for _, share in most], color=color)
    axes.xaxis.set_major_formatter("{x:.0%}")


def short(name: str) -> str:
    """The last two parts of a parameter's path."""
    return " ".join(name.split(".")[-2:]).replace("_", " ")


def style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", size=10, color=INK)
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.set_axisbelow(True)
