"""Cross-layer equalization and absorption of high biases (Nagel et al. 2019, arXiv 1906.04721).

Two layers without a branch between them compute the same when a channel is divided by a factor
behind the first and multiplied by it in the second; the factor sqrt(r1 / r2) gives both weights the
same range in that channel (section 4.1). ReLU passes any factor on. ReLU6 does so only where it
does not clip, so that a channel that is clipped on the images keeps its scale, and no other is
enlarged beyond 6. A channel that never falls below a positive constant needs no negative codes for
it: the constant moves into the second layer's bias (section 4.1.3), if that does not pad with
zeros, from which nothing was subtracted.

Parameters are rescaled, not modules exchanged: the network stays what its configuration builds. A
BatchNorm behind the first layer takes the factor in its weight and bias.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from trainables.quantization.graph import find_foldable, trace
from trainables.quantization.layers import (
    QUANTIZABLE,
    QuantizableLayer,
    is_quantizable,
    step_shape,
)

RELU, RELU6 = (0.0, math.inf), (0.0, 6.0)
BOUNDS: dict[object, tuple[float, float]] = {
    nn.ReLU: RELU,
    F.relu: RELU,
    torch.relu: RELU,
    "relu": RELU,
    nn.ReLU6: RELU6,
    F.relu6: RELU6,
}
"""By the operation, the bounds of activation functions that scaling passes through."""
MAX_SWEEPS = 40
"""Over all pairs; a layer in the middle of three belongs to two of them."""
TOLERANCE = 1e-3
"""Largest relative change of a factor in the last sweep."""


class LayerPair(NamedTuple):
    """Two layers of which the second, and nothing else, reads what the first computes.

    Attributes:
        first: the layer in front, and the BatchNorm behind it, or None.
        second: the same of the layer behind.
        bounds: of the activation function between the two.
        source: name of the module whose output the activation function reads.
    """

    first: QuantizableLayer
    first_norm: nn.BatchNorm2d | None
    second: QuantizableLayer
    second_norm: nn.BatchNorm2d | None
    bounds: tuple[float, float]
    source: str


class ChannelRange(NamedTuple):
    """The least and the greatest value (C,) of each channel."""

    low: Tensor
    high: Tensor


@torch.no_grad()
def equalize(model: nn.Module, images: Tensor) -> None:
    """Rescales the channels of a full-precision network in place; it computes what it did.

    Args:
        model: not prepared for quantization.
        images: (B,3,H,W); they show which channels ReLU6 clips, and which stay positive.

    Raises:
        ValueError: the network cannot be traced.
    """
    pairs = find_pairs(model)
    ranges = channel_ranges(model, {pair.source for pair in pairs}, images)
    for _ in range(MAX_SWEEPS):
        changes = [equalize_pair(pair, ranges[pair.source]) for pair in pairs]
        if max(changes, default=0.0) < TOLERANCE:
            break
    for pair in pairs:
        absorb_high_biases(pair, ranges[pair.source])


def find_pairs(model: nn.Module) -> list[LayerPair]:
    """The pairs of a network, in the order of its graph."""
    graph, norms = trace(model), dict(find_foldable(model))
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = Counter(node.target for node in graph.nodes)

    def module_of(node: fx.Node) -> nn.Module | None:
        return modules[str(node.target)] if node.op == "call_module" else None

    def layer_of(node: fx.Node) -> QuantizableLayer | None:
        module = module_of(node)
        return module if is_scalable(module) and calls[node.target] == 1 else None

    def norm_of(node: fx.Node) -> nn.BatchNorm2d | None:
        norm = modules.get(norms.get(str(node.target), ""))
        return norm if isinstance(norm, nn.BatchNorm2d) else None

    pairs = []
    for node in graph.nodes:
        if (first := layer_of(node)) is None:
            continue
        norm = norm_of(node)
        if norm is not None and not norm.affine:
            continue
        source = node if norm is None else next(iter(node.users))
        bounds = (-math.inf, math.inf)
        for reader in sole_readers(source):
            if (second := layer_of(reader)) is not None:
                if are_compatible(first, second):
                    name = str(source.target)
                    pairs.append(LayerPair(first, norm, second, norm_of(reader), bounds, name))
                break
            module = module_of(reader)
            operation = reader.target if module is None else type(module)
            if operation in BOUNDS:
                bounds = BOUNDS[operation]
            elif operation is not nn.Identity:
                break
    return pairs


def is_scalable(module: nn.Module | None) -> TypeGuard[QuantizableLayer]:
    """Whether it is a layer whose channels are slices of its weight."""
    return module is not None and type(module) in QUANTIZABLE and is_quantizable(module)


def are_compatible(first: QuantizableLayer, second: QuantizableLayer) -> bool:
    """Whether the channels of the first are those of the second: no axis was moved in between."""
    return isinstance(first, nn.Linear) == isinstance(second, nn.Linear)


def sole_readers(node: fx.Node) -> Iterator[fx.Node]:
    """The reader of a node, the reader of that one, and so on, as long as there is one only."""
    while len(node.users) == 1:
        (reader,) = node.users
        if len(reader.all_input_nodes) != 1:
            return
        yield reader
        node = reader


def channel_ranges(
    model: nn.Module, names: Iterable[str], images: Tensor
) -> dict[str, ChannelRange]:
    """The ranges of the outputs of modules on images."""
    ranges: dict[str, ChannelRange] = {}

    def record(name: str, module: nn.Module, outputs: Tensor) -> None:
        values = outputs.movedim(channel_axis(module), 0).flatten(1)
        ranges[name] = ChannelRange(values.amin(1), values.amax(1))

    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, _, outputs, name=name: record(name, module, outputs)
        )
        for name in names
    ]
    training = model.training
    model.eval()(images)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return ranges


def channel_axis(module: nn.Module) -> int:
    """The axis of the channels in a layer's outputs."""
    return -1 if isinstance(module, nn.Linear) else 1


