"""A small network of the kinds of layers that calibration meets, with unequal channels."""

import torch
from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """A block of MobileNetV2 (Sandler et al. 2018), with or without normalisation."""

    def __init__(self, activation: type[nn.Module], with_norm: bool) -> None:
        super().__init__()

        def conv(before: int, after: int, kernel: int, groups: int = 1) -> nn.Module:
            layer = nn.Conv2d(
                before, after, kernel, padding=kernel // 2, groups=groups, bias=not with_norm
            )
            return nn.Sequential(layer, nn.BatchNorm2d(after) if with_norm else nn.Identity())

        self.stem = nn.Sequential(conv(3, 6, 3), activation())
        self.expand = nn.Sequential(conv(6, 12, 1), activation())
        self.depthwise = nn.Sequential(conv(12, 12, 3, groups=12), activation())
        self.project = conv(12, 6, 1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        inputs = self.stem(images)
        outputs: Tensor = self.head(inputs + self.project(self.depthwise(self.expand(inputs))))
        return outputs


def unequal_network(
    activation: type[nn.Module] = nn.ReLU, with_norm: bool = False
) -> InvertedResidual:
    """In evaluation mode, with channels that differ by factors of up to thirty."""
    torch.manual_seed(0)
    network = InvertedResidual(activation, with_norm).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.3, 2)
                nn.init.normal_(module.bias)
                module.running_var = torch.rand(module.num_features) + 0.5
                module.running_mean = torch.randn(module.num_features) / 2
            elif isinstance(module, nn.Conv2d):
                spread = torch.logspace(-0.75, 0.75, module.weight.shape[0])
                module.weight.mul_(spread[torch.randperm(len(spread))].view(-1, 1, 1, 1))
    return network


def random_images() -> Tensor:
    """(4,3,16,16)"""
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
