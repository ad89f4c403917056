"""Shapes by formula against those that PyTorch gives."""

import operator

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from trainables.data.augmentation import resize
from trainables.quantization.graph import trace
from trainables.quantization.shape_formulas import FORMULAS
from trainables.quantization.shapes import Shapes, count_values, name_operations

fx.wrap("resize")
MODULES = {
    "convolution": nn.Conv2d(3, 4, (3, 2), (2, 1), (1, 0), (1, 2)),
    "same": nn.Conv2d(3, 4, 4, padding="same"),
    "valid": nn.Conv2d(3, 4, 4, 2, padding="valid"),
    "depthwise": nn.Conv2d(3, 6, 3, groups=3),
    "transposed": nn.ConvTranspose2d(3, 4, 3, 2, (1, 0), (1, 0), dilation=2),
    "max pooling": nn.MaxPool2d(3, 2, 1),
    "max pooling of one size": nn.MaxPool2d((2, 3), dilation=(2, 1)),
    "max pooling up to the border": nn.MaxPool2d(3, 2, ceil_mode=True),
    "adaptive pooling": nn.AdaptiveAvgPool2d(2),
    "adaptive pooling of rows": nn.AdaptiveAvgPool2d((None, 1)),
    "upsampling": nn.Upsample(scale_factor=2),
    "upsampling by two": nn.Upsample(scale_factor=(2.0, 1.5), mode="bilinear"),
    "upsampling to a size": nn.Upsample((5, 7)),
    "convolution of a subclass": type("Own", (nn.Conv2d,), {})(3, 4, 3, 2),
}
FUNCTIONS = {
    "sum": lambda x: x + x,
    "sum of two ranks": lambda x: torch.add(x, other=x[0, :, :1, :1]),
    "product with a row": lambda x: x[:, :, :, :1] * x[:, :, :1],
    "product with a number": lambda x: 2 * x,
    "sizes": lambda x: x[..., : x.shape[-1] * 2 - x.shape[-1] - 1],
    "concatenation": lambda x: torch.cat([x, x[:, :1]], 1),
    "concatenation of rows": lambda x: torch.cat((x, x), axis=-2),
    "concatenation along no axis": lambda x: torch.concat([x, x]),
    "max pooling": lambda x: F.max_pool2d(x, 2),
    "max pooling by names": lambda x: F.max_pool2d(x, kernel_size=3, stride=[2, 1], padding=1),
    "max pooling with places": lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
    "adaptive pooling": lambda x: F.adaptive_avg_pool2d(x, (1, 2)),
    "interpolation": lambda x: F.interpolate(x, size=(4, 5), mode="nearest"),
    "resizing": lambda x: resize(x, (3, 4)),
    "in place": lambda x: operator.iadd(x, x[:, :1]),
    "matrix product": lambda x: torch.matmul(x, x.transpose(2, 3)),
}


class Function(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = FUNCTIONS[self.name](images)
        return result


class Call(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.module(images)
        return result


CASES = {
    **{name: Call(module) for name, module in MODULES.items()},
    **{f"function {name}": Function(name) for name in FUNCTIONS},
}


@pytest.mark.parametrize("network", CASES.values(), ids=CASES)
def test_each_operation_gives_as_many_values_as_pytorch(network: nn.Module) -> None:
    network = network.to("meta").eval()
    graph, modules = trace(network), dict(network.named_modules())
    shapes = Shapes(modules, name_operations(modules, graph), (2, 3, 9, 12))
    interpreter = fx.Interpreter(network, garbage_collect_values=False, graph=graph)
    interpreter.run(torch.empty(2, 3, 9, 12, device="meta"))
    assert shapes.num_values == {
        node: count_values(value) for node, value in interpreter.env.items()
    }


def test_every_formula_is_compared() -> None:
    names = set()
    for network in CASES.values():
        names |= set(name_operations(dict(network.named_modules()), trace(network)).values())
    assert names >= FORMULAS.keys() - {"concat"}
