"""Converts a trained network for export: folds batch normalisation, makes weights integers.

Batch normalisation after a layer y = conv(w, x) multiplies each channel by gain = gamma / sigma and
adds a bias. With one weight step per output channel, w = step * codes, the fold multiplies the step
and leaves the codes alone, so that it is exact but for the rounding of floats (Jacob et al. 2018,
arXiv 1712.05877, section 3.2, folds before rounding). A negative gamma makes the step negative: to
negate the codes instead, -2**(bits - 1) would need one bit more.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trainables.quantization.bits import bounds
from trainables.quantization.graph import find_foldable, replace_module
from trainables.quantization.layers import (
    QuantizableLayer,
    QuantizedAddition,
    QuantizedLayer,
    count_steps,
    step_shape,
)
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer


class StaticQuantizer(nn.Module):
    """Rounds to step * {low, ..., high}; `step` has shape (1,)."""

    def __init__(self, quantizer: FakeQuantizer) -> None:
        super().__init__()
        self.bits, self.zero_point = quantizer.bits, quantizer.zero_point
        self.step: Tensor
        self.register_buffer("step", quantizer.step.detach())

    def codes(self, value: Tensor) -> Tensor:
        """The integers, as floats."""
        return (value / self.step).clamp(*bounds(self.bits, self.zero_point)).round()

    def forward(self, value: Tensor) -> Tensor:
        return self.codes(value) * self.step


class ConvertedLayer(nn.Module):
    """A quantized layer with a bias and, where its weights are quantized, their codes and steps.

    Where its inputs are quantized as well, products are sums of integers. Floats add them exactly
    in any order up to 2**24, so that outputs do not depend on the number of threads, the batch or
    the processor.

    Attributes:
        grid: of its inputs; None where these are not quantized.
        codes: integers (as the weight) in [-2**(bits - 1), 2**(bits - 1)), or None.
        step: (output channels,), signed, or None; `layer.weight` is their product.
    """

    @torch.no_grad()
    def __init__(self, quantized: QuantizedLayer, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.layer = copy.deepcopy(quantized.layer).requires_grad_(False)
        self.grid = (
            StaticQuantizer(quantized.input_quantizer) if quantized.input_quantizer else None
        )
        gain, bias = gain_and_bias(quantized.layer, norm)
        self.bits: int | None = None
        self.codes: Tensor | None
        self.step: Tensor | None
        self.register_buffer("codes", None)
        self.register_buffer("step", None)
        if (quantizer := quantized.weight_quantizer) is not None:
            self.bits = quantizer.bits
            self.codes = quantizer.codes(self.layer.weight).to(torch.int8)
            self.step = (quantizer.step.flatten().double() * gain).float()
            self.multiply()
        else:
            shape = step_shape(self.layer)
            self.layer.weight.copy_(self.layer.weight.double() * gain.view(shape))
        if bias is not None:
            self.layer.bias = nn.Parameter(bias.float(), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.grid is None or self.codes is None or self.step is None:
            outputs: Tensor = self.layer(inputs if self.grid is None else self.grid(inputs))
            return outputs
        operands: dict[str, Any] = {"weight": self.codes.to(self.layer.weight), "bias": None}
        products = functional_call(self.layer, operands, (self.grid.codes(inputs),))
        by_channel = (-1, *[1] * (self.codes.ndim - 2))
        outputs = products * (self.grid.step * self.step).view(by_channel)
        return outputs if self.layer.bias is None else outputs + self.layer.bias.view(by_channel)

    @torch.no_grad()
    def multiply(self) -> None:
        """Sets the weight to the product of codes and steps."""
        assert self.codes is not None
        assert self.step is not None
        self.layer.weight.copy_(self.codes * self.step.view(step_shape(self.layer)))


class ConvertedAddition(nn.Module):
    """The sum of two tensors on one grid."""

    def __init__(self, quantized: QuantizedAddition) -> None:
        super().__init__()
        self.grid = StaticQuantizer(quantized.input_quantizer)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        total: Tensor = self.grid(first) + self.grid(second)
        return total


def gain_and_bias(
    layer: QuantizableLayer, norm: nn.BatchNorm2d | None
) -> tuple[Tensor, Tensor | None]:
    """The gain of a layer's normalisation by channel, and the bias of both together."""
    bias = None if layer.bias is None else layer.bias.double()
    if norm is None:
        num_channels = count_steps(layer)
        ones = torch.ones(num_channels, dtype=torch.float64, device=layer.weight.device)
        return ones, bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gamma, beta = (norm.weight.double(), norm.bias.double()) if norm.affine else (1.0, 0.0)
    gain = gamma / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.running_mean.double() if bias is None else norm.running_mean.double() - bias
    return gain, beta - shift * gain


@torch.no_grad()
def convert(model: nn.Module) -> nn.Module:
    """The converted form of a trained network, as a new network in evaluation mode.

    Each BatchNorm that is the only reader of a convolution is folded into it, and quantized layers
    and additions become `ConvertedLayer`s and `ConvertedAddition`s. A converted network is copied.

    Raises:
        ValueError: the network cannot be traced.
    """
    converted = copy.deepcopy(model).eval()
    if any(isinstance(module, ConvertedLayer | ConvertedAddition) for module in model.modules()):
        return converted
    for name, norm_name in find_foldable(converted):
        layer, norm = converted.get_submodule(name), converted.get_submodule(norm_name)
        replace_module(converted, name, folded(layer, norm))
        replace_module(converted, norm_name, nn.Identity())
    for name, module in list(converted.named_modules()):
        if isinstance(module, QuantizedLayer):
            replace_module(converted, name, ConvertedLayer(module, None))
        elif isinstance(module, QuantizedAddition):
            replace_module(converted, name, ConvertedAddition(module))
    return converted


def folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(norm, nn.BatchNorm2d)
    if isinstance(layer, QuantizedLayer):
        return ConvertedLayer(layer, norm)
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    return fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
