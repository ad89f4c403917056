"""Empirical bias correction (Nagel et al. 2019, arXiv 1906.04721, appendix D)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.quantization.graph import find_foldable
from trainables.quantization.layers import QuantizedLayer, apply_layer
from trainables.quantization.paired_forward import LayerInputs, paired_layer_inputs


@torch.no_grad()
def correct_biases(model: nn.Module, reference: nn.Module, images: Tensor) -> None:
    """Shifts each layer's output, in place, to the mean that it has in full precision by channel.

    Layer by layer: each reads what the corrected quantized layers before it compute. The shift goes
    into the running mean of the BatchNorm behind a layer, else into its bias; a layer with neither
    is left alone, since the format of model files allows no further bias.

    Args:
        model: prepared and calibrated.
        reference: the same network before it was prepared, in evaluation mode.
        images: (B,3,H,W).
    """
    training = model.training
    shifts = shifted_tensors(model)
    for pair in paired_layer_inputs(reference, model.eval(), images):
        if pair.name in shifts:
            correct_bias(pair, shifts[pair.name])
    model.train(training)


class ShiftedTensor(NamedTuple):
    """What shifts a layer's output by channel: `sign` times `values` (C,)."""

    values: Tensor
    sign: int


def shifted_tensors(model: nn.Module) -> dict[str, ShiftedTensor]:
    """By the names of the layers of a prepared network, what shifts their outputs, if anything."""
    found = {
        name: ShiftedTensor(module.layer.bias, 1)
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLayer) and module.layer.bias is not None
    }
    for name, norm_name in find_foldable(model):
        norm = model.get_submodule(norm_name)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        found[name] = ShiftedTensor(norm.running_mean, -1)
    return found


def correct_bias(pair: LayerInputs, shifted: ShiftedTensor) -> None:
    """Shifts the output of one layer."""
    outputs = apply_layer(pair.layer, pair.inputs, pair.layer.weight)
    error = pair.quantized(pair.quantized_inputs) - outputs
    axis = -1 if isinstance(pair.layer, nn.Linear) else 1
    shifted.values.sub_(error.movedim(axis, 0).flatten(1).mean(1), alpha=shifted.sign)
