"""The VOC layout: what is read, and what each broken rule answers."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import shapes
from trainables.data.base import SPLITS
from trainables.data.labels import IGNORE, VOC_CLASSES
from trainables.data.voc import PAD_RGB, VocFolder


def test_samples_are_scaled_and_padded_to_one_canvas(voc_folder: Path) -> None:
    source = VocFolder(voc_folder, 24)
    assert source.canvas() == (24, 24)
    assert source.class_names == shapes.CLASS_NAMES
    narrow = source.sample("train", 0)  # 36 x 48 pixels, so 18 x 24
    assert narrow.image.shape == (24, 24, 3)
    assert narrow.mask.shape == (24, 24)
    assert (narrow.mask[:, 18:] == IGNORE).all()
    assert (narrow.image[:, 18:] == PAD_RGB).all()
    assert (narrow.mask[:, :18] != IGNORE).any()


def test_images_are_never_enlarged(voc_folder: Path) -> None:
    small, native = VocFolder(voc_folder, 40), VocFolder(voc_folder, 48)
    large = VocFolder(voc_folder, 512)
    assert large.canvas() == native.canvas() == (48, 48)
    for index in range(6):
        sample, same = large.sample("train", index), native.sample("train", index)
        assert (sample.image == same.image).all()
        assert (sample.mask == same.mask).all()
    assert small.canvas() == (40, 40)
    # a digest says so, for packs of earlier releases hold enlarged images under theirs
    assert small.have_small is native.have_small is False
    assert large.digest() not in (small.digest(), native.digest())
    assert large.have_small


def test_a_teacher_sees_the_same_section_in_more_detail(voc_folder: Path) -> None:
    student, teacher = VocFolder(voc_folder, 24), VocFolder(voc_folder, 24, teacher_size=48)
    native, enlarged = VocFolder(voc_folder, 48), VocFolder(voc_folder, 48, teacher_size=72)
    assert teacher.canvas() == (48, 48)
    assert teacher.digest() not in (student.digest(), native.digest())
    assert student.as_teacher_sees(48).digest() == teacher.digest()
    for index in range(6):
        assert (teacher.sample("train", index).image == native.sample("train", index).image).all()
        assert (teacher.sample("train", index).mask == native.sample("train", index).mask).all()
    assert enlarged.canvas() == (72, 72)  # the files have 48 pixels
    narrow = enlarged.sample("train", 0)  # 36 x 48 pixels
    assert (narrow.image[:, 54:] == PAD_RGB).all()
    assert (narrow.mask[:, :54] != IGNORE).any()


def test_labels_are_classes_or_ignore(voc_folder: Path) -> None:
    source = VocFolder(voc_folder, 32)
    for split in SPLITS:
        masks = [source.sample(split, index).mask for index in range(source.num_samples(split))]
        values = np.unique(masks)
        assert set(values) <= {*range(len(source.class_names)), IGNORE}


@pytest.mark.parametrize("levels", ["VOC2012", "VOCdevkit/VOC2012"])
def test_the_layout_is_found_one_or_two_levels_down(levels: str, voc_folder: Path) -> None:
    outer = voc_folder.parent / "outer"
    (outer / levels).parent.mkdir(parents=True)
    shutil.move(voc_folder, outer / levels)
    assert VocFolder(outer, 32).root == outer / levels


def test_digest_follows_the_content(voc_folder: Path) -> None:
    before = VocFolder(voc_folder, 32).digest()
    copy = voc_folder.parent / "copy"
    shutil.copytree(voc_folder, copy)
    assert VocFolder(copy, 32).digest() == before
    assert VocFolder(copy, 40).digest() != before
    image = copy / "JPEGImages/image0.jpg"
    Image.open(image).rotate(180).save(image)
    assert VocFolder(copy, 32).digest() != before


def test_digest_follows_one_mended_mask(voc_folder: Path) -> None:
    before = VocFolder(voc_folder, 32).digest()
    mask = voc_folder / "SegmentationClass/image7.png"
    rewrite(mask, lambda pixels: np.where(pixels == pixels.max(), 0, pixels))
    assert VocFolder(voc_folder, 32).digest() != before


def test_grey_masks_are_scaled_without_values_between_their_own(voc_folder: Path) -> None:
    for path in (voc_folder / "SegmentationClass").iterdir():
        rewrite(path, lambda pixels: np.where((pixels > 0) & (pixels < IGNORE), 5, 0))
        assert Image.open(path).mode == "L"
    source = VocFolder(voc_folder, 20)
    for split in SPLITS:
        masks = [source.sample(split, index).mask for index in range(source.num_samples(split))]
        assert set(np.unique(masks)) <= {0, 5, IGNORE}
        assert 5 in np.unique(masks)


def test_without_a_listing_the_classes_are_counted(voc_folder: Path) -> None:
    (voc_folder / "classes.txt").unlink()
    for path in (voc_folder / "SegmentationClass").iterdir():
        rewrite(path, lambda mask: np.where(mask == IGNORE, IGNORE, mask % 3))
    assert VocFolder(voc_folder, 32).class_names == ("class 0", "class 1", "class 2")


def test_twenty_one_classes_of_voc_2012_have_their_names(voc_folder: Path) -> None:
    root = voc_folder.rename(voc_folder.parent / "VOC2012")
    (root / "classes.txt").unlink()
    first = root / "SegmentationClass/image0.png"
    rewrite(first, lambda mask: np.arange(mask.size).reshape(mask.shape) % 21)
    assert VocFolder(root, 32).class_names == VOC_CLASSES


def test_sbd_augments_training_alone(voc_folder: Path) -> None:
    shutil.copytree(voc_folder / "SegmentationClass", voc_folder / "SegmentationClassAug")
    lists = voc_folder / "ImageSets/Segmentation"
    (lists / "train_aug.txt").write_text("image0\nimage1\n")
    source = VocFolder(voc_folder, 32)
    names = {split: [entry.name for entry in source.entries[split]] for split in SPLITS}
    assert names == {"train": ["image0", "image1"], "val": ["image6", "image7"]}
    folders = {split: source.entries[split][0].mask.parent.name for split in SPLITS}
    assert folders == {"train": "SegmentationClassAug", "val": "SegmentationClass"}


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(np.asarray(Image.open(path))).astype(np.uint8)).save(path)


def drop(part: str) -> Callable[[Path], None]:
    return lambda root: (root / part).unlink()


def fill(part: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / part).write_bytes(content)


def save_mask(mode: str, size: tuple[int, int] = (36, 48)) -> Callable[[Path], None]:
    color = (9, 0, 0) if mode == "RGB" else 0
    return lambda root: Image.new(mode, size, color).save(root / "SegmentationClass/image0.png")


def set_pixels(value: int) -> Callable[[Path], None]:
    mask = "SegmentationClass/image3.png"
    return lambda root: rewrite(root / mask, lambda pixels: np.full_like(pixels, value))


def no_listing_and(value: int) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / "classes.txt").unlink()
        set_pixels(value)(root)

    return change


LIST = "ImageSets/Segmentation"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing list": (drop(f"{LIST}/val.txt"), r"list of a split must exist.*val\.txt"),
    "missing folder": (
        lambda r: shutil.rmtree(r / "JPEGImages"),
        "must be a folder that holds .*JPEGImages",
    ),
    "absent image": (drop("JPEGImages/image2.jpg"), r"listed image must exist.*image2\.jpg"),
    "absent mask": (drop("SegmentationClass/image2.png"), r"must exist.*image2\.png"),
    "broken image": (fill("JPEGImages/image1.jpg", b"x"), r"readable image, but .*image1\.jpg"),
    "broken mask": (fill("SegmentationClass/image1.png", b""), r"readable image.*image1\.png"),
    "large value": (set_pixels(7), r"below the 7 classes of .*image3\.png holds 7"),
    "gap": (no_listing_and(200), r"without gaps, or 255, but .*image3\.png holds 200"),
    "RGB mask": (save_mask("RGB"), r"one class index per pixel.*image0\.png is RGB"),
    "16 bit mask": (save_mask("I;16"), r"one class index per pixel.*image0\.png is I;16"),
    "sizes differ": (save_mask("L", (20, 20)), r"one size, but .*image0\.jpg.*image0\.png"),
    "empty split": (fill(f"{LIST}/val.txt", b"\n"), r"at least one image, but .*val\.txt is empty"),
    "one class": (fill("classes.txt", b"only\n"), "must be below the 1 classes"),
    "shared image": (fill(f"{LIST}/val.txt", b"image0\n"), "must not share .*'image0' in both"),
    "listed twice": (fill(f"{LIST}/val.txt", b"image6\nimage6\n"), "lists 'image6' twice"),
}


def look_at_everything(folder: Path) -> None:
    source = VocFolder(folder, 32)
    source.digest()
    assert source.class_names


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_named_with_value_and_file(case: str, voc_folder: Path) -> None:
    change, message = BROKEN[case]
    change(voc_folder)
    with pytest.raises(ValueError, match=message) as caught:
        look_at_everything(voc_folder)
    assert "\n" not in str(caught.value)


def test_one_class_alone_is_refused(voc_folder: Path) -> None:
    (voc_folder / "classes.txt").unlink()
    for path in (voc_folder / "SegmentationClass").iterdir():
        rewrite(path, np.zeros_like)
    with pytest.raises(
        ValueError, match=r"at least two classes, but the masks that train .* hold 0 alone"
    ):
        look_at_everything(voc_folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--data must be a folder that exists, but got .*nowhere"):
        VocFolder(tmp_path / "nowhere", 32)


def test_two_data_sets_in_one_folder_are_refused(voc_folder: Path) -> None:
    shutil.copytree(voc_folder, voc_folder.parent / "second")
    with pytest.raises(ValueError, match=r"must be a folder with one data set, but .*second"):
        VocFolder(voc_folder.parent, 32)
