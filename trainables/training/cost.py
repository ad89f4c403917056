"""Predicts the costs of a student before it is trained."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import TrialConfig
from trainables.models.base import StudentNetwork
from trainables.models.configs import NetworkConfig, StudentConfig
from trainables.models.model_file import ModelSpec, file_content, float_tensors, leaves
from trainables.quantization.bits import FULL_PRECISION, LayerBits, packed_length
from trainables.quantization.convert import convert
from trainables.quantization.layers import QUANTIZABLE, step_shape
from trainables.quantization.prepare import LayerRoles, find_layer_roles, layer_bits

UNQUANTIZED = LayerBits(weight_bits=FULL_PRECISION, activation_bits=FULL_PRECISION)


def model_spec(config: TrialConfig, num_classes: int) -> ModelSpec:
    """The spec of the finished student."""
    return ModelSpec(model=config.student, num_classes=num_classes, quantizer=config.quantizer)


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
        if of_layer.activation_bits != FULL_PRECISION:
            num_floats += 2  # the step, and whether the grid is signed
    codes, floats = np.zeros(num_code_bytes, np.uint8), np.zeros(num_floats, np.float32)
    return len(file_content(codes, floats, card))


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
    with torch.device("meta"):
        model = network.build(num_classes)
    roles = find_layer_roles(model)
    folded = convert(model)
    names = {folded.get_submodule(name): name for name in roles.names}
    layers = [
        StoredLayer(names[leaf], leaf.weight.numel(), max(step_shape(leaf)))
        for leaf in leaves(folded)
        if isinstance(leaf, QUANTIZABLE)
    ]
    num_floats = sum(tensor.numel() for leaf in leaves(folded) for tensor in float_tensors(leaf))
    return StoredValues(layers, num_floats - sum(layer.num_weights for layer in layers), roles)


@lru_cache(maxsize=1024)
def meta_network(student: StudentConfig, num_classes: int) -> StudentNetwork:
    """The network of a student on the meta device; it is cached and must not be changed."""
    with torch.device("meta"):
        return student.build(num_classes)


def count_params(student: StudentConfig, num_classes: int) -> int:
    """Weights and biases of the full-precision student, without quantization steps."""
    return sum(p.numel() for p in meta_network(student, num_classes).parameters())


@lru_cache(maxsize=1024)
def count_macs(student: NetworkConfig, num_classes: int, height: int, width: int) -> int:
    """Multiply-accumulates for one image of `height` x `width` pixels."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        student.build(num_classes).eval()(torch.empty(1, 3, height, width))
    return int(counter.get_total_flops()) // 2
