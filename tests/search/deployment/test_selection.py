"""The point of a front that satisfies limits of size and mIoU."""

import math
from pathlib import Path

import pytest
from export_command import answer, front_of


@pytest.mark.parametrize(
    ("flags", "trial", "why"),
    [
        ([], None, "no limit was given"),
        (["--max-size", "9KB"], "0001", "the greatest mIoU within 9,000 bytes"),
        (["--min-miou", "0.1"], "0000", "the smallest of mIoU >= 0.1"),
        (["--trial", "0002"], "0002", "asked"),
    ],
)
def test_the_point_that_satisfies_the_limits_is_named(
    flags: list[str],
    trial: str | None,
    why: str,
    study: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = answer(capsys, 0, study, *flags, "--out", tmp_path)
    assert why in printed
    assert trial is None or printed.startswith(f"trial {trial}: mIoU ")


def test_a_point_exactly_at_a_limit_is_within_it(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = front_of(study)
    size = min(row["size_bytes"] for row in front.values())
    printed = answer(capsys, 0, study, "--max-size", f"{size}B", "--out", tmp_path)
    assert printed.startswith("trial 0000: ")
    answer(capsys, 2, study, "--max-size", f"{size - 1}B", "--out", tmp_path)
    miou = max(row["miou"] for row in front.values())
    printed = answer(capsys, 0, study, "--min-miou", repr(miou), "--out", tmp_path)
    assert front[printed[len("trial ") :][:4]]["miou"] == miou
    answer(capsys, 2, study, "--min-miou", repr(math.nextafter(miou, 1)), "--out", tmp_path)


BAD: dict[str, tuple[list[str], str]] = {
    "no such trial": (["--trial", "0009"], r"a point of the front \(0000, .*but got 0009"),
    "too small": (
        ["--max-size", "1KB"],
        r"the smallest is mIoU .* \(trial 0000\) and the limit",
    ),
    "too good": (["--min-miou", "1"], r"the best is mIoU 0\.\d+, .* and the limit is 1\.0000"),
    "no share": (["--min-miou", "60"], "a share from 0 to 1, but got 60"),
    "no size": (["--max-size", "much"], "a size must be a positive number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_limits(
    case: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        raise ValueError(answer(capsys, 2, study, *flags, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
