"""What networks have in common that differ in their numbers of channels alone.

To trace a network and to read its graph takes 20 to 60 ms, and a search meets many networks of few
structures. Two networks have one structure where all attributes of their modules are equal but for
sizes. Since the graph is traced while the sizes are hidden, it cannot depend on them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor, fx, nn

from trainables.models.model_file import float_tensors, leaves
from trainables.quantization.additions import named_additions
from trainables.quantization.graph import find_foldable, is_fixed_norm, is_foldable, trace
from trainables.quantization.layers import QUANTIZABLE
from trainables.quantization.prepare import LayerRoles, find_layer_roles
from trainables.quantization.shapes import STATE, name_operations

SIZED = (*QUANTIZABLE, nn.BatchNorm2d)
"""Types of layers whose attributes and tensors are all hidden."""
SIZES = frozenset(
    ["in_channels", "out_channels", "channels", "num_features", "in_features", "out_features"]
)
"""The attributes of other modules that are hidden."""
UNREAD = SIZES | {"training"}
"""Attributes without influence, since structures are those in evaluation mode."""
PLAIN = (bool, int, float, str, type(None))
"""Types of values that describe themselves."""


class Structure(NamedTuple):
    """The forward pass of a network in evaluation mode, and what follows from it.

    Attributes:
        operations: in their order, by `name_operations`.
        roles: of the layers.
        additions: of feature maps, with the names that they get.
        foldable: names of layers, each with that of the BatchNorm that is folded into it.
        with_tensors: names of the modules that hold tensors, as often as a model file holds them.
    """

    operations: Mapping[fx.Node, str]
    roles: LayerRoles
    additions: Mapping[fx.Node, str]
    foldable: Mapping[str, str]
    with_tensors: Sequence[str]


def find_structure(model: nn.Module) -> Structure:
    """The structure of a network on the meta device; found once for all networks that share it.

    Raises:
        ValueError: the network cannot be traced.
    """
    try:
        return shared_structure(Described(describe(model, {}), model))
    except ValueError:  # its forward pass reads sizes
        return analyse(model, trace(model.eval()))


@dataclass(frozen=True)
class Described:
    """A network that is equal to all of the same description."""

    description: object
    model: nn.Module = field(compare=False)


@lru_cache(maxsize=128)
def shared_structure(described: Described) -> Structure:
    model = described.model.eval()
    with hidden_sizes(model):
        graph = trace(model)
    return analyse(model, graph)


def analyse(model: nn.Module, graph: fx.Graph) -> Structure:
    names = {module: name for name, module in model.named_modules()}
    holders = [leaf for leaf in leaves(model) if isinstance(leaf, SIZED) or float_tensors(leaf)]
    return Structure(
        operations=name_operations(dict(model.named_modules()), graph),
        roles=find_layer_roles(model, graph),
        additions=named_additions(model, graph),
        foldable=dict(find_foldable(model, graph)),
        with_tensors=[names[holder] for holder in holders],
    )


def describe(value: object, seen: dict[nn.Module, int]) -> object:
    """All that a value can contribute to the structure of a network, as a key.

    `seen` are the modules that are described already, by their numbers.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return type(value), *(describe(item, seen) for item in value)
    if isinstance(value, dict):
        return type(value), *((name, describe(item, seen)) for name, item in value.items())
    if isinstance(value, Tensor) and value.is_meta:
        return value.shape, value.dtype
    if not isinstance(value, nn.Module):
        return ByIdentity(value)
    if value in seen:
        return nn.Module, seen[value]
    seen[value] = len(seen)
    if isinstance(value, SIZED):
        return type(value), is_foldable(value), is_fixed_norm(value)
    return type(value), *(
        (name, describe(item, seen))
        for name, item in vars(value).items()
        if (item or name not in STATE) and name not in UNREAD
    )


class ByIdentity:
    """Stands for a value that is equal to itself alone."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


@contextmanager
def hidden_sizes(model: nn.Module) -> Iterator[None]:
    """While it is open, sizes of layers, and all that they have, cannot be read."""
    kept = {module: dict(vars(module)) for module in model.modules()}
    for module in kept:
        if isinstance(module, SIZED):
            vars(module).clear()
            nn.Module.__init__(module)
        for name in SIZES & vars(module).keys():
            delattr(module, name)
    try:
        yield
    finally:
        for module, attributes in kept.items():
            vars(module).clear()
            vars(module).update(attributes)
