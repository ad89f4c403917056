"""What is kept of a teacher is what the live teacher says."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from trainables.config import RunConfig, TrialConfig
from trainables.data.augmentation import Augmentation, normalize
from trainables.losses.pairwise import similarities
from trainables.models.outputs import Outputs
from trainables.models.unet import UNetConfig
from trainables.recipes import Batch, Distill
from trainables.teacher_outputs import (
    CHANNELS,
    NUM_VIEWS,
    Form,
    TeacherOutputs,
    foresee,
    keep_outputs,
    reduce_features,
)
from trainables.trial import Trial

FLIPS = Augmentation(min_scale=1, max_scale=1, color=0)
ALL = Augmentation()


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.models.outputs.is_fast", lambda device: False)


@pytest.fixture
def run(blocks_run: RunConfig, teacher_file: Path) -> RunConfig:
    return blocks_run.replace(teacher=teacher_file)


def make_trial(run: RunConfig, augmentation: Augmentation) -> Trial:
    config = TrialConfig(
        student=UNetConfig(width=4, depth=2), recipe=Distill(), augmentation=augmentation
    )
    return Trial(config, run)


@torch.no_grad()
def ask(trial: Trial, batch: Batch) -> Outputs:
    return trial.teacher()(batch)


@pytest.mark.parametrize("augmentation", [FLIPS, ALL], ids=["flips", "all"])
def test_views_are_exact(augmentation: Augmentation, run: RunConfig) -> None:
    kept = make_trial(
        run.replace(teacher_outputs=keep_outputs(run, "views", augmentation)), augmentation
    )
    live = make_trial(run, augmentation)
    for epoch in (1, 2, NUM_VIEWS + 1):
        for batch in kept.batches(epoch):
            cached, wanted = ask(kept, batch), ask(live, batch)
            torch.testing.assert_close(cached.logits, wanted.logits, atol=2e-3, rtol=2e-3)
    first, again = (next(kept.batches(epoch)).images for epoch in (1, NUM_VIEWS + 1))
    assert not torch.equal(first, again)  # the order differs, the views do not:
    assert pixels(kept, 1) == pixels(kept, NUM_VIEWS + 1) != pixels(kept, 2)
    assert pixels(live, 1) != pixels(live, NUM_VIEWS + 1)


def pixels(trial: Trial, epoch: int) -> set[bytes]:
    return {image.numpy().tobytes() for batch in trial.batches(epoch) for image in batch.images}


def test_maps_of_still_images_are_exact_and_move_with_them(run: RunConfig) -> None:
    kept_run = run.replace(teacher_outputs=keep_outputs(run, "maps", ALL))
    still = Augmentation(min_scale=1, max_scale=1, flip=0, color=0)
    kept, live = make_trial(kept_run, still), make_trial(run, still)
    batch = next(kept.batches(1))
    cached, wanted = ask(kept, batch), ask(live, batch)
    torch.testing.assert_close(cached.logits, wanted.logits, atol=2e-3, rtol=2e-3)
    mirrored = make_trial(kept_run, still.replace(flip=1))
    flipped = ask(mirrored, next(mirrored.batches(1)))
    torch.testing.assert_close(flipped.logits, cached.logits.flip(-1))
    torch.testing.assert_close(flipped.features, cached.features.flip(-1))
    assert torch.equal(next(mirrored.batches(1)).images, batch.images.flip(-1))


def test_maps_follow_scaled_views(run: RunConfig) -> None:
    """A map that is the image itself, seen as the image is, is the view."""
    trial = make_trial(run, ALL.replace(color=0))
    whole = normalize(next(trial.train.batches([range(8)]))["image"].permute(0, 3, 1, 2))
    views = trial.config.augmentation.views(64, 0, 1).select(torch.arange(8), trial.device)
    raw = next(trial.train.batches([range(8)]))["image"].permute(0, 3, 1, 2)
    assert torch.equal(trial.transform.maps(whole, views), trial.transform.images(raw, views))


@pytest.mark.parametrize("form", ["views", "maps"])
def test_its_footprint_is_known_before(form: Form, run: RunConfig) -> None:
    foreseen = foresee(run, form, FLIPS)
    folder = keep_outputs(run, form, FLIPS)
    table = TeacherOutputs(folder, run.data.name, FLIPS).table
    assert foreseen.num_bytes == table.num_bytes
    assert foreseen.num_images == 64
    assert len(table) == 64 * (NUM_VIEWS if form == "views" else 1)
    views, maps = (foresee(run, f, FLIPS).bytes_per_image for f in ("views", "maps"))
    assert views == NUM_VIEWS * maps


def test_outputs_of_other_data_or_views_are_refused(run: RunConfig) -> None:
    views = keep_outputs(run, "views", FLIPS)
    with pytest.raises(ValueError, match="must be of the data other, but is of data-"):
        TeacherOutputs(views, "other", FLIPS)
    with pytest.raises(ValueError, match="must be of views by"):
        TeacherOutputs(views, run.data.name, ALL)
    TeacherOutputs(keep_outputs(run, "maps", FLIPS), run.data.name, ALL)


def test_other_teachers_and_views_have_other_outputs(run: RunConfig, tmp_path: Path) -> None:
    assert run.teacher is not None
    other = tmp_path / "other" / "teacher.safetensors"
    other.parent.mkdir()
    other.write_bytes(run.teacher.read_bytes())
    taught = run.replace(teacher=other)
    made = {
        keep_outputs(run, "views", FLIPS),
        keep_outputs(run, "views", ALL),
        keep_outputs(taught, "views", FLIPS),
        keep_outputs(run, "maps", FLIPS),
        keep_outputs(taught, "maps", FLIPS),
    }
    assert len(made) == 5
    assert keep_outputs(run, "maps", ALL) in made  # maps serve any augmentation


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
