"""Mixed precision: allocates bit-widths to layers from a mean and their sensitivities."""

from collections.abc import Mapping, Sequence

from trainables.core.config_base import FrozenConfig

CHOICES = (2, 3, 4, 5, 6, 8)
"""Bit-widths that a layer may get."""

Losses = Mapping[str, Mapping[int, float]]
"""By layer and bit-width, the loss when only this layer is quantized."""


class Sensitivity(FrozenConfig):
    """The sensitivity of each layer of a full-precision student to one quantizer.

    Losses are Kullback-Leibler divergences from its own predictions, nats a pixel. `num_weights`
    and `num_inputs`, the latter of one image, are numbers of elements. Layers that read the same
    tensor share a grid: `readers` lists them by the first, which `inputs` and `num_inputs` name.
    Those that read what is added are not among these, since their inputs have `SAFE_BITS`.
    """

    weights: dict[str, dict[int, float]]
    inputs: dict[str, dict[int, float]]
    num_weights: dict[str, int]
    num_inputs: dict[str, int]
    readers: dict[str, tuple[str, ...]]


def uniform_minimum_sensitivity(layers: Sequence[str]) -> Sensitivity:
    """A placeholder for a student that was not measured: every layer gets the fewest bits."""
    losses = {layer: dict.fromkeys(CHOICES, 0.0) for layer in layers}
    sizes = dict.fromkeys(layers, 1)
    return Sensitivity(
        weights=losses,
        inputs=losses,
        num_weights=sizes,
        num_inputs=sizes,
        readers={layer: (layer,) for layer in layers},
    )


def offset_bits(bits: int, places: int) -> int:
    """The bit-width that is `places` choices above `bits`, within the range of choices."""
    return CHOICES[min(max(CHOICES.index(bits) + places, 0), len(CHOICES) - 1)]


def allocate(losses: Losses, sizes: Mapping[str, int], mean_bits: float) -> dict[str, int]:
    """Bits of each layer, at most `mean_bits` on average, allocated greedily.

    All layers start with the fewest bits; each step is the increase that reduces the loss most per
    additional bit. Except for the last step, this is the solution of the linear relaxation of the
    integer programme of HAWQ-V3 (Yao et al. 2021, arXiv 2011.10680).
    """
    bits = dict.fromkeys(losses, CHOICES[0])
    left = mean_bits * sum(sizes[layer] for layer in losses) - sum(
        CHOICES[0] * sizes[layer] for layer in losses
    )
    while True:
        raises = {
            (layer, more): (losses[layer][bits[layer]] - losses[layer][more]) / price
            for layer in losses
            for more in CHOICES
            if more > bits[layer] and (price := (more - bits[layer]) * sizes[layer]) <= left
        }
        best = max(raises, key=lambda step: raises[step], default=None)
        if best is None or raises[best] <= 0:
            return bits
        layer, more = best
        left -= (more - bits[layer]) * sizes[layer]
        bits[layer] = more
