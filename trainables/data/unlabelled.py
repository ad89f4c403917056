"""Images without labels, on which students learn from what the teacher says of them.

Shape suffixes: B batch, H height, W width.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainables.core.artifacts import Artifact, ArtifactStore, check_artifact
from trainables.core.config_base import FrozenConfig, digest
from trainables.core.terminal import track
from trainables.data.arrow_table import Arrays, ArrowTable, chunks_of, write_table
from trainables.data.base import FileRole
from trainables.data.dataset_checks import check_peaks, notes_on_flat
from trainables.data.image_file import (
    IMAGE_ENDINGS,
    check_image_mode,
    load,
    peak_of,
    read_header,
    read_image,
    to_rgb,
    turn,
)
from trainables.data.labels import IGNORE
from trainables.data.voc import PAD_RGB, enlarged, is_flat, on_all_cores, pad, scaled

FORMAT = 1
KIND = "unlabelled"
"""Of the artifacts of packed unlabelled images."""
TABLE, META = "images.arrow", "unlabelled.json"


class Meta(FrozenConfig):
    """The content of unlabelled.json."""

    notes: tuple[str, ...]


class ImageInfo(NamedTuple):
    """Facts about a file: its size (width, height) in pixels, turned by its EXIF orientation.

    A flat image has a single colour; the peak is the greatest value of a 16-bit image.
    """

    size: tuple[int, int]
    is_flat: bool
    peak: int | None


class UnlabelledFolder:
    """The images in a folder and its subfolders, but for those that the labelled data hold.

    They are shrunk as labelled images are, and further where they exceed the canvas of those, so
    that the labelled images and the costs of students stay what they are without them. Their order
    is that of their content, so that names and places of files do not matter.

    Raises:
        ValueError: there is no such folder, or it holds no image that is used, a file that is no
            image, or a mask of the data; the message names rule, value and file.
    """

    def __init__(
        self,
        folder: Path,
        image_size: int,
        canvas: tuple[int, int],
        roles: Mapping[str, FileRole],
    ) -> None:
        """`canvas` is height and width of the labelled images, `roles` those of their files."""
        self.folder, self.image_size, self.canvas = folder, image_size, canvas
        self.teacher_size: int | None = None
        files = find_images(folder)
        hashes = list(on_all_cores(files, "reading unlabelled images", hash_image))
        by_hash: dict[str, Path] = {}
        for content, file in zip(hashes, files, strict=True):
            if roles.get(content) == "mask":
                raise ValueError(
                    f"--unlabelled must name a folder of images alone, but {file} is a mask of the "
                    "data: name the folder of the images"
                )
            by_hash.setdefault(content, file)
        used = {roles.get(content) for content in by_hash}
        if None not in used:
            raise ValueError(
                "--unlabelled must hold other images than those with labels, but every image in "
                f"{folder} is one of the data"
            )
        self.hashes = sorted(content for content in by_hash if content not in roles)
        self.files = [by_hash[content] for content in self.hashes]
        self.omissions = tuple(describe_omissions(len(files), by_hash, roles))
        """Notes on images that are left out, a line each."""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def key(self) -> dict[str, object]:
        """The key of the artifact: the content of the images and how they are shrunk."""
        key: dict[str, object] = {
            "format": FORMAT,
            "image_size": self.image_size,
            "canvas": list(self.canvas),
            "images": digest(self.hashes),
        }
        return key if self.teacher_size is None else {**key, "teacher_size": self.teacher_size}

    def as_teacher_sees(self, teacher_size: int) -> "UnlabelledFolder":
        """The same images in more detail (see `VocFolder`)."""
        larger = copy(self)
        larger.teacher_size = teacher_size
        return larger

    def enlarged(self, side: int) -> int:
        """The pixels of a side of the student's image in that of the teacher."""
        return enlarged(side, self.image_size, self.teacher_size)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Notes on the images that are used, a line each, after every file has been decoded.

        Raises:
            ValueError: an image cannot be decoded.
        """
        infos = list(on_all_cores(self.files, "checking unlabelled images", look))
        peaks = zip(self.files, (info.peak for info in infos), strict=True)
        check_peaks({file: peak for file, peak in peaks if peak is not None})
        pairs = zip(self.files, infos, strict=True)
        notes = notes_on_flat([file for file, info in pairs if info.is_flat])
        height, width = self.canvas
        scaled_sizes = [scaled(info.size, self.image_size) for info in infos]
        if exceeding := sum(w > width or h > height for w, h in scaled_sizes):
            notes.append(
                f"{exceeding} images of another aspect ratio are shrunk further, to fit into the "
                f"{height}x{width} pixels of the labelled ones"
            )
        return tuple(notes)

    def image(self, index: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """An image on the canvas (H,W,3), and the height and width that it takes there."""
        image = read_image(self.files[index])
        width, height = map(self.enlarged, fitted(image.size, self.image_size, self.canvas))
        canvas = self.enlarged(self.canvas[0]), self.enlarged(self.canvas[1])
        resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        return pad(resized, canvas, PAD_RGB), (height, width)


def find_images(folder: Path) -> list[Path]:
    """The files in a folder and its subfolders whose endings are those of images, by name.

    Hidden files and folders are left out.

    Raises:
        ValueError: there is no folder, or no such file.
    """
    if not folder.is_dir():
        raise ValueError(f"the folder of --unlabelled must exist, but got {folder}")
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in IMAGE_ENDINGS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not found:
        raise ValueError(
            f"--unlabelled must name a folder with images ({', '.join(IMAGE_ENDINGS)}), but there "
            f"are none in {folder}"
        )
    return found


def hash_image(path: Path) -> str:
    """The SHA-256 of an image file, whose header is checked."""
    content = path.read_bytes()
    check_image_mode(path, read_header(path, content))
    return hashlib.sha256(content).hexdigest()


def look(path: Path) -> ImageInfo:
    """Facts about an image file, which is decoded."""
    image = load(path)
    check_image_mode(path, image)
    return ImageInfo(turn(image).size, is_flat(to_rgb(image)), peak_of(image))


def describe_omissions(
    num_files: int, by_hash: Mapping[str, Path], roles: Mapping[str, FileRole]
) -> Iterator[str]:
    """A note on the images that are left out, if there are any.

    Validation images are, since the reported mIoU would no longer be that of unseen images.
    """
    counts = Counter(roles[content] for content in by_hash if content in roles)
    reasons = {
        "training images": counts["training image"],
        "validation images": counts["validation image"],
        "copies of others": num_files - len(by_hash),
    }
    if any(reasons.values()):
        listed = ", ".join(f"{what} ({count:,})" for what, count in reasons.items() if count)
        yield f"{sum(reasons.values()):,} of {num_files:,} images are left out: {listed}"


def fitted(size: tuple[int, int], longest: int, canvas: tuple[int, int]) -> tuple[int, int]:
    """`scaled`, and shrunk further in its aspect ratio where it exceeds the canvas.

    Sizes are (width, height), the canvas is (height, width).
    """
    width, height = scaled(size, longest)
    factor = min(1.0, canvas[1] / width, canvas[0] / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


@dataclass(frozen=True)
class PackedUnlabelled:
    """Packed unlabelled images opened for reading.

    Rows are `image` (H,W,3), uint8, and `size` (2,), the height and width without padding, int32.
    """

    path: Path
    images: ArrowTable
    notes: tuple[str, ...]


def pack_unlabelled(source: UnlabelledFolder, store: ArtifactStore) -> Artifact:
    """The images as an artifact.

    Raises:
        ValueError: an image cannot be decoded; no artifact is left then.
    """

    def build(folder: Path) -> None:
        write_table(folder / TABLE, decoded(source))
        (folder / META).write_text(Meta(notes=source.notes).model_dump_json())

    return store.get(KIND, source.key, build)


def find_unlabelled(source: UnlabelledFolder, store: ArtifactStore) -> Artifact | None:
    """The artifact that `pack_unlabelled` would give, if it exists already."""
    return store.find(KIND, source.key)


def decoded(source: UnlabelledFolder) -> Iterator[Arrays]:
    """All images in order; each chunk is decoded by all cores."""
    height, width = map(source.enlarged, source.canvas)
    with ThreadPoolExecutor() as pool:
        for rows in track(chunks_of(len(source), 3 * height * width), "packing unlabelled images"):
            images, sizes = zip(*pool.map(source.image, rows), strict=True)
            yield {"image": np.stack(images), "size": np.array(sizes, np.int32)}


def open_unlabelled(folder: Path) -> PackedUnlabelled:
    """Opens an artifact of `pack_unlabelled`.

    Raises:
        ValueError: it is no such artifact, has another format, or a file is truncated.
    """
    check_artifact(folder, KIND, FORMAT)
    meta = Meta.read(folder / META)
    return PackedUnlabelled(folder, ArrowTable(folder / TABLE), meta.notes)


def padding_masks(sizes_B2: Tensor, height: int, width: int) -> Tensor:
    """Masks (B,H,W), uint8: 0 where an image of a height and width lies, 255 where it is padded."""
    rows_B1, columns_B1 = sizes_B2[:, :1], sizes_B2[:, 1:]
    rows_BH = torch.arange(height, device=sizes_B2.device) < rows_B1
    columns_BW = torch.arange(width, device=sizes_B2.device) < columns_B1
    inside_BHW = rows_BH[:, :, None] & columns_BW[:, None]
    return (~inside_BHW).to(torch.uint8) * IGNORE
