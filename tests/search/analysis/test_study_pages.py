"""Several studies beside each other, and the index of a storage."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from factories import make_config
from front_factories import CLASSES, FAILED, record

from search.analysis.study_pages import (
    comparison_page,
    comparison_rows,
    comparison_terminal_table,
    draw_fronts,
    write_index,
)
from search.analysis.study_summary import (
    StudySummary,
    check_comparable,
    differing_settings,
    summarize_study,
)
from search.analysis.tables import write_tables
from search.core.record import Record
from search.storage.study_file import StudyFile, write_study_file

ODD = "a-1.b"


def make_file(storage: Path, name: str, **changes: object) -> StudyFile:
    config = make_config(storage, storage / "data", name=name, **changes)
    return StudyFile(id=name, config=config, versions={}, data_digest="d", class_names=CLASSES)


def summary(storage: Path, name: str, records: list[Record], **changes: object) -> StudySummary:
    return summarize_study(make_file(storage, name, **changes), records, 0.1)


FRONT = [record("0000", 0.5, 90_000), record("0001", 0.6, 900_000), record("0002", 0.4, 950_000)]


def test_studies_are_compared_by_mean_iou_within_sizes(tmp_path: Path) -> None:
    first = summary(tmp_path, "first", FRONT, seed=1)
    second = summary(tmp_path, ODD, [FRONT[0], FAILED], space="qkd", seed=1)
    rows = dict(comparison_rows([first, second]))
    assert rows["trials, finished"] == ["3, 3", "2, 1"]
    assert rows["best mIoU %"] == ["60.0", "50.0"]
    assert rows["best mIoU % within 50 KB"] == ["", ""]
    assert rows["best mIoU % within 100 KB"] == ["50.0 (0000)", "50.0 (0000)"]
    assert rows["best mIoU % within 1,000 KB"] == ["60.0 (0001)", "50.0 (0000)"]
    assert float(rows["hypervolume"][0]) > float(rows["hypervolume"][1]) > 0
    assert rows["space"] == ["supervised", "qkd"]
    assert "seed" not in rows
    table = comparison_terminal_table([first, second], "span")
    assert [column.header for column in table.columns] == ["", "first", ODD]


def test_a_study_without_finished_trials_is_compared_too(tmp_path: Path) -> None:
    both = [summary(tmp_path, "none", [FAILED]), summary(tmp_path, "some", FRONT)]
    assert dict(comparison_rows(both))["best mIoU %"] == ["", "60.0"]
    assert len(draw_fronts(both, "t").axes[0].lines) == 1
    nothing = draw_fronts(both[:1], "t").axes[0]
    assert "No trial has finished yet" in {text.get_text() for text in nothing.texts}


def test_fronts_lie_over_each_other(tmp_path: Path) -> None:
    both = [
        replace(summary(tmp_path, "one", FRONT), name="$one$"),
        summary(tmp_path, "two", FRONT[:1]),
    ]
    figure = draw_fronts(both, "a $title$")
    figure.draw_without_rendering()
    lines = figure.axes[0].lines
    assert [list(line.get_xdata())[:-1] for line in lines] == [[90, 900], [90]]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 2
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    page = comparison_page(both, "<b>title</b>", drawn.getvalue(), "span")
    assert '<a href="%24one%24/front.html">$one$</a>' in page
    assert "<title>&lt;b&gt;title&lt;/b&gt;</title>" in page
    assert 'src="data:image/png' in page


def test_settings_in_which_studies_differ(tmp_path: Path) -> None:
    one = summary(tmp_path, "one", [], max_size_bytes=100_000)
    two = summary(tmp_path, "two", [], samples=5)
    assert differing_settings([one, two]) == {"samples": ["1", "5"], "max_size": ["100000", ""]}


def test_studies_of_other_data_are_not_compared(tmp_path: Path) -> None:
    one, two = make_file(tmp_path, "one"), make_file(tmp_path, "two")
    check_comparable([one, two])
    with pytest.raises(ValueError, match="of the same data, but one is of d and two of e"):
        check_comparable([one, two.replace(data_digest="e")])
    with pytest.raises(ValueError, match=r"must measure mIoU alike, but one .*'packed' .*'own'"):
        check_comparable([one, two.replace(label_size="own")])


def test_the_index_lists_the_studies_of_a_storage(tmp_path: Path) -> None:
    for name in ("first", "second", "broken"):
        file = make_file(tmp_path, name)
        file.config.folder.mkdir()
        write_study_file(file)
    write_tables([replace(each) for each in FRONT], tmp_path / "first", CLASSES)
    (tmp_path / "first/front.html").write_text("")
    (tmp_path / "broken/study.json").write_text("{")
    write_index(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert '<a href="first/front.html">first</a>' in page
    assert "<td>60.0</td><td></td><td>50.0</td><td>50.0</td><td>60.0</td>" in page
    assert '<th scope="row">second</th>' in page  # it has no page yet
    assert "broken" not in page
    assert "2 studies" in page
