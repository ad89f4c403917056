"""Lists of splits, and which files they name."""

from pathlib import Path

import pytest

from trainables.data.split_list import Entry, read_split


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "JPEGImages/a.JPG",
        "JPEGImages/b.jpeg",
        "JPEGImages/c.TIF",
        "JPEGImages/my photo.webp",
        "JPEGImages/photo 1.bmp",
        "JPEGImages/x.y.png",
        "JPEGImages/sub/d.Png",
        "JPEGImages/a.jpg b.png",
        "SegmentationClass/a.PNG",
        "SegmentationClass/b.tif",
        "SegmentationClass/sub/d.png",
        "SegmentationClassAug/e.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


FOUND: dict[str, tuple[str, str, str]] = {
    "a": ("a", "JPEGImages/a.JPG", "SegmentationClass/a.PNG"),
    "b": ("b", "JPEGImages/b.jpeg", "SegmentationClass/b.tif"),
    "c": ("c", "JPEGImages/c.TIF", "SegmentationClass/c.png"),
    "a.JPG": ("a", "JPEGImages/a.JPG", "SegmentationClass/a.PNG"),
    "my photo": ("my photo", "JPEGImages/my photo.webp", "SegmentationClass/my photo.png"),
    "photo 1": ("photo 1", "JPEGImages/photo 1.bmp", "SegmentationClass/photo 1.png"),
    "x.y": ("x.y", "JPEGImages/x.y.png", "SegmentationClass/x.y.png"),
    "sub/d": ("sub/d", "JPEGImages/sub/d.Png", "SegmentationClass/sub/d.png"),
    "gone": ("gone", "JPEGImages/gone.jpg", "SegmentationClass/gone.png"),
    "/JPEGImages/b.jpeg /SegmentationClassAug/e.png": (
        "b",
        "JPEGImages/b.jpeg",
        "SegmentationClassAug/e.png",
    ),
    "JPEGImages/sub/d.Png SegmentationClass/b.tif": (
        "sub/d",
        "JPEGImages/sub/d.Png",
        "SegmentationClass/b.tif",
    ),
    "a.jpg b": ("a.jpg b", "JPEGImages/a.jpg b.png", "SegmentationClass/a.jpg b.png"),
}


@pytest.mark.parametrize("line", FOUND)
def test_a_line_names_files(line: str, root: Path) -> None:
    (root / "list.txt").write_text(line + "\n")
    name, image, mask = FOUND[line]
    assert read_split(root, root / "list.txt", "SegmentationClass") == [
        Entry(name, root / image, root / mask)
    ]


REFUSED = {
    "a -1": r"one name a line, but .* has 'a -1', as VOC's lists of a single class do",
    "a  1": "leave 1 out",
    "../a": "must lie in its folder",
    "/etc/passwd": "must lie in its folder",
    "/JPEGImages/../../a.jpg /SegmentationClass/a.png": "must lie in its folder",
    "a\na.JPG": "lists 'a' twice",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_broken_rule_is_named(text: str, root: Path) -> None:
    (root / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=REFUSED[text]):
        read_split(root, root / "list.txt", "SegmentationClass")


def test_two_images_of_one_name_are_refused(root: Path) -> None:
    (root / "JPEGImages/a.png").touch()
    (root / "list.txt").write_text("a")
    with pytest.raises(ValueError, match=r"lists 'a', and there are .*a\.JPG and .*a\.png"):
        read_split(root, root / "list.txt", "SegmentationClass")
