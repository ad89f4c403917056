"""Distilled students see unlabelled images beside labelled ones; other trainings do not."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.arrow_table import ArrowTable
from trainables.data.augmentation import normalize
from trainables.data.configs import Augmentation
from trainables.data.labels import UNLABELLED
from trainables.data.packed import pack_dataset
from trainables.data.unlabelled import open_unlabelled
from trainables.data.voc import VocFolder
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.models.base import forward_features
from trainables.models.configs import UNetConfig
from trainables.models.model_file import read_model
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.base import Batch
from trainables.recipes.configs import AdamW, Distill, Qat, QatDistill, Recipe, Supervised
from trainables.recipes.distill import distillation_loss
from trainables.teachers.output_cache import TABLE, Form, cache_outputs
from trainables.teachers.outputs import LiveTeacher
from trainables.training.identity import training_facts
from trainables.training.memory_probe import peak_bytes
from trainables.training.setup import open_data, open_unlabelled_images
from trainables.training.task import TrialTask
from trainables.training.trial import Trial

FLIPS = Augmentation(min_scale=1, max_scale=1, color=0)
STILL = FLIPS.replace(flip=0)
ALL = Augmentation()
START = Supervised(optimizer=AdamW(learning_rate=1e-2))
BITS = Lsq(weight_bits=4, activation_bits=4)
DISTILL = Distill(optimizer=AdamW(learning_rate=1e-2))
QKD = QatDistill(start=START, quantizer=BITS, self_study=0.3, co_study=0.4)
UNTAUGHT: list[Recipe] = [START, Qat(start=START, quantizer=BITS)]
TAUGHT: list[Recipe] = [DISTILL, QKD]
BATCH = 4
STEPS = 32 // BATCH
"""Of an epoch."""


def config(recipe: Recipe, augmentation: Augmentation = ALL, **changes: object) -> TrialConfig:
    return TrialConfig(
        student=UNetConfig(width=4, depth=2),
        recipe=recipe,
        augmentation=augmentation,
        num_epochs=2,
        batch_size=BATCH,
    ).replace(**changes)


@pytest.fixture
def run(unlabelled_run: ExecutionConfig, teacher_file: Path) -> ExecutionConfig:
    return unlabelled_run.replace(teacher=teacher_file)


def with_outputs(run: ExecutionConfig, form: Form, augmentation: Augmentation) -> ExecutionConfig:
    kept = {
        "teacher_outputs": cache_outputs(run, form, augmentation),
        "unlabelled_outputs": cache_outputs(run, form, augmentation, "unlabelled"),
    }
    return run.replace(**kept)


def of_unlabelled(batch: Batch) -> torch.Tensor:
    """Which images of a batch are unlabelled."""
    return (batch.labels == UNLABELLED).flatten(1).any(1)


def test_the_second_half_of_a_batch_is_unlabelled_and_the_first_as_without(
    run: ExecutionConfig,
) -> None:
    task = TrialTask(config(DISTILL), run)
    for batch, labelled in zip(task.training_batches(2), task.batches(2), strict=True):
        assert of_unlabelled(batch).tolist() == BATCH * [False] + BATCH * [True]
        assert torch.equal(batch.images[:BATCH], labelled.images)
        assert torch.equal(batch.labels[:BATCH], labelled.labels)
        assert set(batch.labels[BATCH:].unique().tolist()) <= {255, UNLABELLED}
        assert all(len(part) == 2 * BATCH for part in batch.views)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("recipe", TAUGHT, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_any_batch_follows_from_seed_epoch_and_step(
    recipe: Recipe, accumulation_steps: int, run: ExecutionConfig
) -> None:
    def task(seed: int = 3) -> TrialTask:
        made = TrialTask(config(recipe, seed=seed), run)
        made.accumulation_steps = accumulation_steps
        return made

    whole = [batch for epoch in (1, 2) for batch in task().training_batches(epoch)]
    per_epoch = accumulation_steps * STEPS
    for number in (0, 3, per_epoch - 1, per_epoch, per_epoch + 5):
        epoch, first = divmod(number, per_epoch)
        batch = next(task().training_batches(epoch + 1, first))
        assert torch.equal(batch.images, whole[number].images)
        assert torch.equal(batch.labels, whole[number].labels)
    other = next(task(seed=4).training_batches(2))
    assert not torch.equal(other.images[len(other.images) // 2 :], whole[per_epoch].images[BATCH:])


def test_halves_are_those_of_the_whole_batch(run: ExecutionConfig) -> None:
    whole, halved = (TrialTask(config(DISTILL), run) for _ in range(2))
    halved.accumulation_steps = 2
    halves = list(halved.training_batches(2))
    pairs = zip(halves[::2], halves[1::2], strict=True)
    for batch, (first, second) in zip(whole.training_batches(2), pairs, strict=True):
        for part, start in ((first, 0), (second, 2)):
            assert torch.equal(part.images[:2], batch.images[start : start + 2])
            assert torch.equal(part.images[2:], batch.images[4 + start : 6 + start])


def test_images_come_in_rounds_of_which_each_has_all(run: ExecutionConfig) -> None:
    still = config(DISTILL, STILL)
    images = [
        image.numpy().tobytes()
        for epoch in (1, 2)
        for batch in TrialTask(still, run).training_batches(epoch)
        for image in batch.images[BATCH:]
    ]
    assert len(images) == 64
    rounds = [images[i : i + 12] for i in range(0, 60, 12)]
    assert all(set(drawn) == set(images) and len(set(drawn)) == 12 for drawn in rounds)
    assert len({tuple(drawn) for drawn in rounds}) == 5  # in another order each


def test_padding_is_ignored_in_every_view(run: ExecutionConfig) -> None:
    assert run.unlabelled is not None
    sizes = open_unlabelled(run.unlabelled).images.take(range(12))["size"]
    assert sorted(sizes.prod(1).tolist())[:3] == [24 * 20, 24 * 20, 32 * 32]
    task = TrialTask(config(DISTILL, FLIPS), run)
    counts = [
        int(count)
        for batch in task.training_batches(1)
        for count in (batch.labels[BATCH:] == UNLABELLED).flatten(1).sum(1)
    ]
    assert set(counts) == {24 * 20, 32 * 32}


@pytest.mark.parametrize("recipe", UNTAUGHT, ids=lambda recipe: recipe.name)
def test_a_training_without_a_teacher_is_the_same_training(
    recipe: Recipe, run: ExecutionConfig, blocks_run: ExecutionConfig
) -> None:
    assert training_facts(config(recipe), run) == training_facts(config(recipe), blocks_run)
    assert TrialTask(config(recipe), run).unlabelled is None


def test_a_training_without_a_teacher_is_equal_to_the_bit(
    run: ExecutionConfig, blocks_run: ExecutionConfig
) -> None:
    mine, theirs = Trial(config(START), run), Trial(config(START), blocks_run)
    assert [m.losses for m in mine] == [m.losses for m in theirs]
    assert mine.model_bytes == theirs.model_bytes


def test_trainings_with_a_teacher_are_others_with_other_images(run: ExecutionConfig) -> None:
    distilled_start = config(Qat(start=DISTILL, quantizer=BITS))
    for trial in (config(DISTILL), config(QKD), distilled_start):
        without = training_facts(trial, run.replace(unlabelled=None))
        assert "unlabelled" not in without
        assert run.unlabelled is not None
        assert training_facts(trial, run) == {**without, "unlabelled": run.unlabelled.name}


def test_self_study_and_calibration_see_labelled_images_alone(
    run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def count(student: nn.Module, images: torch.Tensor) -> object:
        seen.append(len(images))
        return forward_features(student, images)

    monkeypatch.setattr("trainables.recipes.qat_distill.forward_features", count)
    calibrated: list[int] = []
    monkeypatch.setattr(
        "trainables.recipes.quantized_start.calibrate",
        lambda student, images: calibrated.append(len(images)),
    )
    with suppress(Exception):  # a student without calibration is not measured
        list(Trial(config(QKD), run))
    assert calibrated == [32]
    assert seen[:STEPS] == 5 * [BATCH] + 3 * [2 * BATCH]  # 0.3 of 16 steps


def test_the_teacher_on_unlabelled_images_moves_the_student(run: ExecutionConfig) -> None:
    """The gradient of a step changes when its term is taken from the labelled half alone."""
    task = TrialTask(config(DISTILL), run)
    batch = next(task.training_batches(1))
    teacher, gradients = task.teacher(), []
    for labels in (batch.labels, batch.labels.masked_fill(batch.labels == UNLABELLED, 255)):
        student = task.new_student().eval()  # without statistics that images share
        loss = distillation_loss(DISTILL, student, teacher, task)
        student.eval()
        outputs = forward_features(student, batch.images)
        with torch.no_grad():
            taught = teacher(batch)
        terms = loss(outputs, taught, labels)
        loss.total(task.label_loss(outputs.logits, labels), terms).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in student.parameters()]))
    assert not torch.allclose(*gradients, rtol=0.05)


@pytest.mark.parametrize("form", ["maps", "views"])
def test_kept_outputs_are_those_of_the_same_images(form: Form, run: ExecutionConfig) -> None:
    augmentation = STILL if form == "maps" else ALL  # mirrored maps are approximations
    recipe = Distill(losses=by_name(Pixelwise(), Pairwise()))
    kept = TrialTask(config(recipe, augmentation), with_outputs(run, form, augmentation))
    live = TrialTask(config(recipe, augmentation), run)
    teacher, reference = kept.teacher(), LiveTeacher(live.teacher().network)
    for epoch in (1, 2):
        for batch in kept.training_batches(epoch):
            assert len(batch.images) == 2 * BATCH
            with torch.no_grad():
                found, expected = teacher(batch), reference(batch)
            torch.testing.assert_close(
                found.logits.float(), expected.logits.float(), atol=0.02, rtol=0.02
            )


def test_a_training_has_the_same_losses_with_outputs_that_are_kept(run: ExecutionConfig) -> None:
    live = [m.losses for m in Trial(config(DISTILL, STILL), run)]
    kept = [m.losses for m in Trial(config(DISTILL, STILL), with_outputs(run, "maps", STILL))]
    for ours, theirs in zip(kept, live, strict=True):
        assert ours == pytest.approx(theirs, rel=0.05)
    without = [m.losses for m in Trial(config(DISTILL, STILL), run.replace(unlabelled=None))]
    assert live[0]["pixelwise"] != pytest.approx(without[0]["pixelwise"], rel=1e-6)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("recipe", "form", "num_steps"),
    [(DISTILL, "maps", 7), (QKD, None, 10)],
    ids=["distill, maps", "qat_distill, live"],
)
def test_a_killed_training_ends_as_if_nothing_had_happened(
    recipe: Recipe, form: Form | None, num_steps: int, run: ExecutionConfig, tmp_path: Path
) -> None:
    run = with_outputs(run, form, ALL) if form else run
    trial = Trial(config(recipe), run)
    expected = [m.losses for m in trial]
    killed = Trial(config(recipe), run.replace(checkpoint_every_s=0), tmp_path)
    save, left = killed.checkpoint_manager.on_step_end, num_steps

    def count() -> None:
        nonlocal left
        save()
        left -= 1
        if not left:
            raise Killed

    killed.checkpoint_manager.on_step_end = count  # type: ignore[method-assign]
    with suppress(Killed):
        list(killed)
    assert left == 0
    again = Trial(config(recipe), run, tmp_path)
    after = [m.losses for m in again]
    assert after == expected[-len(after) :]
    assert again.model_bytes == trial.model_bytes


def test_the_memory_probe_takes_steps_with_unlabelled_images(
    run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    ask = LiveTeacher.__call__

    def count(teacher: LiveTeacher, batch: Batch) -> object:
        asked.append(len(batch.images))
        return ask(teacher, batch)

    monkeypatch.setattr(LiveTeacher, "__call__", count)
    peak_bytes(config(QKD), run)
    assert asked == [BATCH, 2 * BATCH, 2 * BATCH]  # an example, and both steps


def test_data_of_fewer_images_than_a_batch_get_as_many_unlabelled_ones(
    run: ExecutionConfig,
) -> None:
    task = TrialTask(config(DISTILL, batch_size=100), run)
    (batch,) = task.training_batches(1)
    assert of_unlabelled(batch).tolist() == 32 * [False] + 32 * [True]


def test_kept_outputs_are_those_of_the_images_that_the_teacher_sees(
    blocks_run: ExecutionConfig, blocks_folder: Path, teacher_file: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8)
        Image.fromarray(noise).save(images / f"{seed}.png")
    store = ArtifactStore(tmp_path / "artifacts")
    small, large = open_data(str(blocks_folder), 16, store), VocFolder(blocks_folder, 16, 32)
    found = open_unlabelled_images(images, 16, small, [config(DISTILL)], teacher_size=32)
    assert found is not None
    unlabelled = found.pack()
    assert unlabelled.of_teacher is not None
    run = blocks_run.replace(
        artifacts=store.root,
        data=small.pack().path,
        teacher_data=pack_dataset(large, store).path,
        unlabelled=unlabelled.packed.path,
        teacher_unlabelled=unlabelled.of_teacher,
        teacher=teacher_file,
    )
    kept = ArrowTable(cache_outputs(run, "maps", ALL, "unlabelled") / TABLE)
    seen = open_unlabelled(unlabelled.of_teacher).images.chunks["image"][0]
    batch = normalize(torch.tensor(seen).permute(0, 3, 1, 2))
    with torch.no_grad():
        logits = read_model(teacher_file)(batch)
    wanted = F.adaptive_avg_pool2d(logits, (16, 16))
    found_logits = torch.tensor(kept.chunks["logits"][0]).float()
    torch.testing.assert_close(found_logits, wanted, atol=2e-3, rtol=2e-3)
    task = TrialTask(config(DISTILL), with_outputs(run, "maps", ALL))
    assert next(task.training_batches(1)).images.shape == (2 * BATCH, 3, 16, 16)
