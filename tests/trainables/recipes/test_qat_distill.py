"""Which networks are trained in each phase of QKD, and by which losses."""

import copy
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from factories import ShortTask
from torch import nn
from torch.nn import functional as F

from trainables.config import ExecutionConfig
from trainables.data.configs import Augmentation
from trainables.losses.configs import Pixelwise, by_name
from trainables.models.base import forward_features
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, write_model
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, QatDistill
from trainables.recipes.qat_distill import CoTeacher
from trainables.teachers.output_cache import cache_outputs

OFF = Lsq(weight_bits=32, activation_bits=32)


@pytest.fixture
def run(blocks_run: ExecutionConfig, tmp_path: Path) -> ExecutionConfig:
    """With a teacher that has normalisation statistics."""
    torch.manual_seed(0)
    card = ModelSpec(model=UNetConfig(width=3, depth=2), num_classes=5, folded=False)
    write_model(tmp_path / "teacher.safetensors", card.build(), card)
    return blocks_run.replace(teacher=tmp_path / "teacher.safetensors")


def recipe(self_study: float, co_study: float, learning_rate: float = 1e-2) -> QatDistill:
    return QatDistill(
        quantizer=OFF,
        optimizer=AdamW(learning_rate=learning_rate),
        losses=by_name(Pixelwise(temperature=3)),
        self_study=self_study,
        co_study=co_study,
        teacher_learning_rate=1e-2,
    )


def test_phases_begin_at_their_fraction_of_the_steps(run: ExecutionConfig) -> None:
    phases = recipe(self_study=0.25, co_study=0.5)
    task = ShortTask(phases, run, batch_size=32, num_epochs=4)  # a step an epoch
    teachers, named = [], []
    for epoch in phases.train(task):
        teachers.append(copy.deepcopy(task.source.network))
        named.append(set(epoch.losses))
    assert named == [
        {"cross_entropy"},
        {"cross_entropy", "pixelwise", "teacher"},
        {"cross_entropy", "pixelwise", "teacher"},
        {"cross_entropy", "pixelwise"},
    ]
    task.teacher()
    learned = [
        [not torch.equal(*pair) for pair in zip(a.parameters(), b.parameters(), strict=True)]
        for a, b in zip([task.source.network, *teachers], teachers, strict=False)
    ]
    assert [any(changed) for changed in learned] == [False, True, True, False]
    assert all(learned[1])
    statistics = dict(task.source.network.named_buffers())
    assert "encoder.0.1.running_mean" in statistics
    for teacher in teachers:
        torch.testing.assert_close(dict(teacher.named_buffers()), statistics, rtol=0, atol=0)


def test_the_teacher_learns_from_labels_and_from_the_student(run: ExecutionConfig) -> None:
    co_study = recipe(self_study=0, co_study=1)
    task = ShortTask(co_study, run, batch_size=32)
    (batch,) = task.batches(1)
    taught = task.teacher()(batch).logits.float()
    student = forward_features(task.pretrained_student(), batch.images).logits.float()
    (epoch,) = co_study.train(task)
    divergence = ((student / 3).softmax(1) * (student / 3).log_softmax(1)).sum(1)
    divergence -= ((student / 3).softmax(1) * (taught / 3).log_softmax(1)).sum(1)
    expected = F.cross_entropy(taught, batch.labels, ignore_index=255)
    expected = expected + 9 * divergence[batch.labels != 255].mean()
    assert epoch.losses["teacher"] == pytest.approx(expected.item(), rel=1e-4)


def test_another_student_makes_another_teacher(run: ExecutionConfig) -> None:
    def classifier(learning_rate: float) -> torch.Tensor:
        co_study = recipe(self_study=0, co_study=1, learning_rate=learning_rate)
        task = ShortTask(co_study, run)
        list(co_study.train(task))
        return task.source.network.get_parameter("classifier.weight")

    assert not torch.equal(classifier(1e-3), classifier(1e-1))


def test_kept_outputs_do_not_learn(run: ExecutionConfig) -> None:
    kept = run.replace(teacher_outputs=cache_outputs(run, "maps", Augmentation()))
    losses = []
    for co_study in (0.5, 0):  # the first only in studies of version 0.2
        asked = recipe(self_study=0.5, co_study=co_study)
        losses.append([epoch.losses for epoch in asked.train(ShortTask(asked, kept, num_epochs=4))])
    assert losses[0] == losses[1]
    assert set(losses[0][-1]) == {"cross_entropy", "pixelwise"}


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_the_teacher_has_the_students_schedule_over_its_phase(
    schedule: str, run: ExecutionConfig
) -> None:
    taught = recipe(self_study=0, co_study=1).replace(schedule=schedule)
    task = ShortTask(taught, run)
    co_teacher = CoTeacher(nn.Linear(1, 1), taught, 4, task)
    assert co_teacher.optimizer_loop
    rates = []
    for _ in range(4):
        rates.append(co_teacher.optimizer_loop.optimizer.param_groups[0]["lr"])
        co_teacher.optimizer_loop.step(co_teacher.optimizer_loop.model(torch.ones(1)).sum())
    falls = all(later < before for before, later in pairwise(rates))
    assert falls == (schedule == "cosine")
    if falls:
        assert rates == pytest.approx(
            [1e-2 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(4)]
        )
