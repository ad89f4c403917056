"""The figure of a front."""

import numpy as np
from matplotlib.legend import Legend

from search.analysis.pareto_plot import draw_picture
from search.analysis.plot_layout import MISSES_CLASSES, plot_points
from search.core.record import Record


class TestDrawing:
    def test_picture_shows_each_finished_trial(self, records: list[Record]) -> None:
        figure = draw_picture(plot_points(records), "title", "subtitle")
        (axes,) = figure.axes
        drawn = [
            np.size(line.get_xdata())
            for line in axes.lines
            if line.get_marker() in ("o", "D") and line.get_markerfacecolor() != "none"
        ]
        assert sum(drawn) == 5
        assert {text.get_text() for text in axes.texts} >= {"0003", "0004", "0006", "subtitle"}
        assert "KB" in axes.get_xlabel()
        assert "%" in axes.get_ylabel()
        legend = figure.legends[0]
        assert isinstance(legend, Legend)
        entries = [text.get_text() for text in legend.get_texts()]
        bits = ["2", "4", "8", "32 (full precision)"]
        assert entries == [*bits, "Pareto front", "dominated", MISSES_CLASSES]
