"""Random views of training images, drawn for a whole epoch and applied to batches on the device.

Shape suffixes: N samples, B batch, C channels, H height, W width; h, w of another resolution.
"""

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.core.config_base import digest
from trainables.data.configs import Augmentation
from trainables.data.labels import IGNORE
from trainables.data.loader import send

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as every torchvision teacher expects
STD = (0.229, 0.224, 0.225)


class Views(NamedTuple):
    """The parameters of random views of N samples.

    `zoom` (N,) is the scale; `shift` (N,2), x and y in [-1,1], is the position of the crop in a
    larger image, or of a smaller image on the canvas; `flipped` (N,) mirrors left and right;
    `color` (N,3) multiplies brightness, contrast and saturation.
    """

    zoom: Tensor
    shift: Tensor
    flipped: Tensor
    color: Tensor

    def select(self, samples: Tensor, device: torch.device) -> "Views":
        """The views of some samples, on a device."""
        return Views(*(send(part[samples], device) for part in self))


def join_views(views: Iterable[Views]) -> Views:
    """The views of several groups of samples, one group after the other."""
    return Views(*map(torch.cat, zip(*views, strict=True)))


def draw_views(augmentation: Augmentation, num_samples: int, seed: int, epoch: int) -> Views:
    """One view of each sample: a function of (seed, epoch, sample) alone."""
    generator = torch.Generator().manual_seed(int(digest(["views", seed, epoch])[:15], 16))
    scale, top, left, flip, *color = torch.rand(num_samples, 7, generator=generator).T
    return Views(
        zoom=augmentation.min_scale + (augmentation.max_scale - augmentation.min_scale) * scale,
        shift=2 * torch.stack([left, top], dim=1) - 1,
        flipped=flip < augmentation.flip,
        color=1 + augmentation.color * (2 * torch.stack(color, dim=1) - 1),
    )


class Transform:
    """Applies an augmentation to batches; steps that it never needs are left out.

    Colour first, then one sampling of the image through the view's affine map: bilinear, without
    antialiasing, so scales below 0.5 would alias.
    """

    def __init__(self, augmentation: Augmentation) -> None:
        self.colors = augmentation.color > 0
        self.scales = (augmentation.min_scale, augmentation.max_scale) != (1, 1)

    def images(self, images_B3HW: Tensor, views: Views) -> Tensor:
        """From uint8 RGB to normalised float32; pixels outside the image are 0, the mean."""
        images = images_B3HW
        if self.colors:
            images = recolor(images.float(), views.color)
        images = normalize(images)
        if self.scales:
            return sample(images, views, images.shape[-2:], "bilinear", "zeros")
        return mirror(images, views.flipped)

    def labels(self, labels_BHW: Tensor, views: Views) -> Tensor:
        """The labels of the same view, uint8 to int64; pixels outside the image are ignored."""
        if not self.scales:
            return mirror(labels_BHW, views.flipped).long()
        size = labels_BHW.shape[-2:]
        distance = labels_BHW[:, None].float() - IGNORE  # the sampling pads with 0
        return (sample(distance, views, size, "nearest", "zeros") + IGNORE)[:, 0].long()

    def maps(self, maps_BChw: Tensor, views: Views, size: tuple[int, ...] | None = None) -> Tensor:
        """The teacher's maps of whole images, of any stride, in the same view, as (B,C,*size).

        Outside the image the values at its edge are repeated: ignored pixels have no loss, and
        regions that pair-wise distillation compares need features that are not zero.
        """
        out = size or tuple(maps_BChw.shape[-2:])
        if self.scales:
            return sample(maps_BChw, views, out, "bilinear", "border")
        return resize(mirror(maps_BChw, views.flipped), out)


def mirror(values: Tensor, flipped: Tensor) -> Tensor:
    """`values` (B,...,W) with some samples mirrored left and right."""
    return torch.where(flipped.view(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)


def sample(
    maps_BChw: Tensor, views: Views, size: tuple[int, ...], mode: str, padding: str
) -> Tensor:
    """The maps at the positions that each pixel of the view comes from."""
    inverse = 1 / views.zoom
    offset = views.shift * (1 - inverse)[:, None]
    mirrored = torch.where(views.flipped, -1.0, 1.0)
    nothing = torch.zeros_like(inverse)
    theta = torch.stack(
        [mirrored * inverse, nothing, mirrored * offset[:, 0], nothing, inverse, offset[:, 1]], 1
    )
    grid = F.affine_grid(theta.view(-1, 2, 3), [len(theta), 1, *size], align_corners=False)
    return F.grid_sample(maps_BChw, grid, mode=mode, padding_mode=padding, align_corners=False)


def recolor(images_B3HW: Tensor, factors_B3: Tensor) -> Tensor:
    """Brightness, contrast and saturation in [0,255], as torchvision defines them."""
    brightness, contrast, saturation = factors_B3.T[..., None, None, None]
    images = (images_B3HW * brightness).clamp(0, 255)
    mean = luma(images).mean((1, 2, 3), keepdim=True)
    images = torch.lerp(mean, images, contrast).clamp(0, 255)
    return torch.lerp(luma(images), images, saturation).clamp(0, 255)


def luma(images_B3HW: Tensor) -> Tensor:
    """Grey (B,1,H,W) of RGB images, as torchvision defines it, whose import takes seconds."""
    red, green, blue = images_B3HW.unbind(1)
    return red.mul(0.2989).add(green, alpha=0.587).add(blue, alpha=0.114).unsqueeze(1)


def normalize(images: Tensor) -> Tensor:
    """From RGB in [0,255] (B,3,H,W) to float32 with ImageNet's mean and deviation."""
    mean, std = moments(images.device)
    return (images - mean) / std


@cache
def moments(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (3,1,1), copied to a device once, since each copy synchronises."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return 255 * mean, 255 * std


def resize(maps_BChw: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear, corners not aligned."""
    if maps_BChw.shape[-2:] == size:
        return maps_BChw
    return F.interpolate(maps_BChw.float(), size, mode="bilinear", align_corners=False)


def classes_at(logits_1Khw: Tensor, size: tuple[int, int]) -> Tensor:
    """The argmax (H,W), uint8, of logits resized to `size`, one class at a time to save memory."""
    best = torch.full(size, -torch.inf, device=logits_1Khw.device)
    classes = torch.zeros(size, dtype=torch.uint8, device=logits_1Khw.device)
    for index in range(logits_1Khw.shape[1]):
        plane = resize(logits_1Khw[:, index : index + 1], size)[0, 0]
        classes.masked_fill_(plane > best, index)
        torch.maximum(best, plane, out=best)
    return classes
