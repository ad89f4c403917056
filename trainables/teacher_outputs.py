"""What the teacher says of every training image, computed once and kept as an artifact.

Shape suffixes: B batch, C channels, h, w feature height and width.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.artifacts import ArtifactStore
from trainables.config import RunConfig
from trainables.data.augmentation import Augmentation, Transform, Views
from trainables.data.loader import Loader
from trainables.data.pack import open_pack
from trainables.data.table import CHUNK, Arrays, Table, write_table
from trainables.models.file import read_model
from trainables.models.outputs import native_outputs, place
from trainables.progress import track

Form = Literal["views", "maps"]
"""Outputs for a few fixed views of each image, or for the whole image as it is."""

DEFAULT_FORM: Form = "maps"
FORMAT = 1
NUM_VIEWS, VIEWS_SEED = 4, 0
STILL = Augmentation(min_scale=1, max_scale=1, flip=0, color=0)
CHANNELS = 128
"""Of kept features: wider ones are projected at random, which nearly keeps their cosines."""
FEATURE_SIDE = 32
"""Pixels of kept features a side, at most: finer ones are averaged, as pair-wise nodes are."""
BATCH_SIZE = 16
META, TABLE = "outputs.json", "train.arrow"


class TeacherOutputs:
    """Opened for reading: a table of float16 `logits` and `features`, both at their own strides.

    Its rows are all images in the first view, then all in the second, and so on.

    Raises:
        ValueError: the outputs are of other data than `data`, or of views by other augmentation.
    """

    def __init__(self, folder: Path, data: str, augmentation: Augmentation) -> None:
        meta = json.loads((folder / META).read_text())
        self.form: Form = meta["form"]
        self.num_views: int = meta["num_views"]
        if meta["data"] != data:
            raise ValueError(f"{folder} must be of the data {data}, but is of {meta['data']}")
        drawn_by = Augmentation.model_validate(meta["augmentation"])
        if self.form == "views" and drawn_by != augmentation:
            raise ValueError(f"{folder} must be of views by {augmentation}, but is by {drawn_by}")
        self.table = Table(folder / TABLE)
        self.num_images = len(self.table) // self.num_views

    def view(self, epoch: int) -> int:
        """The view that an epoch, counted from 1, shows."""
        return (epoch - 1) % self.num_views

    def rows(self, images: Sequence[int], epoch: int) -> list[int]:
        """The table's rows of some images in an epoch."""
        return [self.view(epoch) * self.num_images + image for image in images]


class Footprint(NamedTuple):
    """What keeping outputs takes, known before they are built."""

    bytes_per_image: int
    num_images: int

    @property
    def num_bytes(self) -> int:
        return self.bytes_per_image * self.num_images

    def __str__(self) -> str:
        return f"{self.bytes_per_image:,} bytes per image, {self.num_bytes:,} in all"


def foresee(run: RunConfig, form: Form, augmentation: Augmentation) -> Footprint:
    """What `keep_outputs` would take."""
    builder = Builder(run, form, augmentation)
    answer = builder.ask([0]).values()
    of_one = sum(array.nbytes for array in answer)
    return Footprint(builder.num_views * of_one, len(builder.images))


def keep_outputs(run: RunConfig, form: Form, augmentation: Augmentation) -> Path:
    """The folder of what the teacher of `run` says of all training images, built at first use.

    Of the form `views`, for trainings with `augmentation`; maps serve any.
    """
    assert run.teacher is not None, "outputs are a teacher's"
    builder = Builder(run, form, augmentation)
    key: dict[str, object] = {
        "format": FORMAT,
        "form": form,
        "data": run.data.name,
        "teacher": run.teacher.parent.name,
        "augmentation": builder.augmentation.model_dump(mode="json"),
        "num_views": builder.num_views,
    }
    return ArtifactStore(run.artifacts).get("outputs", key, builder.build).path


class Builder:
    """Asks the teacher of `run` about all training images."""

    def __init__(self, run: RunConfig, form: Form, augmentation: Augmentation) -> None:
        assert run.teacher is not None, "outputs are a teacher's"
        torch.set_num_threads(run.num_threads)
        self.form, self.data = form, run.data.name
        self.augmentation = augmentation if form == "views" else STILL
        self.num_views = NUM_VIEWS if form == "views" else 1
        self.device = torch.device(run.device)
        self.images = Loader(open_pack(run.data).train, self.device)
        self.teacher = place(read_model(run.teacher), self.device)
        self.views = join(
            fixed_views(self.augmentation, len(self.images), view) for view in range(self.num_views)
        )

    def build(self, folder: Path) -> None:
        write_table(folder / TABLE, self.chunks())
        meta = {
            "form": self.form,
            "data": self.data,
            "num_views": self.num_views,
            "augmentation": self.augmentation.model_dump(mode="json"),
        }
        (folder / META).write_text(json.dumps(meta))

    def chunks(self) -> Iterator[Arrays]:
        count = len(self.images) * self.num_views
        for start in track(range(0, count, CHUNK), "asking the teacher"):
            rows = range(start, min(start + CHUNK, count))
            parts = [self.ask(rows[i : i + BATCH_SIZE]) for i in range(0, len(rows), BATCH_SIZE)]
            yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def ask(self, rows: Sequence[int]) -> Arrays:
        """The outputs of some rows of the table."""
        raw = next(self.images.batches([[row % len(self.images) for row in rows]]))
        views = self.views.select(torch.tensor(rows), self.device)
        images = Transform(self.augmentation).images(raw["image"].permute(0, 3, 1, 2), views)
        outputs = native_outputs(self.teacher, images)
        features = reduce_features(outputs.features)
        return {
            "logits": outputs.logits.half().cpu().numpy(),
            "features": features.half().cpu().numpy(),
        }


def fixed_views(augmentation: Augmentation, num_images: int, view: int) -> Views:
    """The views that all trials share."""
    return augmentation.views(num_images, VIEWS_SEED, view)


def join(views: Iterator[Views]) -> Views:
    return Views(*map(torch.cat, zip(*views, strict=True)))


def reduce_features(features_BChw: Tensor) -> Tensor:
    """At most `CHANNELS` channels of at most `FEATURE_SIDE` pixels a side.

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
