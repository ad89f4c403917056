"""Sources of the teacher's outputs: the teacher itself at every step, or a cache."""

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

    Transformed maps approximate the live teacher's outputs for the view: padding at the borders
    differs, and features of a network that pads images to its stride are transformed as if they
    ended with the image.
    """

    network = None

    def __init__(self, maps: Transform | None) -> None:
        """`maps` transforms maps of whole images; None where the outputs are those of views."""
        self.maps = maps

    def __call__(self, batch: Batch) -> Outputs:
        size = tuple(batch.labels.shape[-2:])
        logits = batch.cached["logits"].float()
        features = batch.cached["features"].float()
        if self.maps is None:
            return Outputs(logits, features).resize_logits(size)
        return Outputs(
            self.maps.maps(logits, batch.views, size), self.maps.maps(features, batch.views)
        )
