"""The interactive page of a front."""

from front_factories import CLASSES

from search.analysis.pareto_page import class_lines, draw_page
from search.analysis.plot_layout import plot_points
from search.core.record import Record


class TestDrawing:
    def test_page_tells_of_each_finished_trial(self, records: list[Record]) -> None:
        figure = draw_page(plot_points(records), "title", "subtitle", CLASSES)
        texts = [text for trace in figure.data for text in trace.hovertext or ()]
        assert len(texts) == 5
        (told,) = (text for text in texts if "trial 0003" in text)
        for part in ("60.0 %", "61.9 KB", "W/A 4/6", "student unet 8", "qat", "0.0013"):
            assert part in told
        assert "<br>0 of 3 classes never predicted<br>" in told
        assert told.endswith("<br>IoU in %, lowest first:<br>&lt;b&gt; 0.0, road 50.0, sky 70.0")
        (told,) = (text for text in texts if "trial 0002" in text)
        assert "<br><b>! 1 of 3 classes never predicted</b><br>" in told
        assert {a.text for a in figure.layout.annotations} == {"0003", "0004", "0006"}
        assert figure.layout.xaxis.type == "log"

    def test_page_lists_the_lowest_of_many_classes(self) -> None:
        names = [f"class {index}" for index in range(100)]
        lines = class_lines([1 - index / 100 for index in range(100)], names)
        assert lines[1] == "class 99 1.0, class 98 2.0, class 97 3.0"
        assert len(lines) == 12
        assert lines[-1] == "70 more classes above"
