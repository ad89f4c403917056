"""The folder that is written, and what is there before."""

import errno
from pathlib import Path

import numpy as np
import pytest
from label_exports import HEIGHT, NAMES, WIDTH, convert, cvat, mask_of, photo, save, write
from PIL import Image

from trainables.data.label_formats import voc_writer


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (WIDTH, HEIGHT)], ids=["stored", "turned"])
def test_a_mask_may_fit_an_image_as_stored_or_turned(
    shape: tuple[int, int], root: Path, out: Path
) -> None:
    mask = np.zeros(shape, bool)
    mask[0, :3] = True
    for name in ("a", "b"):
        save(root / f"masks/{name}.png", mask)
        image = Image.open(photo(root / f"images/{name}.jpg"))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(root / f"images/{name}.jpg", exif=exif)
    assert convert(root, out) == 0
    np.testing.assert_array_equal(mask_of(out, "a"), mask.astype(np.uint8))
    np.testing.assert_array_equal(mask_of(out, "b"), mask_of(out, "a"))


def test_an_empty_folder_is_filled(root: Path, out: Path) -> None:
    out.mkdir(parents=True)
    assert convert(cvat(root), out) == 0
    assert (out / "classes.txt").read_text().split() == list(NAMES)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_at_out_stays(
    kind: str, root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(out / "kept.txt" if kind == "folder" else out, "mine")
    assert convert(cvat(root), out) == 2
    assert "--out must be a new or empty folder" in capsys.readouterr().err
    assert (out / "kept.txt" if kind == "folder" else out).read_text() == "mine"


def test_a_full_disk_leaves_nothing(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*paths: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(voc_writer.shutil, "copyfile", full)
    assert convert(cvat(root), out) == 1
    assert "must have room for data, but it is full" in capsys.readouterr().err
    assert not [*out.parent.iterdir()]
