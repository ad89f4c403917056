"""Predicts the costs of a student before it is trained."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from torch import nn

from trainables.config import TrialConfig
from trainables.models.base import Network, StudentNetwork
from trainables.models.configs import NetworkConfig, StudentConfig
from trainables.models.model_file import (
    COMPACT,
    SHORT_BYTES,
    ModelSpec,
    file_length,
    float_tensors,
)
from trainables.models.outline import build_outline
from trainables.quantization.activation_memory import (
    StoredTensor,
    find_stored_tensors,
    peak_bytes,
)
from trainables.quantization.bits import FULL_PRECISION, LayerBits, packed_length
from trainables.quantization.layers import count_steps, is_quantizable
from trainables.quantization.prepare import LayerRoles, layer_bits
from trainables.quantization.shapes import Shapes
from trainables.training.structure import Structure, find_structure

UNQUANTIZED = LayerBits(weight_bits=FULL_PRECISION, activation_bits=FULL_PRECISION)


def model_spec(config: TrialConfig, num_classes: int) -> ModelSpec:
    """The spec of the finished student."""
    return ModelSpec(
        model=config.student,
        num_classes=num_classes,
        quantizer=config.quantizer,
        with_additions=bool(config.quantizer and find_roles(config.student, num_classes).additions),
        format=COMPACT if config.quantizer else 2,
    )


def predict_size_bytes(config: TrialConfig, num_classes: int) -> int:
    """The exact length of the model file, which does not depend on the training's outcome."""
    return _file_length(model_spec(config, num_classes).model_dump_json())


@lru_cache(maxsize=4096)
def _file_length(spec_json: str) -> int:
    spec = ModelSpec.model_validate_json(spec_json)
    stored = stored_values(spec.model, spec.num_classes)
    bits = layer_bits(stored.roles, spec.quantizer) if spec.quantizer else {}
    num_code_bytes, num_floats = 0, stored.num_others
    for layer in stored.layers:
        of_layer = bits.get(layer.name, UNQUANTIZED)
        num_biases = layer.num_channels if layer.has_bias else 0
        if spec.quantizer is None or of_layer.weight_bits == FULL_PRECISION:
            num_floats += layer.num_weights + num_biases
        else:
            num_code_bytes += packed_length(layer.num_weights, of_layer.weight_bits)
            num_code_bytes += spec.quantizer.num_extra_bytes(
                of_layer.weight_bits, layer.num_weights, layer.num_channels
            )
            num_code_bytes += SHORT_BYTES * (layer.num_channels + num_biases)  # steps and biases
            num_floats += 1 + layer.has_bias  # the largest of each
    of_grids = [bits[name] for name in (*stored.roles.names, *stored.roles.additions) if bits]
    # the step of each, and the share of negative integers
    num_floats += 2 * sum(each.activation_bits != FULL_PRECISION for each in of_grids)
    return file_length(num_code_bytes, num_floats, spec)


def mean_bits(config: TrialConfig, num_classes: int) -> tuple[float, float]:
    """The mean bits of all weights that can be quantized, and of the inputs of their layers."""
    stored = stored_values(config.student, num_classes)
    bits = layer_bits(stored.roles, config.quantizer) if config.quantizer else {}
    layers = [(layer, bits.get(layer.name, UNQUANTIZED)) for layer in stored.layers]
    total = sum(layer.num_weights for layer, _ in layers)
    weights = sum(own.weight_bits * layer.num_weights for layer, own in layers) / total
    return weights, sum(own.activation_bits for _, own in layers) / len(layers)


class StoredLayer(NamedTuple):
    """A layer whose weights can be quantized, as the model file holds it."""

    name: str
    num_weights: int
    num_channels: int
    has_bias: bool


class StoredValues(NamedTuple):
    """What the model file of a network holds: layers, and `num_others` floats besides."""

    layers: Sequence[StoredLayer]
    num_others: int
    roles: LayerRoles


@lru_cache(maxsize=1024)
def stored_values(network: NetworkConfig, num_classes: int) -> StoredValues:
    """What the model file of a folded network holds, before it is quantized."""
    _, modules, structure = traced_network(network, num_classes)
    folded_norms = set(structure.foldable.values())
    layers, num_others = [], 0
    for name in structure.with_tensors:
        module = modules[name]
        if is_quantizable(module):
            num_channels = count_steps(module)
            has_bias = module.bias is not None or name in structure.foldable
            layers.append(StoredLayer(name, module.weight.numel(), num_channels, has_bias))
        elif name not in folded_norms:
            num_others += sum(tensor.numel() for tensor in float_tensors(module))
    return StoredValues(layers, num_others, structure.roles)


def find_roles(network: NetworkConfig, num_classes: int) -> LayerRoles:
    """The roles of the layers of a network."""
    return traced_network(network, num_classes).structure.roles


class TracedNetwork(NamedTuple):
    """The outline of a network in either mode, its modules by their names, and its structure."""

    model: Network
    modules: Mapping[str, nn.Module]
    structure: Structure


@lru_cache(maxsize=64)
def traced_network(network: NetworkConfig, num_classes: int) -> TracedNetwork:
    """The network of a configuration; it is cached and must not be changed."""
    model = build_outline(network, num_classes)
    return TracedNetwork(model, dict(model.named_modules()), find_structure(model))


def meta_network(student: StudentConfig, num_classes: int) -> StudentNetwork:
    """The outline of a student in either mode; it is cached and must not be changed."""
    model = traced_network(student, num_classes).model
    assert isinstance(model, StudentNetwork)
    return model


def count_params(student: StudentConfig, num_classes: int) -> int:
    """Weights and biases of the full-precision student, without quantization steps."""
    _, modules, structure = traced_network(student, num_classes)
    holders = [modules[name] for name in set(structure.with_tensors)]
    return sum(p.numel() for module in holders for p in module.parameters(recurse=False))


class Activations(NamedTuple):
    """The multiply-accumulates of a network for one image, and the tensors that it stores."""

    macs: int
    tensors: Sequence[StoredTensor]


@lru_cache(maxsize=1024)
def activations_of(
    network: NetworkConfig, num_classes: int, height: int, width: int
) -> Activations:
    """The activations of a network for one image of `height` x `width` pixels."""
    _, modules, structure = traced_network(network, num_classes)
    operations, groups = structure.operations, structure.roles.input_groups
    shapes = Shapes(modules, operations, (1, 3, height, width))
    tensors = find_stored_tensors(
        modules, operations, shapes.num_values, groups, structure.additions
    )
    return Activations(shapes.macs, tensors)


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
