"""What the files of a VOC folder hold together: classes, orientations, contradictions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data.dataset_checks import images_as_stored
from trainables.data.voc import VocFolder

LISTS = "ImageSets/Segmentation"
WIDTH, HEIGHT = 40, 32
SPLITS = {"train": [f"train{n}" for n in range(6)], "val": [f"val{n}" for n in range(3)]}
NAMES = [name for names in SPLITS.values() for name in names]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Nine grey images of 40x32 pixels with a red and a blue box, and no list of classes."""
    for part in ("JPEGImages", "SegmentationClass", LISTS):
        (tmp_path / part).mkdir(parents=True)
    for split, names in SPLITS.items():
        (tmp_path / LISTS / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            save(tmp_path, name, boxes())
    return tmp_path


def boxes() -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[4:16, 4:20], labels[18:30, 22:36] = 1, 2
    return labels


def save(root: Path, name: str, labels: np.ndarray) -> None:
    """An image whose colours are its classes, and its mask."""
    colors = np.array([(128, 128, 128), (255, 0, 0), (0, 0, 255)], np.uint8)
    Image.fromarray(colors[labels % 3]).save(root / "JPEGImages" / f"{name}.png")
    save_mask(root, name, labels)


def save_mask(root: Path, name: str, labels: np.ndarray) -> None:
    Image.fromarray(labels).save(root / "SegmentationClass" / f"{name}.png")


def test_a_plain_folder_has_nothing_to_note(root: Path) -> None:
    source = VocFolder(root, 40)
    assert source.class_names == ("class 0", "class 1", "class 2")
    assert source.notes == ()
    np.testing.assert_array_equal(source.sample("train", 0).mask, boxes())


# binary masks


@pytest.mark.parametrize("with_list", [True, False])
def test_binary_masks_of_0_and_255_are_refused_at_once(with_list: bool, root: Path) -> None:
    if with_list:
        (root / "classes.txt").write_text("background\ncrack\n")
    for name in NAMES:
        save_mask(root, name, np.where(boxes() > 0, 255, 0).astype(np.uint8))
    with pytest.raises(
        ValueError,
        match=r"at least two classes, but the masks that train lists in .* hold 0 and 255 alone, "
        r"and 255 marks pixels that are ignored: write 1 for the foreground, as .*convert "
        r".*--values 0=background,255=foreground does",
    ):
        assert VocFolder(root, 40).class_names


def test_a_split_of_one_class_is_refused(root: Path) -> None:
    for name in SPLITS["val"]:
        save_mask(root, name, np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(ValueError, match=r"masks that val lists in .* hold 0 alone: write 0 for"):
        assert VocFolder(root, 40).class_names


def test_a_split_whose_classes_vanish_at_the_size_of_training_is_refused(root: Path) -> None:
    labels = np.zeros((320, 400), np.uint8)
    labels[1, 1] = 1
    for name in NAMES:
        save(root, name, labels)
    with pytest.raises(ValueError, match="hold 0 and 1 alone, and 0 at this image size"):
        assert VocFolder(root, 16).class_names
    assert VocFolder(root, 400).class_names == ("class 0", "class 1")


def test_masks_that_write_the_foreground_otherwise_are_noted(root: Path) -> None:
    save_mask(root, "train0", np.where(boxes() > 0, 255, 0).astype(np.uint8))
    (note,) = VocFolder(root, 40).notes
    assert note.startswith("1 masks hold 0 and 255 alone, such as ")
    assert "train0.png" in note


# palettes


def save_with_palette(root: Path, name: str, colors: Sequence[int]) -> None:
    image = Image.fromarray(boxes()).convert("P")
    image.putdata(boxes().flatten().tolist())
    image.putpalette([0, 0, 0, *colors])
    image.save(root / "SegmentationClass" / f"{name}.png")


def test_palettes_that_contradict_each_other_are_refused(root: Path) -> None:
    save_with_palette(root, "train1", [200, 0, 0, 0, 0, 200])
    save_with_palette(root, "train2", [0, 0, 200, 200, 0, 0])
    with pytest.raises(
        ValueError,
        match=r"one value, but 1 is \(200, 0, 0\) in .*train1\.png and \(0, 0, 200\) in .*train2",
    ):
        assert VocFolder(root, 40).class_names


CONTRADICTIONS: dict[str, tuple[list[int], str]] = {
    "another value for a colour": ([255, 0, 0, 200, 0, 0, 9, 9, 9], "0 is .*(0, 0, 0)"),
    "shown as another mask's value": ([0, 0, 0, 2, 2, 2, 3, 3, 3], "1 is shown as grey 2"),
    "black and white": ([1, 1, 1, 0, 0, 0, 3, 3, 3], "[01] is shown as grey"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_greys_and_colours_that_contradict_each_other_are_refused(case: str, root: Path) -> None:
    colors, words = CONTRADICTIONS[case]
    save_with_palette(root, "train1", [200, 0, 0, 0, 0, 200])
    if "shown" in words:
        (root / "SegmentationClass/train1.png").unlink()
        save_mask(root, "train1", boxes())
    image = Image.fromarray(boxes()).convert("P")
    image.putdata(boxes().flatten().tolist())
    image.putpalette(colors)
    image.save(root / "SegmentationClass/train2.png")
    with pytest.raises(ValueError, match=rf"one colour and a colour one value, but {words}"):
        assert VocFolder(root, 40).class_names


def test_palettes_that_agree_and_greys_are_read(root: Path) -> None:
    for name in ("train1", "train2"):
        save_with_palette(root, name, [200, 0, 0, 0, 0, 200])
    save_with_palette(root, "train3", [1, 1, 1, 2, 2, 2])
    assert len(VocFolder(root, 40).class_names) == 3


# classes


def test_unused_and_lopsided_classes_are_noted(root: Path) -> None:
    (root / "classes.txt").write_text("sky\nroad\ncar\ncat\n")
    for name in SPLITS["val"]:
        save_mask(root, name, np.where(boxes() == 1, 0, boxes()).astype(np.uint8))
    assert VocFolder(root, 40).notes == (
        "no mask uses 1 of 4 classes, which get no weight in a weighted loss: cat",
        "train alone, which no mIoU counts, uses 1 of 4 classes: road",
    )


def test_a_class_that_vanishes_at_the_size_of_training_is_noted(root: Path) -> None:
    for name in SPLITS["train"]:
        mask = np.zeros_like(boxes())
        mask[:20] = 1
        mask[30, 30] = 2
        save_mask(root, name, mask)
    (note,) = [note for note in VocFolder(root, 16).notes if "shrunk" in note]
    assert note.startswith(
        "no training mask shrunk to this image size holds 1 of 3 classes, which get no weight"
    )


MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nred:250,50,83::\nblue:4,5,250::\n"


@pytest.mark.parametrize("name", ["labelmap.txt", "classes.txt"])
def test_a_label_map_names_classes_and_colours(name: str, root: Path) -> None:
    colors = np.array([(0, 0, 0), (250, 50, 83), (4, 5, 250)], np.uint8)
    for sample in NAMES:
        Image.fromarray(colors[boxes()]).save(root / "SegmentationClass" / f"{sample}.png")
    before = VocFolder(root, 40).digest()
    (root / name).write_text(MAP)
    source = VocFolder(root, 40)
    assert source.class_names == ("background", "red", "blue")
    np.testing.assert_array_equal(source.sample("val", 0).mask, boxes())
    assert source.digest() != before


def test_colour_masks_without_a_label_map_name_the_way_on(root: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), (9, 0, 0)).save(root / "SegmentationClass/train0.png")
    with pytest.raises(ValueError, match=r"train0\.png is RGB; colours need a labelmap\.txt"):
        assert VocFolder(root, 40).class_names


def test_two_lists_of_classes_must_agree(root: Path) -> None:
    (root / "labelmap.txt").write_text(MAP)
    (root / "classes.txt").write_text("background\nblue\nred\n")
    with pytest.raises(ValueError, match="same classes in the same order"):
        assert VocFolder(root, 40).class_names


def test_masks_in_colours_and_in_values_are_not_mixed(root: Path) -> None:
    """With the map's order red, background, blue, a value 1 would be background, not red."""
    (root / "labelmap.txt").write_text("red:250,50,83::\nbackground:0,0,0::\nblue:4,5,250::\n")
    colors = np.array([(0, 0, 0), (250, 50, 83), (4, 5, 250)], np.uint8)
    for sample in NAMES[1:]:
        Image.fromarray(colors[boxes()]).save(root / "SegmentationClass" / f"{sample}.png")
    with pytest.raises(ValueError, match=r"or none, but .*train1\.png is and .*train0\.png holds"):
        assert VocFolder(root, 40).class_names


def test_encodings_that_agree_may_be_mixed(root: Path) -> None:
    (root / "labelmap.txt").write_text(MAP)
    colors = np.array([(0, 0, 0), (250, 50, 83), (4, 5, 250)], np.uint8)
    for sample in NAMES:
        Image.fromarray(colors[boxes()]).save(root / "SegmentationClass" / f"{sample}.png")
    save_with_palette(root, "train0", [250, 50, 83, 4, 5, 250])
    save_mask(root, "train1", np.zeros((HEIGHT, WIDTH), np.uint8))  # background alone
    source = VocFolder(root, 40)
    for index in (0, 2):
        np.testing.assert_array_equal(source.sample("train", index).mask, boxes())


def test_a_label_map_that_decides_nothing_leaves_the_digest(root: Path) -> None:
    """Studies of earlier releases, which did not read it, find their data again."""
    (root / "classes.txt").write_text("background\nred\nblue\n")
    before = VocFolder(root, 40).digest()
    (root / "labelmap.txt").write_text(MAP)
    assert VocFolder(root, 40).digest() == before
    (root / "classes.txt").unlink()
    named = VocFolder(root, 40).digest()
    (root / "labelmap.txt").write_text(MAP.replace("red", "car"))
    assert VocFolder(root, 40).digest() != named


# pixels


def test_sixteen_bit_images_of_fewer_bits_are_refused(root: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH), 4095, np.uint16)
    Image.fromarray(pixels).save(root / "JPEGImages/train0.png")
    with pytest.raises(ValueError, match=r"none of the 1 such as .*train0\.png exceeds 4095"):
        assert VocFolder(root, 40).class_names


def test_images_of_a_single_colour_are_noted(root: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), "white").save(root / "JPEGImages/train0.png")
    (note,) = VocFolder(root, 40).notes
    assert note.startswith("1 images show a single colour, such as ")


def test_sixteen_bit_images_train_on_what_they_show(root: Path) -> None:
    pixels = np.linspace(257, 30069, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH).astype(np.uint16)
    before = VocFolder(root, 40).digest()
    Image.fromarray(pixels).save(root / "JPEGImages/train0.png")
    source = VocFolder(root, 40)
    expected = np.round(pixels / 257).astype(np.uint8)
    np.testing.assert_array_equal(source.sample("train", 0).image, np.stack([expected] * 3, 2))
    assert source.digest() != before


def test_a_float_image_is_refused_before_it_is_decoded(root: Path) -> None:
    (root / "JPEGImages/train0.png").unlink()
    Image.new("F", (WIDTH, HEIGHT), 0.5).save(root / "JPEGImages/train0.tif")
    with pytest.raises(ValueError, match=r"16-bit grey, but .*train0\.tif has mode F"):
        VocFolder(root, 40).digest()


def test_a_mask_stored_as_jpeg_is_refused_before_it_is_decoded(root: Path) -> None:
    Image.fromarray(boxes()).save(root / "SegmentationClass/train0.png", "JPEG")
    with pytest.raises(ValueError, match=r"train0\.png is stored as JPEG, which changes labels"):
        VocFolder(root, 40).digest()


# EXIF


def orient(root: Path, name: str, orientation: int, labels: np.ndarray | None = None) -> None:
    """Stores the image with an orientation, and perhaps another mask."""
    image = Image.open(root / "JPEGImages" / f"{name}.png").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    (root / "JPEGImages" / f"{name}.png").unlink()
    image.save(root / "JPEGImages" / f"{name}.jpg", exif=exif, quality=95, subsampling=0)
    if labels is not None:
        save_mask(root, name, labels)


def classes_seen(source: VocFolder, index: int) -> np.ndarray:
    """What the colours of a training image say that its mask should be."""
    image = source.sample("train", index).image.astype(int)
    return np.where(image[..., 0] > image[..., 2] + 60, 1, 0) + np.where(
        image[..., 2] > image[..., 0] + 60, 2, 0
    )


def test_sizes_tell_whether_an_image_is_turned(root: Path) -> None:
    orient(root, "train0", 6, np.rot90(boxes(), -1).copy())  # drawn on what a viewer shows
    orient(root, "train1", 6)  # drawn on the pixels as stored
    source = VocFolder(root, 40)
    for index in (0, 1):
        mask = source.sample("train", index).mask
        seen = classes_seen(source, index)
        assert (seen == mask)[mask != 255].mean() > 0.95
    assert source.notes == (
        "2 images have an EXIF orientation: 1 are turned as viewers show them, 1 are not; the "
        "sizes of their masks say which",
    )


def test_where_sizes_do_not_tell_images_are_turned(root: Path) -> None:
    orient(root, "train0", 3, boxes()[::-1, ::-1].copy())
    source = VocFolder(root, 40)
    assert (classes_seen(source, 0) == source.sample("train", 0).mask).mean() > 0.95
    assert source.notes[0].endswith("but for 1 that fit both ways and are taken to be turned")


def test_where_sizes_do_not_tell_images_follow_the_others(root: Path) -> None:
    orient(root, "train0", 3)  # drawn on the pixels as stored
    orient(root, "train1", 6)  # so is this, and its size says so
    source = VocFolder(root, 40)
    assert (classes_seen(source, 0) == source.sample("train", 0).mask).mean() > 0.95
    assert "0 are turned" in source.notes[0]
    assert source.notes[0].endswith(
        "but for 1 that fit both ways and are taken to be not turned, as the others"
    )


def test_a_mask_is_not_turned_by_itself(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(boxes()).save(root / "SegmentationClass/train0.png", exif=exif)
    with pytest.raises(ValueError, match="a mask must have no EXIF orientation, or its image's"):
        assert VocFolder(root, 40).class_names


def test_a_mask_is_turned_with_its_image(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    orient(root, "train0", 6)
    Image.fromarray(boxes()).save(root / "SegmentationClass/train0.png", exif=exif)
    source = VocFolder(root, 40)
    mask = source.sample("train", 0).mask
    assert (classes_seen(source, 0) == mask)[mask != 255].mean() > 0.95


def test_sizes_that_fit_neither_way_are_refused_with_both(root: Path) -> None:
    orient(root, "train0", 8, np.zeros((7, 9), np.uint8))
    with pytest.raises(
        ValueError,
        match=r"train0\.jpg is \(40, 32\), \(32, 40\) as its EXIF orientation turns it, and "
        r".*train0\.png is \(9, 7\)",
    ):
        assert VocFolder(root, 40).class_names


def test_without_orientations_nothing_is_kept_as_stored() -> None:
    assert images_as_stored([]) == frozenset()
