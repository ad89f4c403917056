"""Table and page of a comparison."""

from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
from comparison_factories import make_arms, summaries
from rich.console import Console

from search.analysis.comparison_table import (
    comparison_markdown,
    comparison_table,
    warn_of_missing_classes,
    write_trainings,
)


def test_the_table_says_what_was_measured() -> None:
    text = StringIO()
    Console(file=text, width=140).print(comparison_table(summaries(), "compared", 32))
    assert "compared, unet 16" in text.getvalue()
    rows = [line.split("│") for line in text.getvalue().splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    kd = "53.0 ± 2.0", "+1.0 [+0.8, +1.2]", "better", "3 of 3", "0 of 2", "61.9 KB", "288", "20"
    noise = "+0.0 [-12.7, +12.7]", "within noise", "2 of 3"
    missed = "! 1 of 2"
    assert cells == [
        ["supervised", "52.0 ± 2.0", "", "reference", "", missed, "61.9 KB", "288", "20"],
        ["kd $a_1$", *kd],
        ["qat", "51.0 ± 2.8", *noise, "", "61.9 KB", "192 + 96", "20"],
        ["never", "", "", "no pair finished", "0 of 3", "", "", "288", ""],
    ]


def test_a_narrow_terminal_shows_the_differences() -> None:
    for width, last in ((130, "seconds"), (100, "never predicted"), (80, "verdict")):
        text = StringIO()
        table = comparison_table(summaries(), "compared", 32, width)
        Console(file=text, width=width).print(table)
        heading = next(line for line in text.getvalue().splitlines() if "mIoU %" in line)
        assert heading.split("┃")[1].strip() == "recipe"
        assert heading.split("┃")[-2].strip() == last
        assert "+0.0 [-12.7, +12.7]" in text.getvalue()


def test_missing_classes_are_told_where_their_column_is_left_out() -> None:
    (warning,) = warn_of_missing_classes(summaries())
    assert warning.startswith("warning: unet 16, supervised never predicts 1 of 2 classes, with ")


def test_the_page_holds_table_conditions_and_failures() -> None:
    page = comparison_markdown(summaries(), "compared", {"data": "shapes"}, 32)
    assert page.startswith("# compared\n\n- data: shapes\n\n| student | recipe |")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert len({row.count("|") for row in rows}) == 1
    assert "- unet 16, never, seed 1 failed" in page
    assert "## The teacher" not in page
    with_teacher = comparison_markdown(summaries(), "compared", {}, 32, ["class  IoU"])
    assert with_teacher.endswith("## The teacher\n\n```\nclass  IoU\n```\n")


def test_a_row_for_each_training(tmp_path: Path) -> None:
    arms, records = make_arms()
    records.pop(arms[3].configs[2].digest())  # interrupted before it ended
    write_trainings(arms, records, 32, tmp_path, ("a", "b"))
    rows = pq.read_table(tmp_path / "comparison.parquet").to_pylist()
    assert len(rows) == 11
    assert rows[6]["trial_id"] == "unet 16, qat, seed 0"
    assert rows[6]["arm.reference"] == "unet 16, supervised"
    assert (rows[6]["start_steps"], rows[6]["own_steps"], rows[6]["miou"]) == (192, 96, 0.49)
    assert (rows[8]["state"], rows[8]["miou"], rows[8]["seed"]) == ("FAIL", None, 2)
