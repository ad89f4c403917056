"""Prepares a full-precision network for training with quantized weights and activations."""

import torch
from torch import Tensor, nn

from trainables.quantization.bits import FULL_PRECISION, LayerBits
from trainables.quantization.graph import find_first_and_last, replace_module
from trainables.quantization.layers import (
    QUANTIZABLE,
    QuantizableLayer,
    QuantizedLayer,
    step_shape,
)
from trainables.quantization.quantizers.base import Quantizer


def quantizable_names(model: nn.Module) -> list[str]:
    """Names of the layers that can be quantized, in the order of registration."""
    return [name for name, module in model.named_modules() if isinstance(module, QUANTIZABLE)]


def prepare(model: nn.Module, quantizer: Quantizer) -> nn.Module:
    """Adds quantizers to every convolution and linear layer of `model`, in place.

    The first and the last layers of the graph get 8 bits at least. Weight steps are approximate
    until `calibrate` sets all steps. The optimizer must be built afterwards.

    Raises:
        ValueError: `quantizer.layers` names a layer that `model` does not have, or the network
            cannot be traced.
    """
    names = quantizable_names(model)
    if unknown := sorted(set(quantizer.layers) - set(names)):
        raise ValueError(
            f"quantizer.layers must name layers of the model, but got {unknown[0]!r}; "
            f"it has {', '.join(names)}"
        )
    ends = find_first_and_last(model)
    uniform = LayerBits(
        weight_bits=quantizer.weight_bits, activation_bits=quantizer.activation_bits
    )
    at_ends = LayerBits(
        weight_bits=max(8, quantizer.weight_bits), activation_bits=max(8, quantizer.activation_bits)
    )
    for name in names:
        bits = quantizer.layers.get(name, at_ends if name in ends else uniform)
        layer = model.get_submodule(name)
        assert isinstance(layer, QUANTIZABLE)
        replace_module(model, name, quantize_layer(layer, quantizer, bits))
    for group in getattr(model, "input_groups", ()):
        share_input_quantizer([model.get_submodule(name) for name in group])
    return model


def quantize_layer(
    layer: QuantizableLayer, quantizer: Quantizer, bits: LayerBits
) -> QuantizedLayer:
    """A layer with quantizers of its bit-widths, and none where these are 32."""
    weights = inputs = None
    if bits.weight_bits != FULL_PRECISION:
        weights = quantizer.build_weight_quantizer(
            bits.weight_bits, layer.weight, step_shape(layer)
        )
    if bits.activation_bits != FULL_PRECISION:
        inputs = quantizer.build_input_quantizer(bits.activation_bits)
    return QuantizedLayer(layer, weights, inputs)


def share_input_quantizer(layers: list[nn.Module]) -> None:
    """Gives layers that read one tensor the input quantizer of the one with the most bits.

    Integers of two grids can be neither concatenated nor computed from one another exactly.
    """
    quantized = [layer for layer in layers if isinstance(layer, QuantizedLayer)]
    quantizers = [layer.input_quantizer for layer in quantized]
    finest = None
    if None not in quantizers:
        finest = max((q for q in quantizers if q), key=lambda quantizer: quantizer.bits)
    for layer in quantized:
        layer.input_quantizer = finest


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Sets the steps of a prepared model to the least squared error; images calibrate the inputs.

    Layer by layer: each reads what the quantized layers before it compute from images (B,3,H,W).
    """
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    for layer in layers:
        layer.calibrate_weight()
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: layer.calibrate_inputs(inputs[0]))
        for layer in layers
    ]
    training = model.training
    model.eval()(images)
    model.train(training)
    for hook in hooks:
        hook.remove()
