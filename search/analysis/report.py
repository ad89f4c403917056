"""Writes the plots of a front: the figure front.png and the interactive page front.html."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from search.analysis.page_data import PageContext
from search.analysis.pareto_page import write_page
from search.analysis.pareto_plot import draw_picture
from search.analysis.plot_layout import count_trials, plot_points
from search.core.objectives import MIOU_AND_SIZE, Objective
from search.core.record import Record
from search.storage.layout import FRONT_PAGE, FRONT_PLOT
from trainables.core.files import replace_file


def draw_front(
    records: Sequence[Record],
    folder: Path,
    title: str,
    context: PageContext,
    objectives: Sequence[Objective] = MIOU_AND_SIZE,
) -> None:
    """Draws mIoU against model size of all finished trials: front.png and front.html."""
    points = plot_points(records, objectives)
    subtitle = count_trials(records, points)
    drawn = BytesIO()
    draw_picture(points, title, subtitle, context.baselines).savefig(drawn, format="png")
    picture = drawn.getvalue()
    replace_file(folder / FRONT_PLOT, picture)
    page = write_page(records, points, title, subtitle, picture, context)
    replace_file(folder / FRONT_PAGE, page)
