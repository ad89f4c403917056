"""Links to folders in an export."""

from pathlib import Path

from label_exports import convert, cvat_coco, labels, photo, save

from trainables.convert import main


def test_links_to_folders_are_followed_but_not_in_circles(root: Path, out: Path) -> None:
    made = cvat_coco(root)
    (root / "images").rename(root.parent / "photos")
    (root / "images").mkdir()
    (root / "images/linked").symlink_to(root.parent / "photos")
    (root / "images/back").symlink_to(root)
    assert convert(made, out) == 0
    assert (out / "JPEGImages/a.jpg").is_file()
    assert not (out / "JPEGImages/a.jpg").is_symlink()


def test_links_that_lead_crosswise_are_followed_once(root: Path, out: Path) -> None:
    for folder, others in (("images/a", ("p", "q")), ("images/b", ("s", "t"))):
        (root / folder).mkdir(parents=True)
        for other in others:
            target = "../b" if folder.endswith("a") else "../a"
            (root / folder / other).symlink_to(target)
    for name in ("x", "y"):
        photo(root / f"images/{name}.jpg")
        save(root / f"masks/{name}.png", labels(1, (0, 1)))
    assert main([str(root), "--out", str(out), "--values", "0=a,1=b"]) == 0
