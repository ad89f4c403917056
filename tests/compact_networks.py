"""What a compact model file keeps of a network, computed without a file."""

import torch
from torch import nn

from trainables.models.model_file import short_tensors, shorten
from trainables.quantization.convert import ConvertedLayer, convert, round_outputs
from trainables.quantization.integer_bias import round_biases


@torch.no_grad()
def compacted(network: nn.Module) -> nn.Module:
    """The converted network with steps and biases of 16 bits, and biases that integers add."""
    converted = convert(network)
    for layer in converted.modules():
        if isinstance(layer, ConvertedLayer) and layer.codes is not None:
            for values in short_tensors(layer):
                shares, largest = shorten(values)
                values.copy_(shares.float() * largest)
            layer.multiply()
    round_biases(converted)
    round_outputs(converted)
    return converted
