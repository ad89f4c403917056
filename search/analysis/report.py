"""Writes the plots of a front: the figure front.png and the interactive page front.html."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from search.analysis.pareto_page import draw_page, write_page
from search.analysis.pareto_plot import draw_picture
from search.analysis.plot_layout import count_trials, plot_points
from search.core.baselines import Baseline
from search.core.objectives import MIOU_AND_SIZE, Objective
from search.core.record import Record
from search.storage.layout import FRONT_PAGE, FRONT_PLOT
from trainables.core.files import replace_file


def draw_front(
    records: Sequence[Record],
    folder: Path,
    title: str,
    class_names: Sequence[str],
    objectives: Sequence[Objective] = MIOU_AND_SIZE,
    baselines: Sequence[Baseline] = (),
) -> None:
    """Draws mIoU against model size of all finished trials: front.png and front.html.

    `baselines` are drawn beside them.
    """
    points = plot_points(records, objectives)
    subtitle = count_trials(records, points)
    picture = BytesIO()
    draw_picture(points, title, subtitle, baselines).savefig(picture, format="png")
    replace_file(folder / FRONT_PLOT, picture.getvalue())
    page = draw_page(points, title, subtitle, class_names, baselines)
    replace_file(folder / FRONT_PAGE, write_page(page, title))
