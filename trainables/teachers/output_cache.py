"""The teacher's outputs for every training image, computed once and cached as an artifact.

Those for unlabelled images are an artifact of their own.

Logits are kept exactly, up to float16. Features are averaged and projected, so that pair-wise
distillation compares somewhat coarser regions than with a live teacher of very fine features.

Shape suffixes: B batch, C channels, h, w feature height and width.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.config import ExecutionConfig
from trainables.core.artifacts import ArtifactStore, check_artifact, read_artifact
from trainables.core.config_base import FrozenConfig
from trainables.core.files import hash_file_once
from trainables.core.mirror import delete
from trainables.core.terminal import track
from trainables.data.arrow_table import Arrays, ArrowTable, chunks_of, write_table
from trainables.data.augmentation import Transform, Views, join_views
from trainables.data.configs import Augmentation
from trainables.data.loader import Loader
from trainables.data.packed import images_of, open_pack
from trainables.data.unlabelled import open_unlabelled
from trainables.models.base import native_outputs, to_device
from trainables.models.model_file import read_model

Form = Literal["views", "maps"]
"""Outputs for a few fixed views of each image, or for the whole image as it is."""

Images = Literal["train", "unlabelled"]
"""The images that outputs are of: those of the training split, or those without labels."""

DEFAULT_FORM: Form = "maps"
FORMAT = 1
NUM_VIEWS, VIEWS_SEED = 4, 0
NO_AUGMENTATION = Augmentation(min_scale=1, max_scale=1, flip=0, color=0)
CHANNELS = 128
"""Maximum channels of cached features; a random projection nearly preserves their cosines."""
FEATURE_SIDE = 32
"""Maximum pixels a side of cached features; finer ones are averaged, as pair-wise nodes are."""
BATCH_SIZE = 16
TABLE = "train.arrow"


class Key(FrozenConfig):
    """All that determines the cached outputs."""

    format: int = FORMAT
    form: Form
    data: str
    teacher: str
    augmentation: Augmentation
    num_views: int
    teacher_data: str | None = None
    """The packed data that the teacher saw, where it is not that of the students."""
    part: tuple[int, int] | None = None
    """Which part of how many, where it is only one."""
    written_if_set: ClassVar[tuple[str, ...]] = ("teacher_data", "part")


class TeacherOutputs:
    """Cached outputs: a table of float16 `logits` and `features`, both at their own strides.

    Its rows are all images in the first view, then all in the second, and so on.

    Raises:
        ValueError: they are damaged, or of another data set, teacher file or augmentation.
    """

    def __init__(self, folder: Path, data: str, teacher: str, augmentation: Augmentation) -> None:
        """`data` names the packed images, `teacher` is the hash of the teacher's file."""
        check_artifact(folder, "outputs", FORMAT)
        key = Key.model_validate(read_artifact(folder).key)
        self.form, self.num_views = key.form, key.num_views
        if key.data != data:
            raise ValueError(f"{folder} must be of the data {data}, but is of {key.data}")
        if key.teacher != teacher:
            raise ValueError(f"{folder} must be of the teacher {teacher}, but is of {key.teacher}")
        if key.form == "views" and key.augmentation != augmentation:
            raise ValueError(
                f"{folder} must be of views by {augmentation}, but is by {key.augmentation}"
            )
        self.table = ArrowTable(folder / TABLE)
        self.num_images = len(self.table) // self.num_views

    def view(self, epoch: int) -> int:
        """The view of an epoch, counted from 1."""
        return (epoch - 1) % self.num_views

    def rows(self, images: Sequence[int], epoch: int) -> list[int]:
        """The table's rows of some images in an epoch."""
        return [self.view(epoch) * self.num_images + image for image in images]


class Footprint(NamedTuple):
    """The size of cached outputs, predicted before they are computed."""

    bytes_per_image: int
    num_images: int

    @property
    def num_bytes(self) -> int:
        return self.bytes_per_image * self.num_images

    def __str__(self) -> str:
        return f"{self.bytes_per_image:,} bytes per image, {self.num_bytes:,} in all"


def predict_footprint(
    run: ExecutionConfig, form: Form, augmentation: Augmentation, images: Images = "train"
) -> Footprint:
    """The size of the artifact of `cache_outputs`."""
    builder = Builder(run, make_key(run, form, augmentation, images), images)
    return Footprint(builder.key.num_views * builder.row_bytes(), len(builder.images))


def cache_outputs(
    run: ExecutionConfig,
    form: Form,
    augmentation: Augmentation,
    images: Images = "train",
    num_parts: int = 1,
) -> Path:
    """The folder of the teacher's outputs for all of the images, computed at first use.

    Outputs of the form `views` serve trainings with `augmentation`, those of `maps` any training.
    Where `cache_part` has computed them in parts, these are joined and deleted.
    """
    key = make_key(run, form, augmentation, images)
    if num_parts == 1:
        return build_outputs(run, key, lambda: Builder(run, key, images).chunks())

    def join() -> Iterator[Arrays]:
        for part in range(num_parts):
            folder = cache_part(run, form, augmentation, images, part, num_parts)
            yield from ArrowTable(folder / TABLE).whole_chunks()

    outputs, store = build_outputs(run, key, join), ArtifactStore(run.artifacts)
    for part in range(num_parts):
        delete(store.path("outputs", key.replace(part=(part, num_parts)).model_dump(mode="json")))
    return outputs


