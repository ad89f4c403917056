"""The figure of a comparison."""

from pathlib import Path

import pytest
from comparison_factories import make_arms, summaries

from search.analysis.comparison_plot import draw_comparison, draw_differences
from search.analysis.comparison_summary import summarize


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_the_figure_has_a_row_for_each_compared_arm(num_seeds: int, tmp_path: Path) -> None:
    figure = draw_differences(summaries(num_seeds), "compared")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["kd $a_1$", "qat"]
    intervals = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_lw() == 2]
    assert len(intervals) == (2 if num_seeds > 1 else 0)
    draw_comparison(summaries(num_seeds), tmp_path, "compared")
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "comparison.svg").read_text()


def test_a_figure_without_a_pair_says_so(tmp_path: Path) -> None:
    arms, _ = make_arms()
    draw_comparison(summarize(arms, {}), tmp_path, "compared")
    assert (tmp_path / "comparison.png").stat().st_size > 1000
