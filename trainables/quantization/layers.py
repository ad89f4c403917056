"""Layers, and additions, that compute with quantized weights and inputs."""

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer, representatives
from trainables.quantization.recomputation import recomputed

QUANTIZABLE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
QuantizableLayer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
SCARCE_MEMORY = ("cuda",)
"""Devices on which memory decides how many trials run at once: quantized inputs are not kept for
the backward pass, which quantizes them again (3 to 6 % of a step's time on a CPU)."""


class QuantizedLayer(nn.Module):
    """A convolution or linear layer behind a weight and an input quantizer.

    Weights are quantized per output channel, inputs per tensor; None means no quantization. The
    grid of images (`reads_images`) is symmetric, as their values are.

    Raises:
        ValueError: for a grouped transposed convolution, whose channels share no axis.
    """

    def __init__(
        self,
        layer: QuantizableLayer,
        weight_quantizer: FakeQuantizer | None,
        input_quantizer: FakeQuantizer | None,
        reads_images: bool = False,
    ) -> None:
        super().__init__()
        assert is_quantizable(layer)
        self.layer = layer
        self.weight_quantizer, self.input_quantizer = weight_quantizer, input_quantizer
        self.reads_images = reads_images

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.layer.weight
        if self.weight_quantizer is not None:
            weight = self.weight_quantizer(weight)
        if self.input_quantizer is None:
            return apply_layer(self.layer, inputs, weight)
        quantized = self.input_quantizer(inputs)
        if not (torch.is_grad_enabled() and inputs.device.type in SCARCE_MEMORY):
            return apply_layer(self.layer, quantized, weight)
        with recomputed(quantized, self.input_quantizer, inputs):
            return apply_layer(self.layer, quantized, weight)

    def calibrate_inputs(self, *inputs: Tensor, earlier: Sequence[Tensor] = ()) -> None:
        """Sets the input grid from a batch, and `earlier` values that others read on this grid."""
        if self.input_quantizer is not None:
            values = torch.cat([*earlier, representatives(inputs[0])]) if earlier else inputs[0]
            self.input_quantizer.calibrate_offset(values, only_symmetric=self.reads_images)

    def calibrate_weight(self) -> None:
        """Sets the weight's steps from the weight."""
        if self.weight_quantizer is not None:
            self.weight_quantizer.calibrate(self.layer.weight)


class QuantizedAddition(nn.Module):
    """The sum of two feature maps that are quantized on one grid.

    On one grid the sum of two integers is that of the values. It is rounded nowhere, and is clipped
    where what reads it quantizes it on the same grid (Jacob et al. 2018, arXiv 1712.05877, appendix
    A.2, rescale operands of unequal grids instead).
    """

    def __init__(self, input_quantizer: FakeQuantizer) -> None:
        super().__init__()
        self.input_quantizer = input_quantizer

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        total: Tensor = self.input_quantizer(first) + self.input_quantizer(second)
        return total

    def calibrate_inputs(self, *operands: Tensor, earlier: Sequence[Tensor] = ()) -> None:
        """Sets the grid from a batch, and `earlier` values that others read on this grid."""
        values = torch.cat([*earlier, *map(representatives, operands)])
        self.input_quantizer.calibrate_offset(values)


def is_quantizable(module: nn.Module) -> TypeGuard[QuantizableLayer]:
    """Whether a `QuantizedLayer` can take its place; channels of other layers share steps."""
    is_grouped = isinstance(module, nn.ConvTranspose2d) and module.groups > 1
    return isinstance(module, QUANTIZABLE) and not is_grouped


def step_shape(layer: QuantizableLayer) -> tuple[int, ...]:
    """The shape that broadcasts one step per output channel over the weight."""
    axis = channel_axis(layer)
    return tuple(n if i == axis else 1 for i, n in enumerate(layer.weight.shape))


def count_steps(layer: QuantizableLayer) -> int:
    """The steps of the weight, one per output channel."""
    return layer.weight.shape[channel_axis(layer)]


def channel_axis(layer: QuantizableLayer) -> int:
    """The axis of the weight that is that of output channels."""
    return 1 if isinstance(layer, nn.ConvTranspose2d) else 0


def apply_layer(layer: QuantizableLayer, inputs: Tensor, weight: Tensor) -> Tensor:
    """The layer's own operation with another weight."""
    operation = OPERATIONS.get(type(layer))
    if operation is not None and getattr(layer, "padding_mode", "zeros") == "zeros":
        return operation(layer, inputs, weight)
    result: Tensor = functional_call(layer, {"weight": weight}, (inputs,))
    return result


def convolve(layer: nn.Conv2d, inputs: Tensor, weight: Tensor) -> Tensor:
    """The convolution of `layer`, which pads with zeros."""
    return F.conv2d(
        inputs, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )


def convolve_transposed(layer: nn.ConvTranspose2d, inputs: Tensor, weight: Tensor) -> Tensor:
    """The transposed convolution of `layer`."""
    assert not isinstance(layer.padding, str)
    return F.conv_transpose2d(
        inputs,
        weight,
        layer.bias,
        layer.stride,
        layer.padding,
        layer.output_padding,
        layer.groups,
        layer.dilation,
    )


OPERATIONS: dict[type, Callable[..., Tensor]] = {
    nn.Conv2d: convolve,
    nn.ConvTranspose2d: convolve_transposed,
    nn.Linear: lambda layer, inputs, weight: F.linear(inputs, weight, layer.bias),
}
"""What layers compute; `functional_call`, which takes subclasses too, takes three times as long
to begin."""


def is_pixel_shuffle(layer: nn.Module) -> TypeGuard[nn.ConvTranspose2d]:
    """Whether it is a transposed convolution whose windows do not overlap.

    It is written as a 1x1 convolution to a channel for each pixel of a window, followed by
    DepthToSpace, since ONNX Runtime has no other integer implementation.
    """
    return (
        isinstance(layer, nn.ConvTranspose2d)
        and layer.kernel_size == layer.stride == layer.stride[::-1]
        and layer.groups == 1
        and set(layer.dilation) == {1}
        and not any((*layer.padding, *layer.output_padding))
    )


def is_overlapping(layer: nn.Module) -> bool:
    """Whether it is another transposed convolution, which ONNX Runtime computes on floats."""
    return isinstance(layer, nn.ConvTranspose2d) and not is_pixel_shuffle(layer)
