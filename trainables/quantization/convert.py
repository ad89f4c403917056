"""Converts a trained network for export: folds batch normalisation, makes weights integers.

Batch normalisation after a layer y = conv(w, x) multiplies each channel by gain = gamma / sigma and
adds a bias. With one weight step per output channel, w = step * codes, the fold multiplies the step
and leaves the codes alone, so that it is exact but for the rounding of floats (Jacob et al. 2018,
arXiv 1712.05877, section 3.2, folds before rounding). A negative gamma makes the step negative: to
negate the codes instead, -2**(bits - 1) would need one bit more.
"""

import copy
from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trainables.quantization.bits import SAFE_BITS
from trainables.quantization.graph import find_foldable, replace_module, trace
from trainables.quantization.layers import (
    QuantizableLayer,
    QuantizedAddition,
    QuantizedLayer,
    count_steps,
    is_overlapping,
    step_shape,
)
from trainables.quantization.output_grids import find_grids, keeps_grid
from trainables.quantization.shapes import called_module
from trainables.quantization.static_quantizer import StaticQuantizer

LARGEST_BIAS = 1 << 24
"""The largest bias, in steps, so that its sum with the products fits into 32 bits."""
FINEST = 64
"""The parts of a step in which a bias is counted at the finest, so that it fits into 32 bits.

Compact model files are read by it: another value changes what they compute."""


class ConvertedLayer(nn.Module):
    """A quantized layer with a bias and, where its weights are quantized, their codes and steps.

    Where its inputs are quantized as well, products are sums of integers. Floats add them exactly
    in any order up to 2**24, so that outputs do not depend on the number of threads, the batch or
    the processor. Outputs that are read on one grid are rounded to it as integer arithmetic does
    it: the sum is multiplied once, by the quotient of steps (Jacob et al. 2018, arXiv 1712.05877,
    equation 5).

    Attributes:
        grid: of its inputs; None where these are not quantized.
        output_grid: on which all that reads its outputs reads them; None where there is none.
        codes: integers (as the weight) in [-2**(bits - 1), 2**(bits - 1)), or None.
        table: the 2**bits integers that `codes` are among instead, ascending, or None.
        multipliers: (output channels, buckets), of which `codes` are multiples instead, or None.
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
        self._output_grids: tuple[StaticQuantizer, ...] = ()  # no child: it belongs to the readers
        self.bits: int | None = None
        self.codes: Tensor | None
        self.step: Tensor | None
        self.register_buffer("codes", None)
        self.register_buffer("step", None)
        self.table: Tensor | None
        self.register_buffer("table", None)
        self.multipliers: Tensor | None
        self.register_buffer("multipliers", None)
        if (quantizer := quantized.weight_quantizer) is not None:
            self.bits = quantizer.bits
            self.codes = quantizer.codes(self.layer.weight).to(torch.int8)
            self.table, self.multipliers = quantizer.table, quantizer.multipliers
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
        value = products
        for operator, operand in self.operations(self.grid.step * self.step, self.layer.bias):
            operand = operand.view(by_channel)
            value = value + operand if operator == "Add" else value * operand
        return value if self.output_grid is None else self.output_grid.snap(value)

    def operations(self, scale: Tensor, bias: Tensor | None) -> list[tuple[str, Tensor]]:
        """What is done to the sums of products, and the operands (outputs,).

        Where the outputs have a grid, the result is in steps of it.

        Args:
            scale: the step of the products of each output channel.
            bias: of each output channel.
        """
        if self.output_grid is None:
            return [("Mul", scale), *([] if bias is None else [("Add", bias)])]
        factor = scale / self.output_grid.step
        if bias is None:
            return [("Mul", factor)]
        dead = is_dead(bias, scale)
        operations = [("Add", counts_of(bias, scale).masked_fill(dead, 0)), ("Mul", factor)]
        if dead.any():
            constant = (bias / self.output_grid.step).masked_fill(~dead, 0)
            operations.append(("Add", constant))
        return operations

    @property
    def code_bits(self) -> int:
        """The bits that each of the codes needs by itself."""
        assert self.bits is not None
        is_plain = self.table is None and self.multipliers is None
        return self.bits if is_plain else SAFE_BITS

    @property
    def output_grid(self) -> StaticQuantizer | None:
        return self._output_grids[0] if self._output_grids else None

    def round_outputs_to(self, grid: StaticQuantizer | None) -> None:
        """Sets the grid of its outputs, if it computes with integers."""
        has_integers = self.grid is not None and self.codes is not None
        self._output_grids = (grid,) if grid and has_integers else ()

    @torch.no_grad()
    def multiply(self) -> None:
        """Sets the weight to the product of codes and steps."""
        assert self.codes is not None
        assert self.step is not None
        self.layer.weight.copy_(self.codes * self.step.view(step_shape(self.layer)))


def counts_of(bias: Tensor, scale: Tensor) -> Tensor:
    """A bias in steps of products, exactly where `round_biases` has made it a multiple."""
    counts = bias.double() / scale.double()
    parts = (counts * FINEST).round() / FINEST
    is_multiple = (parts - counts).abs() <= counts.abs() * torch.finfo(torch.float32).eps / 2
    return torch.where(is_multiple, parts, counts).to(bias.dtype)


def is_dead(bias: Tensor, scale: Tensor) -> Tensor:
    """Channels that normalisation multiplies by nearly 0, so that they equal their bias."""
    return (bias.abs() > LARGEST_BIAS * scale.abs()) | (scale == 0)


class ConvertedAddition(nn.Module):
    """The sum of two tensors on one grid."""

    def __init__(self, quantized: QuantizedAddition) -> None:
        super().__init__()
        self.grid = StaticQuantizer(quantized.input_quantizer)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        total: Tensor = self.grid(first) + self.grid(second)
        return total


def input_grid(module: nn.Module | None) -> StaticQuantizer | None:
    """The grid on which a module reads its inputs, if it has one."""
    return module.grid if isinstance(module, ConvertedLayer | ConvertedAddition) else None


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
    round_outputs(converted)
    return converted


def round_outputs(converted: nn.Module) -> None:
    """Makes layers round their outputs to the grid on which all that reads them reads them.

    It must be called again whenever grids have changed.
    """
    if not any(isinstance(module, StaticQuantizer) for module in converted.modules()):
        return
    graph = trace(converted, leaves=(ConvertedLayer, ConvertedAddition))
    modules = dict(converted.named_modules())

    def grid_of(node: fx.Node) -> StaticQuantizer | None:
        return input_grid(called_module(modules, node))

    found = find_grids(graph, grid_of, partial(keeps_grid, modules=modules))
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node, grid in found.items():
        layer = called_module(modules, node)
        if isinstance(layer, ConvertedLayer) and calls[node.target] == 1:
            layer.round_outputs_to(None if is_overlapping(layer.layer) else grid)


def folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    assert isinstance(norm, nn.BatchNorm2d)
    if isinstance(layer, QuantizedLayer):
        return ConvertedLayer(layer, norm)
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    return fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
