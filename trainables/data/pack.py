"""A decoded data set in Arrow files, which every process of a machine maps into memory.

Shape suffixes: N samples, B batch, C channels, H height, W width.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.artifacts import Artifact, ArtifactStore
from trainables.data.source import SPLITS, Sample, Source, Split

CHUNK = 64
FORMAT = 1


def pack(source: Source, store: ArtifactStore) -> Artifact:
    """The data set as an artifact: one Arrow IPC file per split, and its description."""
    key = {"format": FORMAT, "source": source.digest()}

    def build(folder: Path) -> None:
        height, width = source.canvas()
        for split in SPLITS:
            write_split(folder / f"{split}.arrow", source.samples(split), height, width)
        meta = {"class_names": source.class_names, "height": height, "width": width}
        (folder / "data.json").write_text(json.dumps(meta))

    return store.get("data", key, build)


def write_split(path: Path, samples: Iterable[Sample], height: int, width: int) -> None:
    pixels = height * width
    left = iter(samples)
    schema = pa.schema([("image", pa.binary(pixels * 3)), ("mask", pa.binary(pixels))])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        while chunk := list(islice(left, CHUNK)):
            images = pa.array([s.image.tobytes() for s in chunk], schema.field("image").type)
            masks = pa.array([s.mask.tobytes() for s in chunk], schema.field("mask").type)
            writer.write_batch(pa.record_batch([images, masks], schema=schema))


class PackedSplit:
    """Images and masks of one split, read in place from the memory-mapped file."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.images = [view(batch.column("image"), (height, width, 3)) for batch in batches]
        self.masks = [view(batch.column("mask"), (height, width)) for batch in batches]

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self.images)

    def take(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images (B,3,H,W) and masks (B,H,W), uint8."""
        images = np.stack([self.images[i // CHUNK][i % CHUNK] for i in indices])
        masks = np.stack([self.masks[i // CHUNK][i % CHUNK] for i in indices])
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in order."""
        for start in range(0, len(self), batch_size):
            yield self.take(range(start, min(start + batch_size, len(self))))


def view(column: "pa.FixedSizeBinaryArray", shape: tuple[int, ...]) -> NDArray[np.uint8]:
    values = np.frombuffer(column.buffers()[1], np.uint8)
    assert column.offset == 0
    return values[: len(column) * int(np.prod(shape))].reshape(len(column), *shape)


@dataclass(frozen=True)
class PackedData:
    """A packed data set opened for reading."""

    digest: str
    class_names: tuple[str, ...]
    height: int
    width: int
    train: PackedSplit
    val: PackedSplit

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def open_pack(folder: Path) -> PackedData:
    """Opens the artifact that `pack` made."""
    meta = json.loads((folder / "data.json").read_text())
    height, width = meta["height"], meta["width"]
    splits: dict[Split, PackedSplit] = {
        split: PackedSplit(folder / f"{split}.arrow", height, width) for split in SPLITS
    }
    return PackedData(
        folder.name, tuple(meta["class_names"]), height, width, splits["train"], splits["val"]
    )
