"""Adaptive rounding, AdaRound (Nagel et al. 2020, arXiv 2004.10568).

Whether each weight is rounded down or up is learned layer by layer, so that the layer's output in
the quantized network is that of the full-precision one (the asymmetric reconstruction of section
3.3, before the activation function). A layer's output is linear in its weights, so that its squared
error over all positions of all images is a quadratic function with few coefficients. These are
computed once; the optimisation then costs the same for any number of images, and draws nothing at
random.

Shape suffixes: B images, P positions of the output, G groups, O output channels of a group, D
weights of an output channel.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trainables.core.progress import ProgressReporter
from trainables.quantization.bias_correction import correct_bias, shifted_tensors
from trainables.quantization.layers import QuantizableLayer, QuantizedLayer, apply_layer
from trainables.quantization.paired_forward import LayerInputs, paired_layer_inputs

NUM_STEPS = 1000
LEARNING_RATE = 1e-2
"""Of Adam, as in the authors' code."""
ZETA, GAMMA = 1.1, -0.1
"""The range to which the sigmoid is stretched before it is clipped to [0, 1] (equation 23)."""
WARM_UP = 0.2
"""Share of the steps without the regulariser."""
FIRST_BETA, LAST_BETA = 20.0, 2.0
"""Exponent of the regulariser, annealed from the first to the last (equation 24)."""
REGULARISER_WEIGHT = 0.1
"""Relative to a squared error that is 1 a weight where all are rounded to nearest."""
MARGIN = 0.09
"""Least distance of a sigmoid from 0 and 1 at the start: further out, h(V) has no gradient."""
MAX_WEIGHTS = 4608
"""Of an output channel: a 3x3 convolution of 512 channels. The quadratic form holds its square."""

logger = logging.getLogger(__name__)


class OutputError(NamedTuple):
    """The squared error of each output channel by the change d of its weights: d A d + 2 g d + c.

    Attributes:
        quadratic: A, (G,D,D).
        linear: g, (G,O,D).
        constant: c, (G,O), the error of unchanged weights.
    """

    quadratic: Tensor
    linear: Tensor
    constant: Tensor

    def __call__(self, change_GOD: Tensor) -> Tensor:
        """The error (G,O)."""
        return self.curvature(change_GOD) + 2 * (self.linear * change_GOD).sum(-1) + self.constant

    def curvature(self, change_GOD: Tensor) -> Tensor:
        """The part of the error (G,O) that is quadratic."""
        return ((change_GOD @ self.quadratic) * change_GOD).sum(-1)


def learn_rounding(
    model: nn.Module,
    reference: nn.Module,
    images: Tensor,
    corrects_biases: bool = False,
    on_layer_end: Callable[[], None] = lambda: None,
) -> None:
    """Rounds the weights of a calibrated network, in place, to what its layers need.

    Every weight becomes a point of its grid, the one below or above it; the steps stay.

    Args:
        model: prepared and calibrated.
        reference: the same network before it was prepared, in evaluation mode.
        images: (B,3,H,W).
        corrects_biases: whether each layer's bias is corrected once its weights are rounded, so
            that the next layers see it. To correct them afterwards would undo what later layers
            have made up for.
        on_layer_end: is called after each layer.
    """
    training = model.training
    num_layers = sum(isinstance(module, QuantizedLayer) for module in model.modules())
    progress = ProgressReporter("learning the rounding of weights", "layer", num_layers)
    shifts = shifted_tensors(model) if corrects_biases else {}
    with torch.no_grad():
        progress.update(0)
        for index, pair in enumerate(paired_layer_inputs(reference, model.eval(), images)):
            shifted = shifts.get(pair.name)
            if pair.quantized.weight_quantizer is not None:
                round_layer(pair, is_centred=shifted is not None)
            if shifted is not None:
                correct_bias(pair, shifted)
            progress.update(index + 1)
            on_layer_end()
    model.train(training)


def round_layer(pair: LayerInputs, is_centred: bool = False) -> None:
    """Sets the weights of the quantized layer to the rounding of the least output error.

    If `is_centred`, the mean error of each output channel does not count.
    """
    layer, quantizer = pair.quantized.layer, pair.quantized.weight_quantizer
    assert quantizer is not None
    weight_GOD = by_output_channel(layer, layer.weight)
    if (size := weight_GOD.shape[-1]) > MAX_WEIGHTS:
        logger.warning(
            "%s stays rounded to nearest: it has %d weights an output channel, more than %d",
            pair.name,
            size,
            MAX_WEIGHTS,
        )
        return
    nearest = quantizer.codes(layer.weight) * quantizer.step
    points = (*quantizer.neighbours(layer.weight), nearest)
    below, above, nearest = (by_output_channel(layer, values) for values in points)
    error = output_error(pair, is_centred)
    rounded_GOD = choose_points(weight_GOD, below, above, nearest, error)
    layer.weight.copy_(from_output_channels(layer, rounded_GOD))


