"""Random views of training images: one geometric transform for image and mask.

Shape suffixes: B batch, H height, W width.
"""

from collections.abc import Iterator

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from trainables.data.labels import IGNORE
from trainables.data.pack import PackedSplit
from trainables.data.voc import PAD_RGB
from trainables.frozen import Frozen, digest

MEAN = (0.485, 0.456, 0.406)  # ImageNet's, as every torchvision teacher expects
STD = (0.229, 0.224, 0.225)


class Augmentation(Frozen):
    """Scale, crop with 255 padding, flip, colour: the usual recipe for segmentation."""

    min_scale: float = Field(0.75, gt=0)
    max_scale: float = Field(1.5, gt=0)
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    color: float = Field(0.2, ge=0, lt=1, description="brightness, contrast and saturation change")

    @model_validator(mode="after")
    def check_scales(self) -> "Augmentation":
        if self.min_scale > self.max_scale:
            raise ValueError(
                f"min_scale <= max_scale must hold, but got {self.min_scale} and {self.max_scale}"
            )
        return self

    def transform(self, height: int, width: int) -> v2.Compose:
        """From (image, mask) to an augmented pair of the same size."""
        steps: list[v2.Transform] = []
        if (self.min_scale, self.max_scale) != (1, 1):
            fill = {tv_tensors.Image: PAD_RGB, tv_tensors.Mask: IGNORE}
            # Of a square with the longer side, ScaleJitter makes the image its own size, scaled;
            # other targets it takes as (width, height)
            longest = max(height, width)
            steps = [
                v2.ScaleJitter((longest, longest), (self.min_scale, self.max_scale)),
                v2.RandomCrop((height, width), pad_if_needed=True, fill=fill),
            ]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.color:
            steps.append(v2.ColorJitter(self.color, self.color, self.color))
        return v2.Compose(steps or [v2.Identity()])


def train_batches(
    split: PackedSplit, augmentation: Augmentation, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """One shuffled, augmented pass: images (B,3,H,W) uint8, labels (B,H,W) int64.

    Every view is a function of (seed, epoch, image). The last, smaller batch is left out, since
    batch normalisation suffers from it, unless it is the only one.
    """
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed * 9973 + epoch))
    images, _ = split.take([0])
    transform = augmentation.transform(*images.shape[-2:])
    last = max(len(split) - batch_size, 0)
    for start in range(0, last + 1, batch_size):
        indices = order[start : start + batch_size].tolist()
        images, masks = split.take(indices)
        views = [
            augment(transform, image, mask, int(digest([seed, epoch, index])[:15], 16))
            for image, mask, index in zip(images, masks, indices, strict=True)
        ]
        yield torch.stack([v[0] for v in views]), torch.stack([v[1] for v in views]).long()


def augment(transform: v2.Compose, image: Tensor, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    # torchvision's transforms draw from the global generator: lend it our seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair: tuple[Tensor, Tensor] = transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
    return pair[0].as_subclass(Tensor), pair[1].as_subclass(Tensor)


def normalize(images: Tensor) -> Tensor:
    """From uint8 RGB (B,3,H,W) to float32 with ImageNet's mean and deviation."""
    mean = torch.tensor(MEAN, device=images.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=images.device).view(3, 1, 1) * 255
    return (images.float() - mean) / std
