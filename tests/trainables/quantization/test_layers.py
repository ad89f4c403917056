"""A layer with another weight computes what the layer itself would compute with it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from trainables.quantization.layers import QuantizableLayer, apply_layer


class Halved(nn.Conv2d):
    """A subclass, which computes something else."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) / 2


LAYERS: dict[str, tuple[QuantizableLayer, tuple[int, ...]]] = {
    "groups": (nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(1, 2), groups=2), (2, 4, 9, 8)),
    "dilation, same": (nn.Conv2d(4, 6, 3, dilation=2, padding="same", bias=False), (2, 4, 9, 8)),
    "reflect": (nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), (2, 4, 9, 8)),
    "transposed": (
        nn.ConvTranspose2d(4, 6, 3, (2, 3), (1, 0), (1, 2), groups=2, dilation=2),
        (2, 4, 5, 7),
    ),
    "linear": (nn.Linear(4, 6), (3, 4)),
    "linear without bias": (nn.Linear(4, 6, bias=False), (3, 4)),
    "subclass": (Halved(4, 6, 3), (2, 4, 9, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_layer_s_own_operation(name: str) -> None:
    layer, shape = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape, generator=generator)
    weight = torch.randn(layer.weight.shape, generator=generator)
    other = copy.deepcopy(layer)
    other.weight = nn.Parameter(weight)
    assert torch.equal(apply_layer(layer, inputs, weight), other(inputs))
