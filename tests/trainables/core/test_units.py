"""Sizes and durations as people write them."""

import pytest

from trainables.core.units import (
    human_size,
    parse_duration,
    parse_latency,
    parse_shares,
    parse_size,
    write_duration,
    write_shares,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("300KB", 300_000), ("1.5 MB", 1_500_000), ("2048", 2048), ("64KiB", 65536), ("1gb", 10**9)],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["3XB", "", "KB", "-3KB", "0", "nan", "1e3KB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="positive number with B, KB, MB or GB, but got"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("30m", 1800), ("90", 90), ("1.5h", 5400), ("2d", 172800), ("45s", 45)]
)
def test_durations(text: str, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["-5m", "0s", "soon", "5 weeks", ""])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="positive number with ms, s, m, h or d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["30m", "10s", "1.5s", "2d", "5h"])
def test_a_duration_is_written_as_it_was_read(text: str) -> None:
    assert write_duration(parse_duration(text)) == text


def test_shares_are_written_as_they_were_read() -> None:
    assert parse_shares("1,0.75, .5") == (1, 0.75, 0.5)
    assert write_shares(parse_shares("1,0.75,0.5")) == "1,0.75,0.5"
    with pytest.raises(ValueError, match="must be numbers with commas between them, but got '1;2'"):
        parse_shares("1;2")


def test_a_latency_has_a_unit() -> None:
    assert parse_latency("20ms") == pytest.approx(20)
    with pytest.raises(ValueError, match="must have a unit, as 20ms, but got 20"):
        parse_latency("20")


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (9_994, "9.99 KB"),
        (9_996, "10.0 KB"),
        (61_900, "61.9 KB"),
        (99_960, "100 KB"),
        (123_456, "123 KB"),
        (999_499, "999 KB"),
        (999_500, "1.00 MB"),
        (1_950_000, "1.95 MB"),
        (31_000_000, "31.0 MB"),
        (2_500_000_000, "2.50 GB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_human_size(num_bytes: int, text: str) -> None:
    assert human_size(num_bytes) == text
