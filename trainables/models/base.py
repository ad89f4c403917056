"""The interfaces of segmentation networks and of students."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from trainables.data.augmentation import MEAN, STD, resize

fx.wrap("resize")  # one operation of the graph, since its effect depends on sizes


class Outputs(NamedTuple):
    """What a network gives for images, at its own strides.

    Attributes:
        logits: raw, (B,K,h,w).
        features: the deepest feature map (B,C,h',w').
        decoder: the decoder's feature map whose stride is nearest to 4 (B,C",h",w"); None where the
            decoder has none, or where it was not kept.
    """

    logits: Tensor
    features: Tensor
    decoder: Tensor | None = None

    def resize_logits(self, size: tuple[int, ...]) -> "Outputs":
        """The outputs with logits resized bilinearly, as torchvision's networks do."""
        return self._replace(logits=resize(self.logits, size))


class Network(nn.Module):
    """Maps images (B,3,H,W) to raw logits (B,K,H,W)."""

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        """Logits and feature maps, at the network's own strides."""
        raise NotImplementedError


class StudentNetwork(Network):
    """A network that groups its layers for quantization."""

    layer_groups: Mapping[str, tuple[str, ...]]
    """Names of the modules that make up the "encoder" and the "decoder"."""

    def group_of(self, layer: str) -> str | None:
        """The group with the innermost module that holds the layer with this name."""
        holding = {
            part: group
            for group, parts in self.layer_groups.items()
            for part in parts
            if f"{layer}.".startswith(f"{part}.")
        }
        return holding[max(holding, key=len)] if holding else None


class InputNormalization(nn.Module):
    """Images (B,3,H,W) that ImageNet's statistics normalise, as another mean and deviation would.

    All images of this project are normalised by ImageNet's; a network that was trained on others
    begins with this module. It is not folded into a convolution, whose zeros at the border stand
    for zeros of the network's own normalisation.

    Args:
        mean: by channel, of pixels from 0 to 1.
        std: likewise.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        of_data = torch.tensor([MEAN, STD], dtype=torch.float64)
        own = torch.tensor([tuple(mean), tuple(std)], dtype=torch.float64)
        scale, offset = of_data[1] / own[1], (of_data[0] - own[0]) / own[1]
        self.register_buffer("scale", scale.float().view(3, 1, 1))
        self.register_buffer("offset", offset.float().view(3, 1, 1))

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return images_B3HW * self.scale + self.offset


def forward_features(model: nn.Module, images_B3HW: Tensor) -> Outputs:
    """Runs `model` in its present mode; logits are resized to the size of the images."""
    return native_outputs(model, images_B3HW).resize_logits(images_B3HW.shape[-2:])


def native_outputs(model: nn.Module, images_B3HW: Tensor) -> Outputs:
    """Runs `model`, which must have a method of this name, in its present mode.

    Convolutions compute in bfloat16 where the device is fast at it; normalisation statistics and
    quantization steps stay in float32.
    """
    with torch.autocast(
        images_B3HW.device.type, torch.bfloat16, supports_fast_bf16(images_B3HW.device)
    ):
        outputs: Outputs = model.native_outputs(images_B3HW)  # type: ignore[operator]
    return outputs


def predicted_classes(logits_BKHW: Tensor) -> Tensor:
    """The class (B,H,W) of each pixel; `argmax` takes six times as long on a CPU."""
    return logits_BKHW.max(1).indices


@cache
def supports_fast_bf16(device: torch.device) -> bool:
    """Whether a device has native bfloat16 arithmetic."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def to_device(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on a device, with weights in the memory format that is fastest there."""
    placed: nn.Module = model.to(memory_format=torch.channels_last)
    return placed.to(device)
