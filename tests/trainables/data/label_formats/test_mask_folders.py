"""Folders of images and masks, and lists of their names."""

from pathlib import Path

import pytest
from label_exports import convert, cvat, labels, listed, photo, recolored, save, write

from trainables.convert import main
from trainables.data.voc import VocFolder


def test_files_without_counterpart_and_others_are_counted(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = cvat(root)
    photo(root / "JPEGImages/lonely.jpg")
    photo(root / "JPEGImages/unlisted.jpg")
    save(root / "SegmentationClass/unlisted.png", recolored(labels(0)))
    save(root / "SegmentationClass/orphan.png", recolored(labels(0)))
    (root / "JPEGImages/e.JPG").rename(root / "JPEGImages/e.heic")
    (root / "JPEGImages/Thumbs.db").touch()
    (root / "JPEGImages/._a 1.jpeg").touch()
    write(root / "README", "")
    with (root / "ImageSets/Segmentation/default.txt").open("a") as listing:
        listing.write("lonely\n")
    assert convert(made, out) == 0
    said = capsys.readouterr().out
    for line in (
        f"images without a mask: 1 ({root}/JPEGImages/lonely.jpg)",
        f"masks without an image: 2 ({root}/SegmentationClass/e.png, {root}/Seg",
        f"images in no list: 1 ({root}/JPEGImages/unlisted.jpg)",
        "listed names without an image: 1 (e)",
        f"other files in {root}/JPEGImages: 1 .db, 1 .heic",
        f"other files in {root}: 1 without ending",
    ):
        assert f"left out: {line}" in said


@pytest.mark.parametrize(
    "line", ["{}", "{}.jpg", "/JPEGImages/{}.jpg /SegmentationClass/{}.png", "JPEGImages/{}.jpg"]
)
def test_the_command_that_a_refusal_names_reads_the_same_lists(
    line: str, root: Path, out: Path
) -> None:
    for name in ("a", "b", "c", "d"):
        photo(root / f"JPEGImages/{name}.jpg")
        save(root / f"SegmentationClass/{name}.png", labels(ord(name), (0, 255)))
    for split, names in (("train", "ab"), ("val", "cd")):
        lines = [line.format(name, name) for name in names]
        write(root / f"ImageSets/Segmentation/{split}.txt", "\n".join(lines))
    if not line.startswith("JPEGImages"):
        with pytest.raises(ValueError, match=r"convert .* --values 0=background,255=foreground"):
            assert VocFolder(root, 8).class_names
    values = "0=background,255=foreground"
    assert main([str(root), "--out", str(out), "--values", values]) == 0
    assert listed(out, "train") == ["a", "b"]
    assert VocFolder(out, 8).class_names == ("background", "foreground")
