"""Cached outputs agree with those of the live teacher."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.files import hash_file
from trainables.core.progress import progress_to
from trainables.data.arrow_table import ArrowTable
from trainables.data.augmentation import normalize
from trainables.data.configs import Augmentation
from trainables.data.loader import Loader
from trainables.data.packed import images_of, open_pack, pack_dataset
from trainables.data.voc import VocFolder
from trainables.losses.pairwise import similarities
from trainables.models.base import Outputs
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, read_model, write_model
from trainables.recipes.base import Batch
from trainables.recipes.configs import Distill
from trainables.teachers.output_cache import (
    CHANNELS,
    NUM_VIEWS,
    TABLE,
    Form,
    TeacherOutputs,
    cache_outputs,
    cache_part,
    find_outputs,
    predict_footprint,
    reduce_features,
)
from trainables.training.task import TrialTask

FLIPS = Augmentation(min_scale=1, max_scale=1, color=0)
ALL = Augmentation()


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.models.base.supports_fast_bf16", lambda device: False)


@pytest.fixture
def run(blocks_run: ExecutionConfig, teacher_file: Path) -> ExecutionConfig:
    return blocks_run.replace(teacher=teacher_file)


def make_task(run: ExecutionConfig, augmentation: Augmentation) -> TrialTask:
    config = TrialConfig(
        student=UNetConfig(width=4, depth=2), recipe=Distill(), augmentation=augmentation
    )
    return TrialTask(config, run)


@torch.no_grad()
def ask(task: TrialTask, batch: Batch) -> Outputs:
    return task.teacher()(batch)


@pytest.mark.parametrize("augmentation", [FLIPS, ALL], ids=["flips", "all"])
def test_views_are_exact(augmentation: Augmentation, run: ExecutionConfig) -> None:
    kept = make_task(
        run.replace(teacher_outputs=cache_outputs(run, "views", augmentation)), augmentation
    )
    live = make_task(run, augmentation)
    for epoch in (1, 2, NUM_VIEWS + 1):
        for batch in kept.batches(epoch):
            cached, wanted = ask(kept, batch), ask(live, batch)
            torch.testing.assert_close(cached.logits, wanted.logits, atol=2e-3, rtol=2e-3)
    first, again = (next(kept.batches(epoch)).images for epoch in (1, NUM_VIEWS + 1))
    assert not torch.equal(first, again)  # the order differs, the views do not:
    assert pixels(kept, 1) == pixels(kept, NUM_VIEWS + 1) != pixels(kept, 2)
    assert pixels(live, 1) != pixels(live, NUM_VIEWS + 1)


def test_a_teacher_may_see_larger_images(run: ExecutionConfig, voc_folder: Path) -> None:
    store = ArtifactStore(run.artifacts)
    small, large = (pack_dataset(VocFolder(voc_folder, 16, s), store).path for s in (None, 32))
    run = run.replace(data=small, teacher_data=large)
    folder = cache_outputs(run, "maps", FLIPS)
    assert folder != cache_outputs(run.replace(teacher_data=None), "maps", FLIPS)
    assert find_outputs(run, "maps", FLIPS) == folder
    assert run.teacher is not None
    outputs = TeacherOutputs(folder, small.name, hash_file(run.teacher), FLIPS)
    loader = Loader(open_pack(large).train, torch.device("cpu"))
    images = normalize(images_of(next(loader.batches([list(range(6))]))))
    with torch.no_grad():
        logits = read_model(run.teacher)(images)
    wanted = F.adaptive_avg_pool2d(logits, (16, 16))
    kept = torch.tensor(outputs.table.chunks["logits"][0]).float()
    torch.testing.assert_close(kept, wanted, atol=2e-3, rtol=2e-3)
    task = make_task(run.replace(teacher_outputs=folder), FLIPS)
    batch = next(task.batches(1))
    assert ask(task, batch).logits.shape[-2:] == batch.labels.shape[-2:] == (16, 16)


def pixels(task: TrialTask, epoch: int) -> set[bytes]:
    return {image.numpy().tobytes() for batch in task.batches(epoch) for image in batch.images}


def test_maps_of_still_images_are_exact_and_move_with_them(run: ExecutionConfig) -> None:
    kept_run = run.replace(teacher_outputs=cache_outputs(run, "maps", ALL))
    still = Augmentation(min_scale=1, max_scale=1, flip=0, color=0)
    kept, live = make_task(kept_run, still), make_task(run, still)
    batch = next(kept.batches(1))
    cached, wanted = ask(kept, batch), ask(live, batch)
    torch.testing.assert_close(cached.logits, wanted.logits, atol=2e-3, rtol=2e-3)
    mirrored = make_task(kept_run, still.replace(flip=1))
    flipped = ask(mirrored, next(mirrored.batches(1)))
    torch.testing.assert_close(flipped.logits, cached.logits.flip(-1))
    torch.testing.assert_close(flipped.features, cached.features.flip(-1))
    assert torch.equal(next(mirrored.batches(1)).images, batch.images.flip(-1))


def test_maps_are_nearly_what_the_live_teacher_says_of_scaled_views(run: ExecutionConfig) -> None:
    """The network sees other pixels at its borders, so they agree in direction, not in value."""
    kept = make_task(run.replace(teacher_outputs=cache_outputs(run, "maps", ALL)), ALL)
    live = make_task(run, ALL)
    for batch in kept.batches(1):
        cached, wanted = ask(kept, batch), ask(live, batch)
        labelled = (batch.labels != 255)[:, None].expand_as(cached.logits)
        pairs = torch.stack([cached.logits[labelled], wanted.logits[labelled]])
        assert torch.corrcoef(pairs)[0, 1] > 0.8
        size = cached.features.shape[-2:]
        similar = [similarities(answer.features, size) for answer in (cached, wanted)]
        assert similar[0].diagonal(dim1=1, dim2=2).min() > 0.99
        assert (similar[0] - similar[1]).abs().mean() < 0.25


def test_keeping_says_how_far_it_is(run: ExecutionConfig, tmp_path: Path) -> None:
    lines: list[str] = []
    with progress_to(lines.append, every_s=0):
        cache_outputs(run.replace(artifacts=tmp_path), "views", ALL)
    words = "keeping the teacher's outputs: batch"
    assert lines[0] == f"{words} 1 of 8"
    assert lines[-1].startswith(f"{words} 8 of 8, about")


@pytest.mark.parametrize("form", ["views", "maps"])
def test_its_footprint_is_known_before(form: Form, run: ExecutionConfig) -> None:
    predicted = predict_footprint(run, form, FLIPS)
    folder = cache_outputs(run, form, FLIPS)
    table = ArrowTable(folder / "train.arrow")
    assert predicted.num_bytes == table.num_bytes
    assert predicted.num_images == 32
    assert len(table) == 32 * (NUM_VIEWS if form == "views" else 1)
    views, maps = (predict_footprint(run, f, FLIPS).bytes_per_image for f in ("views", "maps"))
    assert views == NUM_VIEWS * maps


def test_foreign_or_damaged_outputs_are_refused(run: ExecutionConfig) -> None:
    assert run.teacher is not None
    views, teacher, data = cache_outputs(run, "views", FLIPS), hash_file(run.teacher), run.data.name
    with pytest.raises(ValueError, match="must be of the data other, but is of data-"):
        TeacherOutputs(views, "other", teacher, FLIPS)
    with pytest.raises(ValueError, match="must be of the teacher other, but is of"):
        TeacherOutputs(views, data, "other", FLIPS)
    with pytest.raises(ValueError, match="must be of views by"):
        TeacherOutputs(views, data, teacher, ALL)
    with pytest.raises(ValueError, match="no artifact of kind outputs"):
        TeacherOutputs(run.data, data, teacher, FLIPS)
    maps = cache_outputs(run, "maps", FLIPS)
    assert TeacherOutputs(maps, data, teacher, ALL).form == "maps"


def test_other_teachers_and_views_have_other_outputs(run: ExecutionConfig, tmp_path: Path) -> None:
    torch.manual_seed(1)
    card = ModelSpec(model=UNetConfig(width=6, depth=2), num_classes=5)
    other = tmp_path / "teacher.safetensors"
    write_model(other, card.build(), card)
    taught = run.replace(teacher=other)
    made = {
        cache_outputs(run, "views", FLIPS),
        cache_outputs(run, "views", ALL),
        cache_outputs(taught, "views", FLIPS),
        cache_outputs(run, "maps", FLIPS),
        cache_outputs(taught, "maps", FLIPS),
    }
    assert len(made) == 5
    assert cache_outputs(run, "maps", ALL) in made  # maps serve any augmentation
    assert find_outputs(run, "maps", ALL) in made


def test_a_teacher_beyond_float16_is_refused(run: ExecutionConfig, tmp_path: Path) -> None:
    card = ModelSpec(model=UNetConfig(width=6, depth=2), num_classes=5)
    model = card.build()
    with torch.no_grad():
        model.get_submodule("classifier").bias.fill_(1e5)  # type: ignore[operator, union-attr]
    file = tmp_path / "teacher.safetensors"
    write_model(file, model, card)
    with pytest.raises(ValueError, match="logits must be finite in float16"):
        cache_outputs(run.replace(teacher=file), "maps", FLIPS)


def test_a_projection_keeps_cosines() -> None:
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(1, 1024, 1, 1, generator=generator)
    features = (shared + torch.randn(1, 1024, 8, 8, generator=generator)).relu()
    small = reduce_features(features)
    assert small.shape == (1, CHANNELS, 8, 8)
    error = similarities(small, (8, 8)) - similarities(features, (8, 8))
    cosines = similarities(features, (8, 8))
    expected = ((1 - cosines**2) / CHANNELS**0.5).square().mean().sqrt()
    assert error.square().mean().sqrt() < 1.5 * expected


def test_finer_features_are_averaged() -> None:
    features = torch.randn(1, 4, 64, 48)
    assert torch.equal(reduce_features(features), F.avg_pool2d(features, 2))
    assert torch.equal(reduce_features(features[..., :32, :32]), features[..., :32, :32])


@pytest.mark.parametrize("form", ["views", "maps"])
def test_parts_that_machines_compute_at_once_are_the_whole(
    form: Form, run: ExecutionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.data.arrow_table.MAX_ROWS", 5)
    elsewhere = run.replace(artifacts=tmp_path)
    for part in range(3):
        cache_part(elsewhere, form, FLIPS, "train", part, 3)
    assert len(list(tmp_path.glob("outputs-*"))) == 3
    joined = cache_outputs(elsewhere, form, FLIPS, num_parts=3)
    assert list(tmp_path.glob("outputs-*")) == [joined]
    alone = cache_outputs(run.replace(artifacts=tmp_path / "alone"), form, FLIPS)
    assert joined.name == alone.name
    whole, table = ArrowTable(alone / TABLE), ArrowTable(joined / TABLE)
    assert len(whole) == len(table)
    rows = range(len(whole))
    for name, values in whole.take(rows).items():
        torch.testing.assert_close(table.take(rows)[name], values, atol=2e-3, rtol=2e-3)


def test_a_part_that_was_lost_is_computed_where_parts_are_joined(
    run: ExecutionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.data.arrow_table.MAX_ROWS", 5)
    elsewhere = run.replace(artifacts=tmp_path)
    joined = cache_outputs(elsewhere, "maps", FLIPS, num_parts=2)
    assert list(tmp_path.glob("outputs-*")) == [joined]
    assert find_outputs(elsewhere, "maps", FLIPS) == joined
