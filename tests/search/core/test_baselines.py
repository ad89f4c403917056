"""The file of published models."""

from pathlib import Path

import pytest

from search.core.baselines import Baseline, read_baselines

GOOD = 'name,bytes,miou\nDeepLabV3-MobileNetV2 0.5 (int8),760904,69.65\n\n"a, b",1000,100\n'


def test_models_are_read(tmp_path: Path) -> None:
    (tmp_path / "public.csv").write_text(GOOD, encoding="utf-8-sig")
    first, second = read_baselines(str(tmp_path / "public.csv"))
    assert first == Baseline(
        name="DeepLabV3-MobileNetV2 0.5 (int8)", size_bytes=760904, miou=0.6965
    )
    assert (first.x, first.y) == (760.904, pytest.approx(69.65))
    assert second.label == "a, b"


BAD = {
    "other columns": ("model,size,miou\n", "the first line must be name,bytes,miou"),
    "nothing": ("", "the first line must be name,bytes,miou"),
    "no models": ("name,bytes,miou\n", "at least one model must be listed"),
    "a share": ("name,bytes,miou\na,100,0.7\n", "from 1 to 100 in percent, but line 2 of .*0.7"),
    "no bytes": ("name,bytes,miou\na,100,70\nb,3 MB,70\n", "line 3 of .*'b,3 MB,70'"),
    "no size": ("name,bytes,miou\na,0,70\n", "line 2"),
    "not a number": ("name,bytes,miou\na,9,nan\n", "line 2"),
    "no name": ("name,bytes,miou\n,9,70\n", "line 2"),
    "grouped digits": ("name,bytes,miou\na,1_000,70\n", "line 2"),
    "of another script": ("name,bytes,miou\na,٣,70\n", "line 2"),
    "beyond all files": (f"name,bytes,miou\na,1{'0' * 400},70\n", "line 2"),
    "a control character": ("name,bytes,miou\na\x07,9,70\n", "line 2"),
    "too many": ("name,bytes,miou\na,9,70,1\n", "line 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_broken_file_is_refused(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    (tmp_path / "public.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_baselines(str(tmp_path / "public.csv"))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.csv", "binary.csv"):
        with pytest.raises(ValueError, match=f"a CSV file that can be read, but .*{name} is not"):
            read_baselines(str(tmp_path / name))