def cache_part(
    run: ExecutionConfig,
    form: Form,
    augmentation: Augmentation,
    images: Images,
    part: int,
    num_parts: int,
) -> Path:
    """The folder of one of `num_parts` parts of the outputs, which machines compute at once."""
    key = make_key(run, form, augmentation, images).replace(part=(part, num_parts))
    return build_outputs(run, key, lambda: Builder(run, key, images).chunks())


def build_outputs(run: ExecutionConfig, key: Key, chunks: Callable[[], Iterator[Arrays]]) -> Path:
    def build(folder: Path) -> None:
        write_table(folder / TABLE, chunks())

    return ArtifactStore(run.artifacts).get("outputs", key.model_dump(mode="json"), build).path


def find_outputs(
    run: ExecutionConfig, form: Form, augmentation: Augmentation, images: Images = "train"
) -> Path | None:
    """The folder that `cache_outputs` would give, if it exists already."""
    key = make_key(run, form, augmentation, images).model_dump(mode="json")
    found = ArtifactStore(run.artifacts).find("outputs", key)
    return found.path if found else None


def make_key(run: ExecutionConfig, form: Form, augmentation: Augmentation, images: Images) -> Key:
    pack = run.data if images == "train" else run.unlabelled
    assert pack is not None, "a run without unlabelled images has no outputs of them"
    return Key(
        form=form,
        data=pack.name,
        teacher=hash_file_once(run.teacher_file),
        augmentation=augmentation if form == "views" else NO_AUGMENTATION,
        num_views=NUM_VIEWS if form == "views" else 1,
        teacher_data=run.teacher_data.name if run.teacher_data else None,
    )


def open_images(run: ExecutionConfig, images: Images) -> ArrowTable:
    """The packed images."""
    if images == "train":
        return open_pack(run.data).train
    assert run.unlabelled is not None, "there are unlabelled images"
    return open_unlabelled(run.unlabelled).images


class Builder:
    """Computes the outputs of the teacher of `run` for all training or unlabelled images."""

    def __init__(self, run: ExecutionConfig, key: Key, images: Images) -> None:
        torch.set_num_threads(run.num_threads)
        self.key = key
        self.device = torch.device(run.device)
        self.images = Loader(open_images(run.of_teacher, images), self.device)
        data = open_pack(run.data)
        self.canvas = data.height, data.width
        self.teacher = to_device(read_model(run.teacher_file), self.device)
        self.views = join_views(
            fixed_views(key.augmentation, len(self.images), view) for view in range(key.num_views)
        )

    def row_bytes(self) -> int:
        """The bytes of one image in one view."""
        return sum(array.nbytes for array in self.compute([0]).values())

    def chunks(self) -> Iterator[Arrays]:
        chunks = chunks_of(len(self.images) * self.key.num_views, self.row_bytes())
        if self.key.part is not None:
            part, num_parts = self.key.part
            chunks = chunks[part * len(chunks) // num_parts : (part + 1) * len(chunks) // num_parts]
        batches = [
            [rows[i : i + BATCH_SIZE] for i in range(0, len(rows), BATCH_SIZE)] for rows in chunks
        ]
        tracked = track(list(chain(*batches)), "keeping the teacher's outputs", "batch")
        for batches_of_chunk in batches:
            parts = [self.compute(rows) for rows in islice(tracked, len(batches_of_chunk))]
            yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def compute(self, rows: Sequence[int]) -> Arrays:
        """The outputs of some rows of the table."""
        raw = next(self.images.batches([[row % len(self.images) for row in rows]]))
        views = self.views.select(torch.tensor(rows), self.device)
        images = Transform(self.key.augmentation).images(images_of(raw), views)
        outputs = native_outputs(self.teacher, images)
        logits = outputs.logits
        if logits.shape[-1] > self.canvas[-1]:  # students need no finer ones
            logits = F.adaptive_avg_pool2d(logits.float(), self.canvas)
        kept = {"logits": logits, "features": reduce_features(outputs.features)}
        arrays = {name: tensor.half().cpu().numpy() for name, tensor in kept.items()}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"the teacher's {name} must be finite in float16, but are not")
        return arrays


def fixed_views(augmentation: Augmentation, num_images: int, view: int) -> Views:
    """The views of an epoch that all trials share."""
    return augmentation.views(num_images, VIEWS_SEED, view)


def reduce_features(features_BChw: Tensor) -> Tensor:
    """Reduces features to `CHANNELS` channels and `FEATURE_SIDE` pixels a side, at most.

    The projection is Gaussian: a cosine c keeps its value up to a deviation of about
    (1 - c^2) / sqrt(CHANNELS) (Johnson and Lindenstrauss 1984).
    """
    height, width = features_BChw.shape[-2:]
    finer = max(1.0, max(height, width) / FEATURE_SIDE)
    size = (max(1, round(height / finer)), max(1, round(width / finer)))
    pooled = F.adaptive_avg_pool2d(features_BChw.float(), size)
    channels = pooled.shape[1]
    if channels <= CHANNELS:
        return pooled
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(CHANNELS, channels, generator=generator) / CHANNELS**0.5
    return torch.einsum("dc,bchw->bdhw", projection.to(pooled.device), pooled)
