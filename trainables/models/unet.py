"""U-Net (Ronneberger et al. 2015, arXiv 1505.04597) with batch normalisation.

Shape suffixes: B batch, C channels, K classes, H height, W width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.base import Outputs, StudentNetwork


class UNet(StudentNetwork):
    """Maps images (B,3,H,W) to raw logits (B,K,H,W), for any H and W.

    Its encoder halves the resolution `depth` times, and its channels double from `width`.
    """

    def __init__(self, width: int, depth: int, upsampling: str, num_classes: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(depth + 1)]
        self.num_classes, self.stride = num_classes, 2**depth
        self.encoder = nn.ModuleList(
            conv_block(before, after)
            for before, after in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.ups = nn.ModuleList(up_block(2 * w, w, upsampling) for w in widths[-2::-1])
        self.decoder = nn.ModuleList(conv_block(2 * w, w) for w in widths[-2::-1])
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.layer_groups: Mapping[str, tuple[str, ...]] = {
            "encoder": ("encoder",),
            "decoder": ("decoder", "ups"),
        }

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.native_outputs(images_B3HW).logits

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        """Logits at full resolution, the deepest feature map, and the decoder's at stride 4.

        A U-Net of depth 1 or 2 gives the decoder's coarsest map instead.
        """
        height, width = images_B3HW.shape[-2:]
        x = F.pad(images_B3HW, (0, -width % self.stride, 0, -height % self.stride))
        skips: list[Tensor] = []
        for stage, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if stage else x)
            skips.append(x)
        features = skips.pop()
        decoded: list[Tensor] = []
        for up, block in zip(self.ups, self.decoder, strict=True):
            x = block(torch.cat([up(x), skips.pop()], dim=1))
            decoded.append(x)
        at_stride_4 = decoded[max(0, len(decoded) - 3)]
        return Outputs(self.classifier(x)[..., :height, :width], features, at_stride_4)


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
