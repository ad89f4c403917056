"""Which images of a folder are used without labels, how they are packed, and what is refused."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.core.artifacts import ArtifactStore
from trainables.data.base import FileRole
from trainables.data.unlabelled import (
    UnlabelledFolder,
    find_unlabelled,
    fitted,
    open_unlabelled,
    pack_unlabelled,
    padding_masks,
)
from trainables.data.voc import PAD_RGB, VocFolder, scaled

CANVAS = (24, 32)
"""Height and width."""


def pixels(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def save(path: Path, seed: int, height: int = 24, width: int = 32, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, height, width)).save(path, **options)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def opened(folder: Path, roles: dict[str, FileRole] | None = None) -> UnlabelledFolder:
    return UnlabelledFolder(folder, 32, CANVAS, roles or {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, one of them in a folder below, and files that are none."""
    root = tmp_path / "unlabelled"
    save(root / "a.png", 1)
    save(root / "B.PNG", 2)
    save(root / "deep" / "er" / "c.bmp", 3)
    save(root / ".hidden" / "d.png", 4)
    save(root / ".e.png", 5)
    (root / "notes.txt").write_text("mine")
    (root / "f.png").mkdir()
    return root


def test_images_are_searched_in_subfolders_and_not_among_hidden_files(folder: Path) -> None:
    found = opened(folder)
    assert {path.name for path in found.files} == {"a.png", "B.PNG", "c.bmp"}
    assert (len(found), found.notes, found.omissions) == (3, (), ())


