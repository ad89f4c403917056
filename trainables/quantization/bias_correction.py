"""Empirical bias correction (Nagel et al. 2019, arXiv 1906.04721, appendix D)."""

import torch
from torch import Tensor, nn

from trainables.quantization.graph import find_foldable
from trainables.quantization.layers import QuantizableLayer, apply_layer
from trainables.quantization.paired_forward import paired_layer_inputs


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
    norms = dict(find_foldable(model))
    for pair in paired_layer_inputs(reference, model.eval(), images):
        outputs = apply_layer(pair.layer, pair.inputs, pair.layer.weight)
        shift = channel_means(pair.layer, pair.quantized(pair.quantized_inputs) - outputs)
        if pair.name in norms:
            norm = model.get_submodule(norms[pair.name])
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            norm.running_mean += shift
        elif pair.quantized.layer.bias is not None:
            pair.quantized.layer.bias -= shift
    model.train(training)


def channel_means(layer: QuantizableLayer, outputs: Tensor) -> Tensor:
    axis = -1 if isinstance(layer, nn.Linear) else 1
    return outputs.movedim(axis, 0).flatten(1).mean(1)
