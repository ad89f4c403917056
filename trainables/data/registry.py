"""Opens the data set that a user names, and downloads VOC."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainables.core.config_base import digest
from trainables.core.files import hash_file
from trainables.core.progress import announce
from trainables.data import shapes
from trainables.data.base import FileRole, Sample, Source, Split
from trainables.data.configs import LabelSize
from trainables.data.voc import VocFolder

VOC_ARCHIVE = "VOCtrainval_11-May-2012.tar"


@dataclass(frozen=True)
class ShapesSource:
    """The built-in procedural data set, at `image_size` x `image_size` pixels."""

    image_size: int
    class_names: tuple[str, ...] = shapes.CLASS_NAMES
    notes: tuple[str, ...] = ()
    seed: int = 0
    num_train: int = 256
    num_val: int = 96

    def digest(self) -> str:
        drawing = hash_file(Path(shapes.__file__))
        return digest([drawing, self.image_size, self.seed, self.num_train, self.num_val])

    def canvas(self) -> tuple[int, int]:
        return self.image_size, self.image_size

    def file_roles(self) -> Mapping[str, FileRole]:
        return {}

    def num_samples(self, split: Split) -> int:
        return self.num_train if split == "train" else self.num_val

    def sample(self, split: Split, index: int) -> Sample:
        first = 0 if split == "train" else self.num_train
        return Sample(*shapes.draw_sample(self.image_size, self.seed, first + index))


def open_source(
    data: str,
    image_size: int,
    downloads: Path,
    label_size: LabelSize = "own",
) -> Source:
    """The data set of `shapes`, `voc` (downloaded at first use) or a folder in VOC layout.

    `label_size` is that of the labels on which mIoU is measured; where it is "packed", the
    data are those of releases that kept no others.

    Raises:
        ValueError: the data breaks a rule; the message names rule, value and file.
    """
    if image_size < 16:
        raise ValueError(f"--image-size >= 16 pixels must hold, but got {image_size}")
    if data == "shapes":
        return ShapesSource(image_size)
    folder = download_voc(downloads) if data == "voc" else Path(data).expanduser()
    return VocFolder(folder, image_size, label_size=label_size)


def remove_empty(folder: Path) -> None:
    """Removes a folder and its parents as long as they are empty."""
    try:
        while True:
            folder.rmdir()
            folder = folder.parent
    except OSError:
        return


def download_voc(folder: Path) -> Path:
    """PASCAL VOC 2012 below `folder`, downloaded by torchvision unless it is present."""
    from torchvision.datasets import VOCSegmentation  # takes seconds to import

    complete = folder / "complete"
    if not complete.is_file():
        announce("downloading PASCAL VOC 2012 (2 GB)")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            VOCSegmentation(str(folder), year="2012", image_set="train", download=True)
            complete.touch()  # marks the extraction as complete
        except (OSError, RuntimeError) as error:
            remove_empty(folder)
            raise ValueError(
                f"PASCAL VOC 2012 must be downloadable or present, but the download failed "
                f"({error}): put {VOC_ARCHIVE} into {folder}, or name a folder that holds it"
            ) from error
    return folder
