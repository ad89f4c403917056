"""Predicts the costs of a student before it is trained."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import fx

from trainables.config import TrialConfig
from trainables.models.base import Network, StudentNetwork
from trainables.models.configs import NetworkConfig, StudentConfig
from trainables.models.model_file import ModelSpec, file_length, float_tensors, leaves
from trainables.quantization.activation_memory import (
    StoredTensor,
    find_stored_tensors,
    peak_bytes,
)
from trainables.quantization.bits import FULL_PRECISION, LayerBits, packed_length
from trainables.quantization.graph import find_foldable, trace
from trainables.quantization.layers import QUANTIZABLE, step_shape
from trainables.quantization.prepare import LayerRoles, find_layer_roles, layer_bits
from trainables.quantization.shapes import Shapes

UNQUANTIZED = LayerBits(weight_bits=FULL_PRECISION, activation_bits=FULL_PRECISION)


def model_spec(config: TrialConfig, num_classes: int) -> ModelSpec:
    """The spec of the finished student."""
    return ModelSpec(
        model=config.student,
        num_classes=num_classes,
        quantizer=config.quantizer,
        with_additions=bool(config.quantizer and find_roles(config.student, num_classes).additions),
    )


def predict_size_bytes(config: TrialConfig, num_classes: int) -> int:
    """The exact length of the model file, which does not depend on the training's outcome."""
    return _file_length(model_spec(config, num_classes).model_dump_json())


@lru_cache(maxsize=4096)
def _file_length(card_json: str) -> int:
    card = ModelSpec.model_validate_json(card_json)
    stored = stored_values(card.model, card.num_classes)
    bits = layer_bits(stored.roles, card.quantizer) if card.quantizer else {}
    num_code_bytes, num_floats = 0, stored.num_others
    for layer in stored.layers:
        of_layer = bits.get(layer.name, UNQUANTIZED)
        if of_layer.weight_bits == FULL_PRECISION:
            num_floats += layer.num_weights
        else:
            num_code_bytes += packed_length(layer.num_weights, of_layer.weight_bits)
            num_floats += layer.num_channels  # the steps
    of_grids = [bits[name] for name in (*stored.roles.names, *stored.roles.additions) if bits]
    # the step of each, and the share of negative integers
    num_floats += 2 * sum(each.activation_bits != FULL_PRECISION for each in of_grids)
    return file_length(num_code_bytes, num_floats, card)


class StoredLayer(NamedTuple):
    """A layer whose weights can be quantized, as the model file holds it."""

    name: str
    num_weights: int
    num_channels: int


class StoredValues(NamedTuple):
    """What the model file of a network holds: weights of layers, and `num_others` floats."""

    layers: Sequence[StoredLayer]
    num_others: int
    roles: LayerRoles


@lru_cache(maxsize=1024)
def stored_values(network: NetworkConfig, num_classes: int) -> StoredValues:
    """What the model file of a folded network holds, before it is quantized."""
    model, graph = traced_network(network, num_classes)
    roles = find_roles(network, num_classes)
    foldable = find_foldable(model, graph)
    folded = {model.get_submodule(layer) for layer, _ in foldable}
    norms = {model.get_submodule(norm) for _, norm in foldable}
    names = {model.get_submodule(name): name for name in roles.names}
    layers, num_others = [], 0
    for leaf in leaves(model):
        if leaf in norms:
            continue
        num_others += sum(tensor.numel() for tensor in float_tensors(leaf))
        if isinstance(leaf, QUANTIZABLE):
            num_weights, num_channels = leaf.weight.numel(), max(step_shape(leaf))
            layers.append(StoredLayer(names[leaf], num_weights, num_channels))
            num_others -= num_weights
            if leaf in folded and leaf.bias is None:
                num_others += num_channels
    return StoredValues(layers, num_others, roles)


@lru_cache(maxsize=1024)
def find_roles(network: NetworkConfig, num_classes: int) -> LayerRoles:
    """The roles of the layers of a network."""
    return find_layer_roles(*traced_network(network, num_classes))


class TracedNetwork(NamedTuple):
    """A network on the meta device, in evaluation mode, and the graph of its forward pass."""

    model: Network
    graph: fx.Graph


@lru_cache(maxsize=1024)
def traced_network(network: NetworkConfig, num_classes: int) -> TracedNetwork:
    """The network of a configuration; it is cached and must not be changed."""
    with torch.device("meta"):
        model = network.build(num_classes).eval()
    return TracedNetwork(model, trace(model))


def meta_network(student: StudentConfig, num_classes: int) -> StudentNetwork:
    """The network of a student on the meta device; it is cached and must not be changed."""
    model = traced_network(student, num_classes).model
    assert isinstance(model, StudentNetwork)
    return model


def count_params(student: StudentConfig, num_classes: int) -> int:
    """Weights and biases of the full-precision student, without quantization steps."""
    return sum(p.numel() for p in meta_network(student, num_classes).parameters())


class Activations(NamedTuple):
    """The multiply-accumulates of a network for one image, and the tensors that it stores."""

    macs: int
    tensors: Sequence[StoredTensor]


@lru_cache(maxsize=1024)
def activations_of(
    network: NetworkConfig, num_classes: int, height: int, width: int
) -> Activations:
    """The activations of a network for one image of `height` x `width` pixels."""
    model, graph = traced_network(network, num_classes)
    groups = find_roles(network, num_classes).input_groups
    shapes = Shapes(model, graph, (1, 3, height, width))
    return Activations(shapes.macs, find_stored_tensors(model, graph, shapes.num_values, groups))


def count_macs(student: NetworkConfig, num_classes: int, height: int, width: int) -> int:
    """Multiply-accumulates for one image of `height` x `width` pixels."""
    return activations_of(student, num_classes, height, width).macs


def predict_ram_bytes(config: TrialConfig, num_classes: int, height: int, width: int) -> int:
    """The peak of the bytes of activations while the finished student runs on one image.

    `height` and `width` are in pixels; quantization/activation_memory.py says what is counted.
    """
    tensors = activations_of(config.student, num_classes, height, width).tensors
    roles = find_roles(config.student, num_classes)
    return peak_bytes(tensors, layer_bits(roles, config.quantizer) if config.quantizer else {})
