"""The scores of a teacher by class on both splits: an artifact that is made once per teacher."""

import math
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import torch

from trainables.config import ExecutionConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.files import hash_file_once
from trainables.core.metrics import SplitMetrics, TeacherMetrics, share_of_classes
from trainables.core.progress import ProgressReporter
from trainables.data.loader import Loader
from trainables.data.own_labels import OwnLabelTable
from trainables.data.packed import PackedDataset
from trainables.models.base import to_device
from trainables.models.model_file import read_model
from trainables.training.evaluation import BATCH_SIZE, evaluate

FILE = "scores.json"


def measure_teacher(file: Path, run: ExecutionConfig, data: PackedDataset) -> TeacherMetrics:
    """The scores of the network in a model file on the packed data, measured at first use.

    Those on the training split are at the size of the packed images.
    """

    def build(folder: Path) -> None:
        train, val = (Loader(table, torch.device(run.device)) for table in (data.train, data.val))
        model = to_device(read_model(file), val.device)
        num_batches = sum(math.ceil(len(split) / BATCH_SIZE) for split in (train, val))
        progress = ProgressReporter("measuring the teacher", "batch", num_batches)
        num_done = count(1)

        def measure(split: Loader, own_labels: OwnLabelTable | None = None) -> SplitMetrics:
            scores = evaluate(
                model,
                split,
                data.num_classes,
                lambda: progress.update(next(num_done)),
                own_labels,
            )
            return SplitMetrics(
                miou=scores.miou,
                class_iou=scores.class_iou,
                never_predicted=scores.never_predicted,
            )

        metrics = TeacherMetrics(train=measure(train), val=measure(val, data.own_labels))
        (folder / FILE).write_text(metrics.model_dump_json())

    key = {"teacher": hash_file_once(file), "data": data.digest}
    folder = ArtifactStore(run.artifacts).get("scores", key, build).path
    return TeacherMetrics.model_validate_json((folder / FILE).read_bytes())


def describe_teacher_metrics(metrics: TeacherMetrics, class_names: Sequence[str]) -> Iterator[str]:
    """The lines of a table of a teacher's IoU by class, and a warning of classes that it misses.

    IoU is in percent, "-" for a class that no label of the split holds, and marked by "!" for a
    class that is never predicted.
    """
    train, val = metrics.train, metrics.val
    width = max(map(len, ("class", *class_names)))
    yield f"  {'class':{width}}  IoU % train    IoU % val"
    for index, name in enumerate(class_names):
        yield f"  {name:{width}}  {iou_cell(train, index):>11}  {iou_cell(val, index):>11}"
    if val.never_predicted:
        names = ", ".join(class_names[index] for index in val.never_predicted)
        share = share_of_classes(len(val.never_predicted), val.class_iou)
        yield f"warning: the teacher never predicts {share} classes in validation: {names}"


def iou_cell(metrics: SplitMetrics, index: int) -> str:
    iou = metrics.class_iou[index]
    mark = "! " if index in metrics.never_predicted else ""
    return "-" if iou is None else f"{mark}{100 * iou:.1f}"
