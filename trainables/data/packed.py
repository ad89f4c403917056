"""A decoded data set in Arrow files, which every process of a machine maps into memory.

Shape suffixes: B batch, C channels, H height, W width.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from trainables.core.artifacts import Artifact, ArtifactStore, check_artifact
from trainables.core.config_base import FrozenConfig
from trainables.core.terminal import track
from trainables.data.arrow_table import Arrays, ArrowTable, Tensors, chunks_of, write_table
from trainables.data.base import SPLITS, OwnLabels, Source, Split
from trainables.data.label_counts import LabelCounts, count_by_class
from trainables.data.own_labels import OwnLabelTable, write_own_labels

FORMAT = 4
META = "data.json"
OWN_LABELS = "val-labels.arrow"
"""Validation labels at their own size; only beside a pack in which some of them are resized."""


class Meta(FrozenConfig):
    """The content of data.json; sizes in pixels."""

    class_names: tuple[str, ...]
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    notes: tuple[str, ...] | None = None
    """Notes of the source on the data; None in packs of earlier releases."""
    label_counts: LabelCounts | None = None
    """Of the training split; None in packs of earlier releases."""


def pack_dataset(source: Source, store: ArtifactStore) -> Artifact:
    """The data set as an artifact: one table per split, and its description.

    Raises:
        ValueError: the data breaks a rule; no artifact is left then.
    """

    def build(folder: Path) -> None:
        height, width = source.canvas()
        own: list[OwnLabels] = []
        for split in SPLITS:
            write_table(folder / f"{split}.arrow", decoded(source, split, own))
        if own:
            write_own_labels(folder / OWN_LABELS, own)
        train = ArrowTable(folder / "train.arrow")
        meta = Meta(
            class_names=source.class_names,
            height=height,
            width=width,
            notes=source.notes,
            label_counts=count_by_class(train, len(source.class_names)),
        )
        (folder / META).write_text(meta.model_dump_json())

    return store.get("data", pack_key(source), build)


def find_pack(source: Source, store: ArtifactStore) -> Artifact | None:
    """The artifact that `pack_dataset` would give, if it exists already."""
    return store.find("data", pack_key(source))


def pack_key(source: Source) -> dict[str, object]:
    return {"format": FORMAT, "source": source.digest()}


def decoded(source: Source, split: Split, own: list[OwnLabels]) -> Iterator[Arrays]:
    """All samples in order; each chunk is decoded by all cores (Pillow releases Python's lock).

    Labels at their own size, where samples have them, are appended to `own`.
    """
    height, width = source.canvas()
    chunks = chunks_of(source.num_samples(split), 4 * height * width)
    with ThreadPoolExecutor() as pool:
        for rows in track(chunks, f"packing {split}"):
            samples = list(pool.map(lambda index: source.sample(split, index), rows))
            own.extend(sample.own for sample in samples if sample.own)
            yield {
                "image": np.stack([sample.image for sample in samples]),
                "mask": np.stack([sample.mask for sample in samples]),
            }


@dataclass(frozen=True)
class PackedDataset:
    """A packed data set opened for reading; rows are `image` (H,W,3) and `mask` (H,W), uint8."""

    path: Path
    class_names: tuple[str, ...]
    height: int
    width: int
    train: ArrowTable
    val: ArrowTable
    notes: tuple[str, ...] | None
    """None: packed by an earlier release, which made fewer checks."""
    kept_label_counts: LabelCounts | None
    own_labels: OwnLabelTable | None
    """Validation labels at their own size, which mIoU is measured on; None: those of `val`."""

    @property
    def digest(self) -> str:
        return self.path.name

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def label_counts(self) -> LabelCounts:
        """The labels of the training split, which are counted where the pack does not say."""
        return self.kept_label_counts or count_by_class(self.train, self.num_classes)

    def __str__(self) -> str:
        return (
            f"{len(self.train)} training and {len(self.val)} validation images of "
            f"{self.height}x{self.width} pixels, {self.num_classes} classes"
        )


def count_labels(split: ArrowTable) -> NDArray[np.int64]:
    """Pixels (256,) of a split by the value of its masks."""
    return count_values(split.chunks["mask"])


def count_values(masks: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
    """Pixels (256,) of masks by their value."""
    counts = np.zeros(256, np.int64)
    for mask in masks:
        counts += np.bincount(mask.ravel(), minlength=256)
    return counts


def images_of(rows: Tensors) -> Tensor:
    """The images of some rows of a pack as (B,3,H,W), in channels-last memory, uint8."""
    return rows["image"].permute(0, 3, 1, 2)


def open_pack(folder: Path) -> PackedDataset:
    """Opens an artifact of `pack_dataset`.

    Raises:
        ValueError: it is no such artifact, has another format, or a file is truncated.
    """
    check_artifact(folder, "data", FORMAT)
    meta = Meta.read(folder / META)
    tables = {split: ArrowTable(folder / f"{split}.arrow") for split in SPLITS}
    own = folder / OWN_LABELS
    return PackedDataset(
        folder,
        meta.class_names,
        meta.height,
        meta.width,
        tables["train"],
        tables["val"],
        meta.notes,
        meta.label_counts,
        OwnLabelTable(own) if own.is_file() else None,
    )
