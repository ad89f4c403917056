"""What is measured of a teacher, once, and what is said of it."""

from pathlib import Path

import pytest
import torch

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.files import hash_file
from trainables.core.metrics import SplitMetrics, TeacherMetrics
from trainables.core.progress import progress_to
from trainables.data.arrow_table import ArrowTable
from trainables.data.loader import Loader
from trainables.data.packed import open_pack
from trainables.models.base import to_device
from trainables.models.model_file import read_model
from trainables.recipes.configs import Supervised
from trainables.training.evaluation import evaluate
from trainables.training.teacher import copy_model, prepare_teacher
from trainables.training.teacher_metrics import describe_teacher_metrics, measure_teacher


@pytest.fixture
def run(blocks_run: ExecutionConfig, tmp_path: Path) -> ExecutionConfig:
    """With a store of its own."""
    return blocks_run.replace(artifacts=tmp_path)


def expected(file: Path, table: ArrowTable) -> SplitMetrics:
    split = Loader(table, torch.device("cpu"))
    scores = evaluate(to_device(read_model(file), split.device), split, 5)
    return SplitMetrics(
        miou=scores.miou, class_iou=scores.class_iou, never_predicted=scores.never_predicted
    )


def test_a_teacher_is_measured_on_both_splits_once(
    run: ExecutionConfig, teacher_file: Path
) -> None:
    data, lines = open_pack(run.data), list[str]()
    metrics = measure_teacher(teacher_file, run, data)
    assert metrics.train == expected(teacher_file, data.train)
    assert metrics.val == expected(teacher_file, data.val)
    with progress_to(lines.append, every_s=0):
        assert measure_teacher(teacher_file, run, data) == metrics
    assert lines == []


def test_a_teacher_that_an_older_version_kept_is_measured_by_class(
    run: ExecutionConfig, teacher_file: Path
) -> None:
    data = open_pack(run.data)

    def build(folder: Path) -> None:
        copy_model(teacher_file, folder / "model.safetensors")
        (folder / "metrics.json").write_text('[{"miou": 0.5}]')

    key = {"file": hash_file(teacher_file), "data": data.digest}
    kept = ArtifactStore(run.artifacts).get("teacher", key, build).path
    teacher = prepare_teacher(run, str(teacher_file), TrialConfig(recipe=Supervised()))
    assert teacher.file == kept / "model.safetensors"
    assert teacher.metrics.val == expected(teacher_file, data.val)


def split(never_predicted: tuple[int, ...]) -> SplitMetrics:
    return SplitMetrics(
        miou=0.3, class_iou=(0.987, 0.0, 0.0, None), never_predicted=never_predicted
    )


def test_the_iou_of_classes_is_a_table() -> None:
    names = ("background", "disc", "a star", "ring")
    metrics = TeacherMetrics(train=split((1,)), val=split((1, 2)))
    assert list(describe_teacher_metrics(metrics, names)) == [
        "  class       IoU % train    IoU % val",
        "  background         98.7         98.7",
        "  disc              ! 0.0        ! 0.0",
        "  a star              0.0        ! 0.0",
        "  ring                  -            -",
        "warning: the teacher never predicts 2 of 3 classes in validation: disc, a star",
    ]
    fine = TeacherMetrics(train=split((1,)), val=split(()))
    assert len(list(describe_teacher_metrics(fine, names))) == 5
