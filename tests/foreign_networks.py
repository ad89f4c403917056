"""Networks that this project has never seen, as users' own code writes them."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models.configs import TracedConfig
from trainables.models.trace_network import RecordedNetwork, record_network


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(scale), inplace=True)))


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            OrderedDict(
                expand=nn.Conv2d(channels, 2 * channels, 1, bias=False),
                norm=nn.BatchNorm2d(2 * channels),
                act=nn.Hardswish(inplace=True),
                depthwise=nn.Conv2d(
                    2 * channels,
                    2 * channels,
                    3,
                    stride,
                    1,
                    groups=2 * channels,
                    bias=False,
                ),
                norm2=nn.BatchNorm2d(2 * channels, eps=1e-3, momentum=0.01),
                act2=nn.ReLU6(),
                excite=SqueezeExcite(2 * channels),
                project=nn.Conv2d(2 * channels, channels, 1),
            )
        )
        self.is_residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        if self.is_residual:
            y += x
        return y


class Foreign(nn.Module):
    """An encoder of residual blocks, and a decoder with a skip; gives a dict with an auxiliary map.

    It has what a tracer must get right: activations in place, sizes taken from tensors, a scale
    that is a parameter of its own, a buffer, dropout, and modules that are used twice.
    """

    def __init__(self, num_classes: int = 5, width: int = 8) -> None:
        super().__init__()
        self.register_buffer("offset", torch.full((1, 3, 1, 1), 0.1))
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.stages = nn.ModuleList([Residual(width), Residual(width, 2), Residual(width)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.context = nn.Linear(width, width)
        self.dropout = nn.Dropout2d(0.2)
        self.fuse = nn.Conv2d(2 * width, width, 3, padding="same")
        self.act = nn.LeakyReLU(0.1)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.aux = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        skip = x = self.stem(images - self.offset) * self.gain
        for stage in self.stages:
            x = stage(x)
        context = self.context(torch.flatten(self.pool(x), 1)).view(x.size(0), -1, 1, 1)
        deep = self.act(x + context.expand_as(x))
        up = F.interpolate(deep, size=skip.shape[-2:], mode="nearest")
        joined = self.act(self.fuse(torch.cat((up, skip), dim=1)))
        logits = self.head(self.dropout(joined))
        size = images.shape[-2:]
        return {
            "out": F.interpolate(logits, size=size, mode="bilinear", align_corners=False),
            "aux": self.aux(deep),
        }


def foreign() -> nn.Module:
    """The builder that --builder names."""
    return Foreign()


class OfAbsolutes(Foreign):
    """The same function with an operation that the ONNX export does not know."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return super().forward(torch.abs(images + 9) - 9)  # no pixel is below -9


def of_absolutes() -> nn.Module:
    return OfAbsolutes()


class Products(nn.Module):
    """Two operations on weights that no quantizer reaches, and one that is quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.grouped = nn.ConvTranspose2d(4, 4, 2, 2, groups=2)
        self.weight = nn.Parameter(torch.randn(5, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(self.grouped(self.layer(images)), self.weight)


def of_products() -> nn.Module:
    return Products()


def of_three_classes() -> nn.Module:
    return Foreign(num_classes=3)


def randomize(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics as training leaves them: no bias is 0, no variance is 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if "running_var" in name:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 25
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / fan_in**0.5)
            if tensor.ndim == 1 and name.endswith("weight"):
                tensor.add_(1)
    return network.eval()


def traced_student() -> TracedConfig:
    """The network as a student."""
    return config_of(record_network(randomize(Foreign()), nn.Identity(), "foreign"))


def config_of(network: RecordedNetwork, label: str = "foreign", **fields: Any) -> TracedConfig:
    """The student that was traced, with some of its fields."""
    return TracedConfig(
        label=label,
        graph=network.graph.encode(),
        num_classes=network.num_classes,
        weights="0" * 16,
        **fields,
    )
