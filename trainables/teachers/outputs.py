"""Sources of the teacher's outputs: the teacher itself at every step, or a cache."""

import torch
from torch import nn

from trainables.data.augmentation import Transform
from trainables.models.base import Outputs, forward_features
from trainables.recipes.base import Batch


class LiveTeacher:
    """Runs the teacher at every step: the reference."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network.requires_grad_(False)

    def __call__(self, batch: Batch) -> Outputs:
        return forward_features(self.network, batch.images)


class CachedTeacher:
    """Cached outputs for the same views, or maps of whole images, transformed as the images were.

    Co-study trains `network`, a linear map of the logits of each pixel that starts as the identity:
    it corresponds to the part of the teacher's classifier that recombines classes. Training the
    whole teacher, as in the paper, needs `LiveTeacher`.

    Transformed maps approximate the live teacher's outputs for the view: padding at the borders
    differs, and features of a network that pads images to its stride are transformed as if they
    ended with the image.
    """

    def __init__(self, num_classes: int, maps: Transform | None) -> None:
        """`maps` transforms maps of whole images; None where the outputs are those of views."""
        self.maps = maps
        recombine = nn.Conv2d(num_classes, num_classes, 1).requires_grad_(False)
        with torch.no_grad():
            recombine.weight.copy_(torch.eye(num_classes)[..., None, None])
            assert recombine.bias is not None
            recombine.bias.zero_()
        self.network: nn.Module = recombine

    @property
    def learns(self) -> bool:
        """Whether this training has a co-study; otherwise the map stays the identity."""
        return next(self.network.parameters()).requires_grad

    def __call__(self, batch: Batch) -> Outputs:
        size = tuple(batch.labels.shape[-2:])
        logits = batch.cached["logits"].float()
        if self.learns:
            logits = self.network(logits)  # commutes with what follows
        features = batch.cached["features"].float()
        if self.maps is None:
            return Outputs(logits, features).resize_logits(size)
        return Outputs(
            self.maps.maps(logits, batch.views, size), self.maps.maps(features, batch.views)
        )
