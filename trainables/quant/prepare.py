"""From a full-precision network to one that trains with quantized weights and activations."""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from trainables.frozen import Frozen
from trainables.quant.layers import OFF, QUANTIZABLE, QuantizedLayer


def check_bits(bits: int) -> int:
    if not (2 <= bits <= 8 or bits == OFF):
        raise ValueError(f"a bit-width must be 2 to 8, or 32 for off, but got {bits}")
    return bits


Bits = Annotated[int, AfterValidator(check_bits)]


class LayerBits(Frozen):
    """Bit-widths of one layer's weights and inputs."""

    weight_bits: Bits
    activation_bits: Bits


class Lsq(Frozen):
    """Learned step size quantization with a bit-width per layer.

    The first and the last layer keep at least 8 bits (Esser et al. 2019, section 3) unless
    `layers`, which maps a layer's name to its own bit-widths, says otherwise.
    """

    name: Literal["lsq"] = "lsq"
    weight_bits: Bits = 4
    activation_bits: Bits = 4
    layers: dict[str, LayerBits] = Field(default_factory=dict)


def quantizable_names(model: nn.Module) -> list[str]:
    """Names of the layers that can be quantized, in the order of registration."""
    return [name for name, module in model.named_modules() if isinstance(module, QUANTIZABLE)]


def prepare(model: nn.Module, quantizer: Lsq) -> nn.Module:
    """Puts quantizers round every convolution and linear layer of `model`, in place.

    Weight steps are rough until `calibrate` sets all. Build the optimizer afterwards.

    Raises:
        ValueError: `quantizer.layers` names a layer that `model` does not have.
    """
    names = quantizable_names(model)
    if unknown := sorted(set(quantizer.layers) - set(names)):
        raise ValueError(
            f"quantizer.layers must name layers of the model, but got {unknown[0]!r}; "
            f"it has {', '.join(names)}"
        )
    ends = {names[0], names[-1]}
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
        model.set_submodule(name, QuantizedLayer(layer, bits.weight_bits, bits.activation_bits))
    for group in getattr(model, "shared_inputs", ()):
        share_inputs([model.get_submodule(name) for name in group])
    return model


def share_inputs(layers: list[nn.Module]) -> None:
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
    """Sets the steps of a prepared model by the least squared error, those of inputs from images.

    Layer by layer, each with what the quantized ones before it make of the images (B,3,H,W).
    """
    layers = [module for module in model.modules() if isinstance(module, QuantizedLayer)]
    for layer in layers:
        layer.fit_weight()
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: layer.fit_inputs(inputs[0]))
        for layer in layers
    ]
    training = model.training
    model.eval()(images)
    model.train(training)
    for hook in hooks:
        hook.remove()
