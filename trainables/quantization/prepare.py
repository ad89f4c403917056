"""Prepares a full-precision network for training with quantized weights and activations."""

from collections import defaultdict
from collections.abc import Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from trainables.quantization.additions import named_additions, quantize_additions
from trainables.quantization.bits import FULL_PRECISION, SAFE_BITS, LayerBits
from trainables.quantization.graph import (
    find_first,
    find_first_and_last,
    find_input_groups,
    replace_module,
    trace,
)
from trainables.quantization.layers import (
    QuantizableLayer,
    QuantizedAddition,
    QuantizedLayer,
    is_quantizable,
    step_shape,
)
from trainables.quantization.quantizers.base import Quantizer
from trainables.quantization.quantizers.fake_quantizer import representatives


def quantizable_names(model: nn.Module) -> list[str]:
    """Names of the layers that can be quantized, in the order of registration."""
    return [name for name, module in model.named_modules() if is_quantizable(module)]


class LayerRoles(NamedTuple):
    """What decides the bit-widths of the layers of an unprepared network.

    Attributes:
        names: of all layers that can be quantized, in the order of registration.
        first: names of the first layers of the graph, which read images.
        ends: the same with those of the last layers.
        additions: names that the additions of feature maps get, in the order of execution.
        input_groups: names of layers and additions that read the same tensor.
    """

    names: Sequence[str]
    first: Set[str]
    ends: Set[str]
    additions: Sequence[str]
    input_groups: Sequence[tuple[str, ...]]


def prepare(
    model: nn.Module,
    quantizer: Quantizer,
    with_additions: bool = True,
    roles: LayerRoles | None = None,
) -> nn.Module:
    """Adds quantizers to every convolution, linear layer and addition of `model`, in place.

    The first and the last layers of the graph get 8 bits at least. Weight steps are approximate
    until `calibrate` sets all steps. The optimizer must be built afterwards. `with_additions` is
    False for networks whose additions were computed on floats by an earlier version. `roles` are
    those of the model's layers; where they are None, it is traced and `with_additions` counts.

    Raises:
        ValueError: `quantizer.layers` names a layer that `model` does not have, or the network
            cannot be traced.
    """
    roles = roles or find_layer_roles(model, with_additions=with_additions)
    bits = layer_bits(roles, quantizer)
    for name in roles.names:
        layer = model.get_submodule(name)
        assert is_quantizable(layer)
        replace_module(
            model, name, quantize_layer(layer, quantizer, bits[name], name in roles.first)
        )
    quantize_additions(
        model,
        [
            None
            if bits[name].activation_bits == FULL_PRECISION
            else quantizer.build_input_quantizer(bits[name].activation_bits)
            for name in roles.additions
        ],
    )
    for group in roles.input_groups:
        if bits[group[0]].activation_bits == FULL_PRECISION:
            continue
        first, *others = [model.get_submodule(name) for name in group]
        for other in others:
            other.input_quantizer = first.input_quantizer
    return model


def find_layer_roles(
    model: nn.Module, graph: fx.Graph | None = None, with_additions: bool = True
) -> LayerRoles:
    """The roles of a network's layers; `graph` is that of the model, traced where it is None.

    Raises:
        ValueError: the network cannot be traced.
    """
    graph = graph or trace(model)
    additions = named_additions(model, graph) if with_additions else {}
    return LayerRoles(
        quantizable_names(model),
        find_first(model, graph),
        find_first_and_last(model, graph),
        list(additions.values()),
        find_input_groups(model, graph, additions),
    )


def layer_bits(roles: LayerRoles, quantizer: Quantizer) -> dict[str, LayerBits]:
    """The bit-widths of each layer and addition by its name.

    Layers that read one tensor share the most bits that one of them gets for it: integers of two
    grids can be neither concatenated, nor added, nor computed from one another exactly. What is
    added gets `SAFE_BITS` at least, since the errors of a chain of additions add up.

    Raises:
        ValueError: `quantizer.layers` or a group names a layer that there is not.
    """
    if unknown := sorted(set(quantizer.layers) - set(roles.names)):
        raise ValueError(
            f"quantizer.layers must name layers of the model, but got {unknown[0]!r}; "
            f"it has {', '.join(roles.names)}"
        )
    uniform = LayerBits(
        weight_bits=quantizer.weight_bits, activation_bits=quantizer.activation_bits
    )
    at_ends = LayerBits(
        weight_bits=max(SAFE_BITS, quantizer.weight_bits),
        activation_bits=max(SAFE_BITS, quantizer.activation_bits),
    )
    bits = {
        name: quantizer.layers.get(name, at_ends if name in roles.ends else uniform)
        for name in roles.names
    }
    bits |= dict.fromkeys(roles.additions, at_ends.replace(weight_bits=FULL_PRECISION))
    for group in roles.input_groups:
        if unknown := sorted(set(group) - set(bits)):
            raise ValueError(f"input groups must name layers of the model, but got {unknown[0]!r}")
        layers = [name for name in group if name not in roles.additions]
        most = max(bits[name].activation_bits for name in layers or group)
        if len(layers) < len(group):
            most = max(SAFE_BITS, most)
        fewer = [name for name in group if bits[name].activation_bits != most]
        bits |= {name: bits[name].replace(activation_bits=most) for name in fewer}
    return bits


def quantize_layer(
    layer: QuantizableLayer, quantizer: Quantizer, bits: LayerBits, reads_images: bool = False
) -> QuantizedLayer:
    """A layer with quantizers of its bit-widths, and none where these are 32."""
    weights = inputs = None
    if bits.weight_bits != FULL_PRECISION:
        weights = quantizer.build_weight_quantizer(
            bits.weight_bits, layer.weight, step_shape(layer)
        )
    if bits.activation_bits != FULL_PRECISION:
        inputs = quantizer.build_input_quantizer(bits.activation_bits)
    return QuantizedLayer(layer, weights, inputs, reads_images)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Sets the steps of a prepared model to the least squared error; images calibrate the inputs.

    Layer by layer: each reads what the quantized layers before it compute from images (B,3,H,W). A
    grid that several layers and additions read on is set for the values of all of them, again
    whenever another of them is reached.
    """
    readers = [
        module
        for module in model.modules()
        if isinstance(module, QuantizedLayer | QuantizedAddition)
    ]
    seen = defaultdict[nn.Module | None, list[Tensor]](list)

    def calibrate_inputs(reader: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(reader, QuantizedLayer | QuantizedAddition)
        if reader.input_quantizer is None:
            return
        values = seen[reader.input_quantizer]
        reader.calibrate_inputs(*inputs, earlier=values)
        values.extend(map(representatives, inputs))

    for reader in readers:
        if isinstance(reader, QuantizedLayer):
            reader.calibrate_weight()
    hooks = [reader.register_forward_pre_hook(calibrate_inputs) for reader in readers]
    training = model.training
    model.eval()(images)
    model.train(training)
    for hook in hooks:
        hook.remove()
