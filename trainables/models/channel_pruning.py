"""Structured pruning: channels of a traced network are removed, and all layers become narrower.

Of each group of channels (models/channel_groups.py) the same share is kept, those of the greatest
importance. How many are kept depends on the graph alone, so that the size, the multiply-accumulates
and the memory of a pruned network are known before its weights are read; which are kept depends on
the weights.

The importance of a channel in a layer is the L1 norm of the weights that compute it (Li et al.
2017, arXiv 1608.08710), divided by the mean of all channels of that layer. That of a channel that
several layers compute, as those of residual blocks, is the mean over these layers. The scales of
BatchNorm (Liu et al. 2017, arXiv 1708.06519) are not used: they say what is important only after a
training that made them sparse, and misled without one (docs/log.md).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from trainables.models.channel_groups import (
    BY_CHANNEL,
    ChannelGroups,
    Place,
    find_channel_groups,
)
from trainables.models.network_graph import LayerSpec, NetworkGraph, decode_graph

PREFIX = "network."
"""Of the names of a `GraphNetwork`'s tensors, before those of the network that was traced."""
Indices = Mapping[Place, list[int]]
"""For each side of each layer, and each tensor, which of its channels are kept, in their order."""


def count_kept(share: float, num_channels: int) -> int:
    """How many channels of a group are kept; one that is alone always is."""
    return round(share * num_channels) if num_channels > 1 else 1


@lru_cache(maxsize=64)
def prune_graph(encoded: str, keep: float) -> NetworkGraph:
    """The graph with the share `keep` of each group of channels.

    Args:
        encoded: the whole graph.

    Raises:
        ValueError: a layer would be left without channels.
    """
    graph, found = decode_graph(encoded), find_channel_groups(encoded)
    widths = {place: len(kept) for place, kept in select(found, keep, {}).items()}
    layers = {name: narrow_layer(name, spec, widths, found) for name, spec in graph.layers.items()}
    tensors = {
        name: spec.replace(shape=[spec.shape[0], widths[name, "each"], *spec.shape[2:]])
        if (name, "each") in widths
        else spec
        for name, spec in graph.tensors.items()
    }
    return graph.replace(layers=layers, tensors=tensors)


def narrow_layer(
    name: str, spec: LayerSpec, widths: Mapping[Place, int], found: ChannelGroups
) -> LayerSpec:
    """A layer with as many channels as are kept."""
    changes: dict[str, int] = {}
    if (name, "each") in widths:
        changes[BY_CHANNEL[spec.type]] = widths[name, "each"]
    if (name, "in") in widths:
        of = "features" if spec.type == "Linear" else "channels"
        changes[f"in_{of}"], changes[f"out_{of}"] = widths[name, "in"], widths[name, "out"]
    if name in found.depthwise:
        changes["groups"] = widths[name, "in"]
    return spec.replace(options={**spec.options, **changes})


def prune_weights(encoded: str, keep: float, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the channels that are kept, for a network of `prune_graph`.

    Args:
        encoded: the whole graph.
        weights: the state dict of the whole network.
    """
    found = find_channel_groups(encoded)
    kept = select(found, keep, find_importance(found, weights))
    pruned = dict(weights)
    for name, side in found.places:
        prefix = f"{PREFIX}{name}"
        if side == "out":
            pruned[f"{prefix}.weight"] = slice_weight(
                name, weights[f"{prefix}.weight"], kept, found
            )
            if (bias := weights.get(f"{prefix}.bias")) is not None:
                pruned[f"{prefix}.bias"] = bias[kept[name, "out"]]
        elif prefix in weights:
            pruned[prefix] = weights[prefix][:, kept[name, "each"]]
        elif side == "each":
            own = {key: t for key, t in weights.items() if key.startswith(f"{prefix}.")}
            pruned |= {key: t[kept[name, "each"]] for key, t in own.items() if t.ndim == 1}
    return pruned


def select(found: ChannelGroups, keep: float, importance: Mapping[int, float]) -> Indices:
    """The channels to keep: of each group the most important, of equal ones the first.

    Raises:
        ValueError: a layer would be left without channels.
    """
    removed: set[int] = set()
    for group in found.groups:
        by_importance = sorted(group.channels, key=lambda each: -importance.get(each, 0.0))
        removed.update(by_importance[count_kept(keep, len(by_importance)) :])
    kept = {
        place: [index for index, channel in enumerate(numbers) if channel not in removed]
        for place, numbers in found.places.items()
    }
    for (name, side), indices in kept.items():
        if not indices:
            raise ValueError(
                f"the share of channels to keep must leave some of the "
                f"{len(found.places[name, side])} channels of layer {name}, but got {keep:g}"
            )
    return kept


def find_importance(found: ChannelGroups, weights: Mapping[str, Tensor]) -> dict[int, float]:
    """The importance of each channel, by its number."""
    by_channel: dict[int, list[float]] = defaultdict(list)
    for (name, side), numbers in found.places.items():
        if side != "out":
            continue
        norms = weight_norms(name, weights[f"{PREFIX}{name}.weight"].double(), found)
        norms = norms / norms.mean().clamp(min=torch.finfo(norms.dtype).tiny)
        for channel, norm in zip(numbers, norms.tolist(), strict=True):
            by_channel[channel].append(norm)
    return {channel: sum(norms) / len(norms) for channel, norms in by_channel.items()}


def weight_norms(name: str, weight: Tensor, found: ChannelGroups) -> Tensor:
    """The L1 norm of the weights of each output channel of a layer."""
    if name not in found.transposed:
        return weight.abs().flatten(1).sum(1)
    by_group = weight.abs().chunk(found.grouped.get(name, 1))
    return torch.cat([each.flatten(2).sum((0, 2)) for each in by_group])


def slice_weight(name: str, weight: Tensor, kept: Indices, found: ChannelGroups) -> Tensor:
    """The weights between the channels that are kept of a convolution or of a linear layer."""
    rows, columns = kept[name, "out"], kept[name, "in"]
    num_rows, num_columns = len(found.places[name, "out"]), len(found.places[name, "in"])
    if name in found.transposed:
        rows, columns, num_rows, num_columns = columns, rows, num_columns, num_rows
    if name in found.depthwise:
        return weight[rows]
    num_groups = found.grouped.get(name, 1)
    parts = [
        weight[within(rows, num_rows // num_groups, group, start=True)][
            :, within(columns, num_columns // num_groups, group)
        ]
        for group in range(num_groups)
    ]
    return torch.cat(parts)


def within(indices: Sequence[int], length: int, part: int, start: bool = False) -> list[int]:
    """Of some indices those of a part of a length, counted from its start or from that of all."""
    offset = 0 if start else part * length
    return [index - offset for index in indices if index // length == part]
