"""Table, page and figure of a comparison."""

from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from factories import make_metrics
from rich.console import Console

from search.analysis.comparison_plot import draw_comparison, draw_differences
from search.analysis.comparison_summary import ArmSummary, summarize, summary_metrics
from search.analysis.comparison_table import (
    comparison_markdown,
    comparison_table,
    describe_failures,
    write_trainings,
)
from search.core.comparison import Arm
from search.core.record import Record
from trainables.config import TrialConfig
from trainables.recipes.configs import Distill, Qat, Supervised

MIOUS = {
    "supervised": (0.50, 0.52, 0.54),
    "kd $a_1$": (0.51, 0.531, 0.549),
    "qat": (0.49, 0.53, None),
    "never": (None, None, None),
}
RECIPES = (Supervised(), Distill(), Qat(start_epochs=6), Distill(optimizer={"learning_rate": 1}))


def make_arms(num_seeds: int = 3) -> tuple[list[Arm], dict[str, Record]]:
    """Arms of four recipes, and records, of which those without an mIoU have failed."""
    arms, records = list[Arm](), dict[str, Record]()
    for (name, mious), recipe in zip(MIOUS.items(), RECIPES, strict=True):
        configs = tuple(
            TrialConfig(recipe=recipe, num_epochs=3 if name == "qat" else 9, seed=seed)
            for seed in range(num_seeds)
        )
        arms.append(Arm("unet 16", name, configs, arms[0] if arms else None))
        for config, miou in zip(configs, mious, strict=False):
            metrics = None if miou is None else make_metrics(miou, 61900, device_seconds=20)
            state = "FAIL" if metrics is None else "COMPLETE"
            reason = "not learning: a | b" if metrics is None else ""
            records[config.digest()] = Record("", state, reason, config, metrics)
    return arms, records


def summaries(num_seeds: int = 3) -> list[ArmSummary]:
    return summarize(*make_arms(num_seeds))


def test_differences_are_paired_and_failures_are_left_out() -> None:
    reference, distilled, quantized, never = summaries()
    assert reference.verdict == "reference"
    assert distilled.difference is not None
    assert distilled.difference.mean == pytest.approx(0.01)
    assert distilled.verdict == "better"
    assert quantized.difference is not None
    assert quantized.difference.mean == pytest.approx(0.0)
    assert quantized.verdict == "within noise"
    assert quantized.difference.num_pairs == 2
    assert (never.verdict, never.size_bytes, never.mious) == ("no pair finished", None, {})
    lines = describe_failures(summaries())
    assert lines[0] == ("unet 16, qat, seed 2 failed, its pair is left out: not learning: a | b")
    assert len(lines) == 4


def test_one_seed_gives_no_interval() -> None:
    assert summaries(1)[1].verdict == "one seed, no interval"


def test_the_table_says_what_was_measured() -> None:
    text = StringIO()
    Console(file=text, width=120).print(comparison_table(summaries(), "compared", 32))
    assert "compared, unet 16" in text.getvalue()
    rows = [line.split("│") for line in text.getvalue().splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row[1:-1]] for row in rows]
    kd = "53.0 ± 2.0", "+1.0 [+0.8, +1.2]", "better", "3 of 3", "61.9 KB", "288", "20"
    noise = "+0.0 [-12.7, +12.7]", "within noise", "2 of 3"
    assert cells == [
        ["supervised", "52.0 ± 2.0", "", "reference", "", "61.9 KB", "288", "20"],
        ["kd $a_1$", *kd],
        ["qat", "51.0 ± 2.8", *noise, "61.9 KB", "192 + 96", "20"],
        ["never", "", "", "no pair finished", "0 of 3", "", "288", ""],
    ]


def test_the_page_holds_table_conditions_and_failures() -> None:
    page = comparison_markdown(summaries(), "compared", {"data": "shapes"}, 32)
    assert page.startswith("# compared\n\n- data: shapes\n\n| student | recipe |")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert len({row.count("|") for row in rows}) == 1
    assert "- unet 16, never, seed 1 failed" in page


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


def test_numbers_have_names() -> None:
    numbers = summary_metrics(summaries())
    assert numbers["difference/unet 16 kd $a_1$"] == pytest.approx(0.01)
    assert numbers["difference_low/unet 16 kd $a_1$"] > 0
    assert "difference/unet 16 supervised" not in numbers


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
