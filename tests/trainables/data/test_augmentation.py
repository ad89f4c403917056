"""Views are seeded, the same for image, mask and the teacher's maps, and of the right values."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as reference

from trainables.data.augmentation import Transform, Views, luma, normalize, recolor, resize
from trainables.data.configs import Augmentation
from trainables.data.voc import PAD_RGB

CPU = torch.device("cpu")
STILL = Augmentation(min_scale=1, max_scale=1, flip=0, color=0)
FLIPS = Augmentation(min_scale=1, max_scale=1, color=0)
ALL = Augmentation()


def see(augmentation: Augmentation, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Views]:
    views = augmentation.views(len(images), 0, 1)
    transform = Transform(augmentation)
    return transform.images(images, views), transform.labels(masks, views), views


def test_views_depend_on_seed_epoch_and_sample_alone() -> None:
    def views(seed: int, epoch: int) -> Tensor:
        torch.rand(1)  # the global generator must not matter
        return ALL.views(50, seed, epoch).color

    assert torch.equal(views(0, 1), views(0, 1))
    assert not torch.equal(views(0, 1), views(0, 2))
    assert not torch.equal(views(0, 1), views(1, 1))
    assert len(views(0, 1).unique(dim=0)) == 50
    assert torch.equal(ALL.views(60, 0, 1).color[:50], views(0, 1))


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    ALL.views(8, 0, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_views_cover_their_ranges() -> None:
    zoom, shift, flipped, color = ALL.views(2000, 0, 1)
    for values, low, high in ((zoom, 0.75, 1.5), (shift, -1, 1), (color, 0.8, 1.2)):
        assert low <= values.min() < low + 0.02
        assert high - 0.02 < values.max() <= high
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("augmentation", [FLIPS, ALL.replace(color=0)], ids=["flips", "all"])
def test_image_mask_and_maps_move_together(augmentation: Augmentation) -> None:
    masks = torch.zeros(20, 32, 32, dtype=torch.uint8)
    masks[:, 8:20, 4:12] = 1
    images = (masks * 200)[:, None].expand(20, 3, 32, 32)
    seen, labels, views = see(augmentation, images, masks)
    maps = Transform(augmentation).maps(images[:, :1].float(), views)
    coarse = F.avg_pool2d(images[:, :1].float(), 4)
    large = Transform(augmentation).maps(coarse, views, (32, 32))
    assert set(labels.unique().tolist()) <= {0, 1, 255}
    for values in (seen * 0.225 * 255, maps, large):
        inside, outside = values[:, :1][labels[:, None] == 1], values[:, :1][labels[:, None] == 0]
        assert inside.mean() > 120 + outside.mean()
    moved = (labels != masks).flatten(1).any(1)
    assert 5 < moved.sum() <= 20


def test_flips_are_exact() -> None:
    images = torch.randint(0, 256, (9, 3, 12, 10), dtype=torch.uint8)
    masks = torch.randint(0, 256, (9, 12, 10), dtype=torch.uint8)
    seen, labels, views = see(FLIPS, images, masks)
    for i, flipped in enumerate(views.flipped):
        image, mask = (x.flip(-1) if flipped else x for x in (images[i], masks[i]))
        assert torch.equal(seen[i], normalize(image[None])[0])
        assert torch.equal(labels[i], mask.long())
    assert 0 < views.flipped.sum() < 9


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_scaling_is_a_resized_image_cropped_or_padded(zoom: float) -> None:
    image = torch.randint(0, 256, (1, 3, 16, 24), dtype=torch.uint8)
    mask = torch.randint(0, 5, (1, 16, 24), dtype=torch.uint8)
    augmentation = Augmentation(min_scale=zoom, max_scale=zoom, flip=0, color=0)
    shift = torch.tensor([[-1.0, 1.0]])  # left, bottom
    views = Views(torch.tensor([zoom]), shift, torch.tensor([False]), torch.ones(1, 3))
    seen = Transform(augmentation).images(image, views)[0]
    labels = Transform(augmentation).labels(mask, views)[0]
    size = (int(16 * zoom), int(24 * zoom))
    whole = F.interpolate(normalize(image), size, mode="bilinear", align_corners=False)[0]
    if zoom > 1:
        torch.testing.assert_close(seen[:, 1:-1, 1:-1], whole[:, 16:, :24][:, 1:-1, 1:-1])
    else:
        torch.testing.assert_close(seen[:, 9:-1, 1:11], whole[:, 1:-1, 1:-1])
        assert (seen[:, :7] == 0).all()
        assert (labels[:8] == 255).all()
        assert (labels[:, 12:] == 255).all()
        assert (labels[8:, :12] != 255).all()


@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.0])
def test_coarse_maps_are_enlarged_up_to_the_border_of_the_image(zoom: float) -> None:
    """Nothing but the map's own values reaches labelled pixels, and all where nothing is cut."""
    coarse = torch.rand(1, 2, 4, 6) + 5
    augmentation = Augmentation(min_scale=0.5, max_scale=2, flip=0, color=0)
    shift, still = torch.tensor([[1.0, -1.0]]), torch.tensor([False])
    views = Views(torch.tensor([zoom]), shift, still, torch.ones(1, 3))
    moved = Transform(augmentation).maps(coarse, views, (32, 48))
    assert 5 <= moved.min() <= moved.max() <= 6
    if zoom == 1:
        torch.testing.assert_close(moved, resize(coarse, (32, 48)))


@pytest.mark.parametrize(("height", "width"), [(24, 48), (48, 24), (40, 40)])
@pytest.mark.parametrize("zoom", [0.5, 1.5])
def test_scales_mean_the_same_for_every_aspect(height: int, width: int, zoom: float) -> None:
    augmentation = Augmentation(min_scale=zoom, max_scale=zoom, flip=0, color=0)
    images = torch.zeros(4, 3, height, width, dtype=torch.uint8)
    _, labels, _ = see(augmentation, images, images[:, 0])
    assert labels.shape[1:] == (height, width)
    padded = (labels == 255).float().mean().item()
    assert padded == pytest.approx(max(0, 1 - zoom**2), abs=0.03)


def test_padding_is_the_mean_color() -> None:
    padding = torch.tensor(PAD_RGB, dtype=torch.uint8).view(1, 3, 1, 1)
    assert (normalize(padding).abs() < 0.02).all()


def test_nothing_to_do_changes_nothing() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    seen, labels, _ = see(STILL, images, images[:, 0])
    assert torch.equal(seen, normalize(images))
    assert torch.equal(labels, images[:, 0].long())


def test_colors_change_as_torchvision_defines_them() -> None:
    images = torch.rand(3, 3, 6, 7) * 255
    factors = torch.tensor([[1.2, 0.9, 1.1], [0.8, 1.2, 0.8], [1.0, 1.0, 1.0]])
    ours = recolor(images, factors) / 255
    for image, (brightness, contrast, saturation), got in zip(images, factors, ours, strict=True):
        wanted = reference.adjust_brightness(image / 255, float(brightness))
        wanted = reference.adjust_contrast(wanted, float(contrast))
        wanted = reference.adjust_saturation(wanted, float(saturation))
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=0)


def test_scales_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_scale <= max_scale must hold"):
        Augmentation(min_scale=2, max_scale=1)


def test_grey_is_torchvision_s_to_the_bit() -> None:
    images = 255 * torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(luma(images), reference.rgb_to_grayscale(images))
