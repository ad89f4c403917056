"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with batch normalisation.

Shape suffixes: B batch, C channels, K classes, H height, W width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.core.config_base import FrozenConfig
from trainables.models.base import Outputs


class UNetConfig(FrozenConfig):
    """An encoder of `depth` halvings whose channels double from `width`, and its mirror image."""

    name: Literal["unet"] = "unet"
    width: int = Field(16, ge=1, le=512, description="channels at full resolution")
    depth: int = Field(4, ge=1, le=6, description="number of halvings of the resolution")
    upsampling: Literal["transposed", "bilinear"] = "transposed"

    def build(self, num_classes: int) -> "UNet":
        """A randomly initialised network for `num_classes` classes."""
        return UNet(self, num_classes)


class UNet(nn.Module):
    """Maps images (B,3,H,W) to raw logits (B,K,H,W), for any H and W.

    `input_groups` names layers that read the same tensor: quantized, they read it on one grid.
    """

    def __init__(self, config: UNetConfig, num_classes: int) -> None:
        super().__init__()
        widths = [config.width * 2**stage for stage in range(config.depth + 1)]
        self.num_classes, self.stride = num_classes, 2**config.depth
        self.encoder = nn.ModuleList(
            conv_block(before, after)
            for before, after in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.ups = nn.ModuleList(up_block(2 * w, w, config.upsampling) for w in widths[-2::-1])
        self.decoder = nn.ModuleList(conv_block(2 * w, w) for w in widths[-2::-1])
        self.classifier = nn.Conv2d(config.width, num_classes, 1)
        # A skip is read by the encoder's next stage and, beside what comes up, by the decoder
        self.input_groups = [
            (f"encoder.{stage + 1}.0", f"decoder.{config.depth - 1 - stage}.0")
            for stage in range(config.depth)
        ]

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.native_outputs(images_B3HW).logits

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        """Logits at full resolution and the deepest feature map, at 1/2**depth of it."""
        height, width = images_B3HW.shape[-2:]
        x = F.pad(images_B3HW, (0, -width % self.stride, 0, -height % self.stride))
        skips: list[Tensor] = []
        for stage, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if stage else x)
            skips.append(x)
        features = skips.pop()
        for up, block in zip(self.ups, self.decoder, strict=True):
            x = block(torch.cat([up(x), skips.pop()], dim=1))
        return Outputs(self.classifier(x)[..., :height, :width], features)


def conv_block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn_relu(before, after, 3), *conv_bn_relu(after, after, 3))


def up_block(before: int, after: int, upsampling: str) -> nn.Sequential:
    # The ReLU keeps every input of the decoder's concatenation on one unsigned grid.
    if upsampling == "transposed":
        grow: nn.Module = nn.ConvTranspose2d(before, after, 2, stride=2, bias=False)
        return nn.Sequential(grow, nn.BatchNorm2d(after), nn.ReLU(inplace=True))
    grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(*conv_bn_relu(before, after, 1), grow)


def conv_bn_relu(before: int, after: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
