"""Views are seeded, joint for image and mask, and of the right values."""

import pytest
import torch
from pydantic import ValidationError

from trainables.config import RunConfig
from trainables.data.augmentation import Augmentation, augment, normalize, train_batches
from trainables.data.pack import PackedData, open_pack


@pytest.fixture
def data(blocks_run: RunConfig) -> PackedData:
    return open_pack(blocks_run.data)


def test_batches_depend_on_seed_and_epoch_alone(data: PackedData) -> None:
    def epoch(seed: int, number: int) -> torch.Tensor:
        torch.rand(1)  # the global generator must not matter
        views = train_batches(data.train, Augmentation(), 8, seed, number)
        return torch.cat([images for images, _ in views])

    assert torch.equal(epoch(0, 1), epoch(0, 1))
    assert not torch.equal(epoch(0, 1), epoch(0, 2))
    assert not torch.equal(epoch(0, 1), epoch(1, 1))


def test_the_global_generator_is_left_alone(data: PackedData) -> None:
    before = torch.get_rng_state()
    next(train_batches(data.train, Augmentation(), 8, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_image_and_mask_move_together() -> None:
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[8:20, 4:12] = 1
    image = (mask * 200).expand(3, 32, 32).contiguous()
    moved = 0
    for seed in range(20):
        transform = Augmentation(color=0).transform(32, 32)
        view, labels = augment(transform, image, mask, seed)
        inside, outside = view[0][labels == 1].float(), view[0][labels == 0].float()
        assert view.shape == image.shape
        assert inside.mean() > 150 > 50 > outside.mean()
        assert set(labels.unique().tolist()) <= {0, 1, 255}
        moved += not torch.equal(labels, mask)
    assert moved > 10


def test_shrunken_views_are_padded_with_ignore() -> None:
    image, mask = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(32, 32, dtype=torch.uint8)
    transform = Augmentation(min_scale=0.5, max_scale=0.5, flip=0, color=0).transform(32, 32)
    view, labels = augment(transform, image, mask, 0)
    assert (labels == 255).float().mean() == pytest.approx(0.75, abs=0.05)
    assert (normalize(view[None])[0, :, labels == 255].abs() < 0.02).all()


@pytest.mark.parametrize(("height", "width"), [(24, 48), (48, 24), (40, 40)])
@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_scales_mean_the_same_for_every_aspect(height: int, width: int, scale: float) -> None:
    image, mask = torch.zeros(3, height, width), torch.zeros(height, width, dtype=torch.uint8)
    mask[:, ::8] = 1  # stripes, whose distance shows the scale
    still = Augmentation(min_scale=scale, max_scale=scale, flip=0, color=0)
    view, labels = augment(still.transform(height, width), image.byte(), mask, 0)
    assert view.shape[-2:] == labels.shape == (height, width)
    padded = (labels == 255).float().mean().item()
    assert padded == pytest.approx(max(0, 1 - scale**2), abs=0.03)


def test_nothing_to_do_changes_nothing(data: PackedData) -> None:
    image, mask = data.train.take([0])
    transform = Augmentation(min_scale=1, max_scale=1, flip=0, color=0).transform(32, 32)
    view, labels = augment(transform, image[0], mask[0], 0)
    assert torch.equal(view, image[0])
    assert torch.equal(labels, mask[0])


def test_a_smaller_last_batch_is_left_out_unless_it_is_the_only_one(data: PackedData) -> None:
    def sizes(batch_size: int) -> list[int]:
        return [len(x) for x, _ in train_batches(data.train, Augmentation(), batch_size, 0, 1)]

    assert sizes(24) == [24, 24]
    assert sizes(32) == [32, 32]
    assert sizes(100) == [64]


def test_scales_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_scale <= max_scale must hold"):
        Augmentation(min_scale=2, max_scale=1)
