"""Segmentation networks of a backbone and one of three decoders.

Shape suffixes: B batch, C channels, K classes, H height, W width.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from trainables.data.augmentation import resize
from trainables.models.backbones import Backbone
from trainables.models.base import Outputs, StudentNetwork

fx.wrap("resize")  # one operation of the graph, since its effect depends on sizes

FEWEST_CHANNELS = 8
Decoded = tuple[Tensor, Tensor | None]
"""Logits, and the decoder's feature map whose stride is nearest to 4, if it has one."""


class EncoderDecoder(StudentNetwork):
    """Maps images (B,3,H,W) to raw logits (B,K,H,W), for any H and W.

    Args:
        normalization: maps images as all networks get them to those that the backbone knows.
        backbone: gives feature maps, from fine to coarse.
        decoder: maps the feature maps to logits at its own stride, and to its own feature map.
    """

    def __init__(self, normalization: nn.Module, backbone: Backbone, decoder: nn.Module) -> None:
        super().__init__()
        self.normalization = normalization
        self.backbone, self.decoder = backbone, decoder
        self.layer_groups: Mapping[str, tuple[str, ...]] = {
            "encoder": ("backbone",),
            "decoder": ("decoder",),
        }

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.native_outputs(images_B3HW).resize_logits(images_B3HW.shape[-2:]).logits

    def native_outputs(self, images_B3HW: Tensor) -> Outputs:
        """Logits at the decoder's stride, the backbone's last feature map, and the decoder's."""
        features = self.backbone(self.normalization(images_B3HW))
        logits, decoded = self.decoder(features)
        return Outputs(logits, features[-1], decoded)


class UNetDecoder(nn.Module):
    """The decoder of a U-Net (Ronneberger et al. 2015, arXiv 1505.04597), down to stride 2.

    Each stage enlarges what the coarser one gives, joins the backbone's feature map of this stride,
    and has half as many channels as the coarser one.
    """

    def __init__(self, channels: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        *skips, before = channels
        self.blocks = nn.ModuleList()
        for stage, skip in enumerate(reversed(skips)):
            after = max(FEWEST_CHANNELS, width >> stage)
            self.blocks.append(conv_bn_relu(before + skip, after, 3))
            before = after
        self.classifier = nn.Conv2d(before, num_classes, 1)

    def forward(self, features_BChw: Sequence[Tensor]) -> Decoded:
        """The feature map is that at stride 4, the last but one."""
        *skips, x = features_BChw
        decoded: list[Tensor] = []
        for block in self.blocks:
            skip = skips.pop()
            x = block(torch.cat([resize(x, skip.shape[-2:]), skip], dim=1))
            decoded.append(x)
        return self.classifier(x), decoded[-2]


class DeepLabV3Decoder(nn.Module):
    """The decoder of DeepLabV3 for mobile networks, at the backbone's last stride.

    Its spatial pyramid is one 1x1 convolution and the pooled image (Chen et al. 2017, arXiv
    1706.05587; Sandler et al. 2018, arXiv 1801.04381, section 6.3). What is pooled is one pixel for
    each image: it is not normalised, for batches are too small for that.
    """

    def __init__(self, channels: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        self.image_pooling = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[-1], width, 1), nn.ReLU(inplace=True)
        )
        self.convolution = conv_bn_relu(channels[-1], width, 1)
        self.projection = conv_bn_relu(2 * width, width, 1)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features_BChw: Sequence[Tensor]) -> Decoded:
        """The feature map is that which is classified."""
        x = features_BChw[-1]
        pooled = resize(self.image_pooling(x), x.shape[-2:])
        x = self.projection(torch.cat([pooled, self.convolution(x)], dim=1))
        return self.classifier(x), x


class LrasppDecoder(nn.Module):
    """torchvision's LR-ASPP (Howard et al. 2019, arXiv 1905.02244), at stride 8."""

    def __init__(self, channels: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        from torchvision.models.segmentation.lraspp import LRASPPHead

        self.head = LRASPPHead(channels[2], channels[-1], num_classes, width)

    def forward(self, features_BChw: Sequence[Tensor]) -> Decoded:
        """There is no feature map: the logits are a sum of those of two resolutions."""
        return self.head({"low": features_BChw[2], "high": features_BChw[-1]}), None


def conv_bn_relu(before: int, after: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


DECODERS: Mapping[str, Callable[[Sequence[int], int, int], nn.Module]] = {
    "unet": UNetDecoder,
    "deeplabv3": DeepLabV3Decoder,
    "lraspp": LrasppDecoder,
}
"""The decoders by their names; each is built from the numbers of channels of the feature maps, its
own width, and the number of classes."""