def equalize_pair(pair: LayerPair, outputs: ChannelRange) -> float:
    """Equalizes the weights' ranges of a pair and returns the largest change, a logarithm.

    `outputs`, the range that the activation function reads, is rescaled with the weights.
    """
    first_range = output_ranges(pair.first) * gain(pair.first_norm).to(pair.first.weight)
    second = by_group(pair.second)
    second_gain = gain(pair.second_norm).to(second).expand(second.shape[:2].numel())
    gained = second * second_gain.view(*second.shape[:2], 1, 1)
    second_range = gained.abs().amax((1, 3)).flatten()
    is_used = (first_range > 0) & (second_range > 0)
    factor = torch.where(is_used, (first_range / second_range).sqrt(), 1.0)
    limit = pair.bounds[1]
    if math.isfinite(limit):
        factor = torch.where(outputs.high > limit, 1.0, factor.maximum(outputs.high / limit))
    scale_outputs(pair, 1 / factor)
    scale_inputs(pair.second, factor)
    outputs.low.div_(factor)
    outputs.high.div_(factor)
    return float(factor.log().abs().max())


def absorb_high_biases(pair: LayerPair, outputs: ChannelRange) -> None:
    """Moves what all values of a channel exceed from the first layer's bias to the second's.

    Not where the activation function clips above, or where one of the two has no bias.
    """
    shifted = pair.first.bias if pair.first_norm is None else pair.first_norm.bias
    has_bias = pair.second.bias is not None or pair.second_norm is not None
    if shifted is None or not has_bias or pair.bounds[0] != 0 or pads_with_zeros(pair.second):
        return
    excess = outputs.low.clamp(min=0).masked_fill(outputs.high > pair.bounds[1], 0)
    second = by_group(pair.second)
    constant = (second.sum(3) @ excess.view(second.shape[0], -1, 1)).flatten()
    shifted -= excess
    if pair.second.bias is not None:
        pair.second.bias += constant
    elif pair.second_norm is not None and pair.second_norm.running_mean is not None:
        pair.second_norm.running_mean -= constant


def pads_with_zeros(layer: QuantizableLayer) -> bool:
    """Whether outputs at the border see less than the whole kernel."""
    if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
        return layer.padding != "valid" and (layer.padding == "same" or any(layer.padding))
    return isinstance(layer, nn.ConvTranspose2d)


def gain(norm: nn.BatchNorm2d | None) -> Tensor:
    """The absolute gain of a normalisation by channel; 1 where there is none."""
    if norm is None:
        return torch.ones(())
    assert norm.running_var is not None
    deviation = (norm.running_var + norm.eps).sqrt()
    return norm.weight.abs() / deviation if norm.affine else 1 / deviation


def output_ranges(layer: QuantizableLayer) -> Tensor:
    """The largest absolute weight of each output channel."""
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    return layer.weight.detach().abs().movedim(axis, 0).flatten(1).amax(1)


def by_group(layer: QuantizableLayer) -> Tensor:
    """The weight as (groups, output channels of a group, input channels of a group, kernel)."""
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        return weight.transpose(0, 1).flatten(2).unsqueeze(0)
    groups = getattr(layer, "groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def scale_outputs(pair: LayerPair, factor: Tensor) -> None:
    """Multiplies what the first layer of a pair gives to the activation function."""
    scaled = [pair.first.bias]
    if pair.first_norm is not None:
        scaled = [pair.first_norm.weight, pair.first_norm.bias]
    else:
        pair.first.weight.mul_(factor.view(step_shape(pair.first)))
    for parameter in scaled:
        if parameter is not None:
            parameter.mul_(factor)


def scale_inputs(layer: QuantizableLayer, factor: Tensor) -> None:
    """Multiplies the weights of each input channel."""
    weight = layer.weight
    if isinstance(layer, nn.ConvTranspose2d):
        weight.mul_(factor.view(-1, 1, 1, 1))
        return
    groups = getattr(layer, "groups", 1)
    rows = factor.view(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
    weight.mul_(rows.view(*rows.shape, *[1] * (weight.dim() - 2)))
