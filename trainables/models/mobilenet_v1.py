"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861) with a width multiplier, without a classifier.

torchvision does not have it.
"""

from itertools import pairwise

from torch import nn

CHANNELS = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
"""Of the first convolution and of the 13 blocks, at multiplier 1."""
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
"""Of the depthwise convolutions of the blocks."""
FEWEST_CHANNELS = 8


class MobileNetV1(nn.Module):
    """A convolution of stride 2, then a depthwise and a 1x1 convolution for each block."""

    def __init__(self, multiplier: float) -> None:
        super().__init__()
        widths = [max(FEWEST_CHANNELS, int(channels * multiplier)) for channels in CHANNELS]
        self.layers = nn.Sequential(conv_bn_relu(3, widths[0], 3, 2))
        for (before, after), stride in zip(pairwise(widths), STRIDES, strict=True):
            self.layers.append(conv_bn_relu(before, before, 3, stride, before))
            self.layers.append(conv_bn_relu(before, after, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")


def conv_bn_relu(
    before: int, after: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU6(inplace=True))