def output_error(pair: LayerInputs, is_centred: bool = False) -> OutputError:
    """The error of a layer's outputs, summed over all positions of all images."""
    layer, quantizer = pair.quantized.layer, pair.quantized.input_quantizer
    sums: list[Tensor] = []
    for image in range(len(pair.inputs)):
        inputs, read = pair.inputs[image, None], pair.quantized_inputs[image, None]
        if quantizer is not None:
            read = quantizer(read)
        difference = apply_layer(layer, read, layer.weight) - pair.layer(inputs)
        x_GDP = patches(layer, read)
        residual_GOP = channels_first(layer, difference).reshape(len(x_GDP), -1, x_GDP.shape[-1])
        terms = [
            x_GDP @ x_GDP.mT,
            residual_GOP @ x_GDP.mT,
            residual_GOP.square().sum(-1),
            x_GDP.sum(-1),
            residual_GOP.sum(-1),
            x_GDP.new_tensor(x_GDP.shape[-1]),
        ]
        sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
    quadratic, linear, constant, x_GD, residual_GO, count = sums
    if is_centred:
        quadratic = quadratic - x_GD[:, :, None] * x_GD[:, None] / count
        linear = linear - residual_GO[:, :, None] * x_GD[:, None] / count
        constant = constant - residual_GO.square() / count
    return OutputError(quadratic, linear, constant)


def choose_points(
    weight_GOD: Tensor,
    below_GOD: Tensor,
    above_GOD: Tensor,
    nearest_GOD: Tensor,
    error: OutputError,
) -> Tensor:
    """Weights (G,O,D) on their grids, each at the point below or above it.

    A channel for which rounding to nearest has the smaller error is rounded to nearest.
    """
    gap_GOD = above_GOD - below_GOD
    to_nearest = error.curvature(nearest_GOD - weight_GOD).clamp(min=1e-12)
    scale = weight_GOD.shape[-1] / to_nearest
    offset = (weight_GOD.clamp(below_GOD, above_GOD) - below_GOD) / gap_GOD.clamp(min=1e-12)
    share = ((offset - GAMMA) / (ZETA - GAMMA)).clamp(MARGIN, 1 - MARGIN)
    v = share.logit().requires_grad_()
    optimizer = torch.optim.Adam([v], LEARNING_RATE)
    warm_up = round(WARM_UP * NUM_STEPS)
    for step in range(NUM_STEPS):
        with torch.enable_grad():
            up = rectified_sigmoid(v)
            loss = (error(below_GOD + up * gap_GOD - weight_GOD) * scale).sum()
            if step >= warm_up:
                progress = (step - warm_up) / (NUM_STEPS - warm_up)
                beta = FIRST_BETA + progress * (LAST_BETA - FIRST_BETA)
                loss = loss + REGULARISER_WEIGHT * (1 - (2 * up - 1).abs().pow(beta)).sum()
        (v.grad,) = torch.autograd.grad(loss, v)
        optimizer.step()
    learned_GOD = torch.where(v.detach() >= 0, above_GOD, below_GOD)
    is_better = error(learned_GOD - weight_GOD) < error(nearest_GOD - weight_GOD)
    return torch.where(is_better.unsqueeze(-1), learned_GOD, nearest_GOD)


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V) of equation 23, in [0, 1]."""
    return (v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def patches(layer: QuantizableLayer, inputs: Tensor) -> Tensor:
    """The values (G,D,P) that each weight of an output channel multiplies, by position.

    The layer itself computes them, with weights that each pass one value through: padding, strides
    and dilation are its own.
    """
    shape = by_output_channel(layer, layer.weight).shape
    groups, size = shape[0], shape[-1]
    eye = torch.eye(size, device=inputs.device, dtype=inputs.dtype).expand(groups, size, size)
    parameters = {"weight": from_output_channels(layer, eye)}
    if layer.bias is not None:
        parameters["bias"] = inputs.new_zeros(groups * size)
    passed: Tensor = functional_call(layer, parameters, (inputs,))
    return channels_first(layer, passed).reshape(groups, size, -1)


def channels_first(layer: QuantizableLayer, outputs: Tensor) -> Tensor:
    """A layer's output as (channels, positions)."""
    axis = -1 if isinstance(layer, nn.Linear) else 1
    return outputs.movedim(axis, 0).flatten(1)


def by_output_channel(layer: QuantizableLayer, weight: Tensor) -> Tensor:
    """A layer's weight as (G,O,D)."""
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    groups = getattr(layer, "groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def from_output_channels(layer: QuantizableLayer, weight_GOD: Tensor) -> Tensor:
    """The inverse of `by_output_channel`, for any number of output channels."""
    weight = weight_GOD.flatten(0, 1)
    if isinstance(layer, nn.ConvTranspose2d):
        before, _, *kernel = layer.weight.shape
        return weight.reshape(-1, before, *kernel).transpose(0, 1)
    return weight.reshape(-1, *layer.weight.shape[1:])
