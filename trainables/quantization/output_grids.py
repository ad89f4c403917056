"""The grids on which tensors of a converted network are read."""

from collections.abc import Callable, Mapping

from torch import fx, nn

from trainables.quantization.graph import is_metadata
from trainables.quantization.selections import CALLS, is_selection, operation_name
from trainables.quantization.shapes import called_module
from trainables.quantization.static_quantizer import StaticQuantizer

CLIPS = frozenset(["relu", "relu6", "hardtanh", "clamp"])
"""By `operation_name`: rounding before such an operation gives the same as rounding after it."""


def find_grids(
    graph: fx.Graph,
    grid_of: Callable[[fx.Node], StaticQuantizer | None],
    passes: Callable[[fx.Node], bool],
) -> dict[fx.Node, StaticQuantizer | None]:
    """By node, the grid of all that read its output; None where they differ or read floats.

    Args:
        graph: of a converted network.
        grid_of: the grid on which an operation reads its inputs.
        passes: whether integers on a grid stay on it in an operation, as in a pooling.
    """
    grids: dict[fx.Node, StaticQuantizer | None] = {}
    for node in reversed(graph.nodes):
        read_on = [
            grids[reader] if passes(reader) else grid_of(reader)
            for reader in node.users
            if not is_metadata(reader)
        ]
        alike = bool(read_on) and all(same_grid(grid, read_on[0]) for grid in read_on)
        grids[node] = read_on[0] if alike else None
    return grids


def same_grid(one: StaticQuantizer | None, other: StaticQuantizer | None) -> bool:
    """Whether two grids, or none, have the same points."""
    if one is None or other is None:
        return one is other
    same_kind = (one.bits, one.zero_point) == (other.bits, other.zero_point)
    return same_kind and bool(one.step.equal(other.step))


def keeps_grid(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether an operation moves or clips values."""
    if node.op not in CALLS:
        return False
    module = called_module(modules, node)
    name = operation_name(node, module)
    return is_selection(node, name, module) or (name in CLIPS and len(node.all_input_nodes) == 1)