def test_names_and_places_do_not_matter_but_content_size_and_canvas_do(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "moved"
    shutil.copytree(folder, other)
    (other / "a.png").rename(other / "z.png")
    assert opened(other).key == opened(folder).key
    assert UnlabelledFolder(folder, 31, CANVAS, {}).key != opened(folder).key
    assert UnlabelledFolder(folder, 32, (32, 24), {}).key != opened(folder).key
    save(other / "z.png", 9)
    assert opened(other).key != opened(folder).key


def test_labelled_images_and_copies_are_left_out_with_a_note(folder: Path) -> None:
    shutil.copy(folder / "a.png", folder / "copy.png")
    roles: dict[str, FileRole] = {
        sha256(folder / "B.PNG"): "validation image",
        sha256(folder / "deep/er/c.bmp"): "training image",
    }
    found = opened(folder, roles)
    assert [path.name for path in found.files] == ["a.png"]
    assert found.omissions == (
        "3 of 4 images are left out: training images (1), validation images (1), copies of others "
        "(1)",
    )


def test_the_roles_of_files_are_those_of_the_data(voc_folder: Path) -> None:
    roles = VocFolder(voc_folder, 48).file_roles()
    images, masks = voc_folder / "JPEGImages", voc_folder / "SegmentationClass"
    assert roles[sha256(images / "image0.jpg")] == "training image"
    assert roles[sha256(images / "image7.jpg")] == "validation image"
    assert roles[sha256(masks / "image0.png")] == "mask"
    assert len(roles) == 16
    shutil.copy(images / "image6.jpg", images / "image0.jpg")  # an image of both splits
    roles = VocFolder(voc_folder, 48).file_roles()
    assert roles[sha256(images / "image0.jpg")] == "validation image"


def flat(root: Path) -> None:
    for index, name in enumerate(("a.png", "B.PNG")):
        Image.new("RGB", (32, 24), (index, 0, 0)).save(root / name)


def nearly_black(root: Path) -> None:
    Image.fromarray(np.full((24, 32), 4000, np.uint16)).save(root / "a.png")


def animation(root: Path) -> None:
    pages = [Image.fromarray(pixels(seed)) for seed in (1, 2)]
    pages[0].save(root / "a.gif", save_all=True, append_images=pages[1:])


def empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (shutil.rmtree, "the folder of --unlabelled must exist, but got .*unlabelled"),
    "a file": (
        lambda root: (shutil.rmtree(root), root.write_text("")),
        "the folder of --unlabelled must exist",
    ),
    "empty": (empty, r"must name a folder with images \(.jpg, .*, but there are none in"),
    "no image": (
        lambda root: (root / "a.png").write_bytes(b"x"),
        "every file must be a readable image, but .*a.png is not",
    ),
    "truncated": (
        lambda root: (root / "a.png").write_bytes((root / "a.png").read_bytes()[:900]),
        "every file must be a readable image, but .*a.png is not",
    ),
    "animation": (animation, "a.gif is not: it holds several pictures of one size"),
    "nearly black": (nearly_black, "16-bit images must use values up to 65535.*a.png exceeds 4000"),
    "deep": (
        lambda root: Image.fromarray(np.ones((4, 4), np.float32)).save(root / "a.tif"),
        "must have 8 bits a channel or be 16-bit grey, but .*a.tif has mode F",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_folders_are_refused(case: str, folder: Path) -> None:
    damage, message = REFUSED[case]
    damage(folder)
    with pytest.raises(ValueError, match=message) as refused:
        assert opened(folder).notes is not None
    assert "\n" not in str(refused.value)


def test_masks_and_folders_of_labelled_images_alone_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"of images alone, but .*a.png is a mask of the data"):
        opened(folder, {sha256(folder / "a.png"): "mask"})
    every: dict[str, FileRole] = {sha256(path): "training image" for path in opened(folder).files}
    with pytest.raises(ValueError, match=r"other images than those with labels, but every image"):
        opened(folder, every)


def test_images_of_one_colour_are_noted(folder: Path) -> None:
    flat(folder)
    (note,) = opened(folder).notes
    assert note.startswith("2 images show a single colour, such as ")


@pytest.mark.parametrize("size", [(32, 24), (64, 48), (20, 24), (500, 375), (333, 250)])
def test_sizes_are_those_of_labelled_images_where_they_fit(size: tuple[int, int]) -> None:
    assert fitted(size, 32, CANVAS) == scaled(size, 32)


@pytest.mark.parametrize(
    ("size", "expected"), [((24, 32), (18, 24)), ((300, 400), (18, 24)), ((1, 900), (1, 24))]
)
def test_others_are_shrunk_into_the_canvas(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitted(size, 32, CANVAS) == expected


def test_packed_images_are_those_of_the_files(folder: Path, tmp_path: Path) -> None:
    save(folder / "portrait.png", 6, 32, 24)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be rotated by a quarter: 32 pixels wide
    save(folder / "turned.png", 7, 32, 24, exif=turned)
    save(folder / "tiny.png", 8, 5, 7)
    source, store = opened(folder), ArtifactStore(tmp_path / "artifacts")
    assert source.notes == (
        "1 images of another aspect ratio are shrunk further, to fit into the 24x32 pixels of the "
        "labelled ones",
    )
    assert find_unlabelled(source, store) is None
    packed = open_unlabelled(pack_unlabelled(source, store).path)
    assert find_unlabelled(source, store) is not None
    assert (packed.notes, len(packed.images)) == (source.notes, 6)
    rows = packed.images.take(range(6))
    by_name = {path.name: index for index, path in enumerate(source.files)}
    for name, seed in (("a.png", 1), ("B.PNG", 2), ("c.bmp", 3)):
        assert np.array_equal(rows["image"][by_name[name]].numpy(), pixels(seed))
    sizes = {name: tuple(rows["size"][index].tolist()) for name, index in by_name.items()}
    assert sizes["portrait.png"] == (24, 18)
    assert sizes["turned.png"] == (24, 32)
    assert sizes["tiny.png"] == (5, 7)
    rotated = np.rot90(pixels(7, 32, 24), -1)
    assert np.array_equal(rows["image"][by_name["turned.png"]].numpy(), rotated)
    tiny = rows["image"][by_name["tiny.png"]].numpy()
    assert np.array_equal(tiny[:5, :7], pixels(8, 5, 7))
    assert (tiny[5:] == PAD_RGB).all()
    assert (tiny[:, 7:] == PAD_RGB).all()


def test_another_artifact_is_refused(folder: Path, tmp_path: Path) -> None:
    path = pack_unlabelled(opened(folder), ArtifactStore(tmp_path)).path
    (path / "unlabelled.json").write_text("{")
    with pytest.raises(ValueError, match="must be a whole artifact"):
        open_unlabelled(path)


def test_padding_is_ignored_and_nothing_else() -> None:
    masks = padding_masks(torch.tensor([[2, 3], [4, 5], [4, 1]], dtype=torch.int32), 4, 5)
    expected = torch.full((3, 4, 5), 255, dtype=torch.uint8)
    expected[0, :2, :3] = expected[1] = expected[2, :, :1] = 0
    assert torch.equal(masks, expected)


def test_a_teacher_sees_the_same_section_in_more_detail(tmp_path: Path) -> None:
    save(tmp_path / "unlabelled" / "a.png", 1, 48, 32)  # 16 x 11 and 24 x 16 on the two canvases
    student = UnlabelledFolder(tmp_path / "unlabelled", 16, (16, 16), {})
    teacher = student.as_teacher_sees(24)
    assert teacher.key != student.key
    assert student.image(0)[1] == (16, 11)
    image, size = teacher.image(0)
    assert (image.shape, size) == ((24, 24, 3), (24, 16))
    assert (image[:, 16:] == PAD_RGB).all()
    store = ArtifactStore(tmp_path / "artifacts")
    table = open_unlabelled(pack_unlabelled(teacher, store).path).images
    assert (table.chunks["image"][0][0] == image).all()
    assert find_unlabelled(student, store) is None
