"""What every segmentation network of this project gives back."""

from typing import NamedTuple

from torch import Tensor, nn


class Outputs(NamedTuple):
    """Raw logits (B,K,H,W) at input resolution and deep features (B,C,h,w)."""

    logits: Tensor
    features: Tensor


def forward_features(model: nn.Module, images_B3HW: Tensor) -> Outputs:
    """Runs `model`, which must have `forward_features`, in its present mode."""
    outputs: Outputs = model.forward_features(images_B3HW)  # type: ignore[operator]
    return outputs
