"""Paired differences of a comparison."""

import pytest
from comparison_factories import summaries

from search.analysis.comparison_summary import summary_metrics
from search.analysis.comparison_table import describe_failures


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


def test_numbers_have_names() -> None:
    numbers = summary_metrics(summaries())
    assert numbers["difference/unet 16 kd $a_1$"] == pytest.approx(0.01)
    assert numbers["difference_low/unet 16 kd $a_1$"] > 0
    assert "difference/unet 16 supervised" not in numbers
