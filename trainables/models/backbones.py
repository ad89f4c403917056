"""Classification networks as backbones: their feature maps at strides 2, 4, 8, 16 and 32.

They are torchvision's and timm's own networks, whose modules keep their names, so that the state
dicts of the classifiers fit. Shape suffixes: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from trainables.core.optional_dependencies import require_timm
from trainables.models.mobilenet_v1 import MobileNetV1
from trainables.models.plain_norms import with_plain_norms


@dataclass(frozen=True)
class Architecture:
    """How a classification network is built and divided.

    Attributes:
        build: gives the classifier for a width multiplier.
        stages: names of the modules that run one after the other, by stride 2, 4, 8, 16, 32.
        last: names of the modules behind the stages that networks of stride 16 use as well.
        head: prefixes of the names of modules that only classify.
    """

    build: Callable[[float], nn.Module]
    stages: Sequence[Sequence[str]]
    last: Sequence[str] = ()
    head: Sequence[str] = ()


class Backbone(nn.Module):
    """Maps images (B,3,H,W) to feature maps, from fine to coarse.

    Args:
        name: one of `ARCHITECTURES`.
        multiplier: of the numbers of channels.
        is_dilated: whether the last feature map has half the stride that it has otherwise.
        depth: the number of feature maps, at strides 2 to 2 ** depth; at most 5.

    Attributes:
        channels: of the feature maps.

    Raises:
        ValueError: the backbone needs a package that is not installed.
    """

    def __init__(self, name: str, multiplier: float, is_dilated: bool, depth: int = 5) -> None:
        super().__init__()
        self.architecture = architecture = ARCHITECTURES[name]
        self.network = architecture.build(multiplier)
        *stages, deepest = architecture.stages[:depth]
        self.stages = [*stages, [*deepest, *architecture.last] if is_dilated else deepest]
        remove_unused(self.network, [module for stage in self.stages for module in stage])
        if is_dilated:
            dilate(self.network.get_submodule(module) for module in self.stages[-1])
        self.channels = [count_channels(self.network, stage) for stage in self.stages]

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        x, features = images_B3HW, []
        for stage in self.stages:
            for name in stage:
                x = self.network.get_submodule(name)(x)
            features.append(x)
        return features


def remove_unused(network: nn.Module, used: Sequence[str]) -> None:
    """Removes the modules that are not `used`, and leaves the names of the others."""
    for name, child in list(network.named_children()):
        within = [path[len(name) + 1 :] for path in used if f"{path}.".startswith(f"{name}.")]
        if not within:
            delattr(network, name)
        elif "" not in within:
            remove_unused(child, within)


def dilate(modules: Iterable[nn.Module]) -> None:
    """Takes the stride from modules that run one after the other, and widens what follows it.

    Each convolution behind the first that has lost its stride is dilated, so that it reads the same
    pixels as before (Chen et al. 2017, arXiv 1706.05587).
    """
    factor = 1
    for module in modules:
        for conv in module.modules():
            if not isinstance(conv, nn.Conv2d):
                continue
            if factor > 1 and conv.kernel_size != (1, 1):
                conv.dilation = (factor, factor)
                conv.padding = tuple(factor * (size // 2) for size in conv.kernel_size)
            if conv.stride != (1, 1):
                factor, conv.stride = 2, (1, 1)


def count_channels(network: nn.Module, stage: Sequence[str]) -> int:
    """The output channels of the last convolution of a stage."""
    convolutions = [
        module
        for name in stage
        for module in network.get_submodule(name).modules()
        if isinstance(module, nn.Conv2d)
    ]
    return convolutions[-1].out_channels


def mobilenet_v2(multiplier: float) -> nn.Module:
    from torchvision.models import mobilenet_v2  # takes seconds to import; U-Nets do not need it

    network: nn.Module = mobilenet_v2(width_mult=multiplier)
    return network


def mobilenet_v3_small(multiplier: float) -> nn.Module:
    from torchvision.models import mobilenet_v3_small

    network: nn.Module = mobilenet_v3_small(width_mult=multiplier)
    return network


def resnet18(multiplier: float) -> nn.Module:
    from torchvision.models import resnet18

    assert multiplier == 1
    network: nn.Module = resnet18()
    return network


def efficientnet_lite0(multiplier: float) -> nn.Module:
    """timm's network, with activations apart from normalisation, which can then be folded."""
    require_timm("the backbone efficientnet_lite0")
    from timm import create_model

    assert multiplier == 1
    return with_plain_norms(create_model("efficientnet_lite0"))


def numbered(prefix: str, *ends: int) -> list[list[str]]:
    """Stages of modules that are numbered from 0; each stage ends before one of `ends`."""
    starts = (0, *ends[:-1])
    return [[f"{prefix}.{i}" for i in range(*ends)] for ends in zip(starts, ends, strict=True)]


ARCHITECTURES: Mapping[str, Architecture] = {
    "mobilenet_v1": Architecture(
        MobileNetV1, numbered("layers", 3, 7, 11, 23, 27), head=("layers.27",)
    ),
    "mobilenet_v2": Architecture(
        mobilenet_v2, numbered("features", 2, 4, 7, 14, 18), head=("features.18", "classifier")
    ),
    "mobilenet_v3_small": Architecture(
        mobilenet_v3_small,
        numbered("features", 1, 2, 4, 9, 12),
        last=("features.12",),
        head=("features.12", "classifier"),
    ),
    "efficientnet_lite0": Architecture(
        efficientnet_lite0,
        [
            ["conv_stem", "bn1", "blocks.0"],
            ["blocks.1"],
            ["blocks.2"],
            ["blocks.3", "blocks.4"],
            ["blocks.5", "blocks.6"],
        ],
        head=("conv_head", "bn2", "classifier"),
    ),
    "resnet18": Architecture(
        resnet18,
        [["conv1", "bn1", "relu"], ["maxpool", "layer1"], ["layer2"], ["layer3"], ["layer4"]],
        head=("fc",),
    ),
}
"""The backbones by their names."""
