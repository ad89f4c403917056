"""The working memory that a converted network needs for its activations.

The definition is that of the planners of microcontroller runtimes: a tensor takes memory from the
operation that computes it to the last one that reads it, and the peak is that of the operation
during which the most bytes are taken, its inputs and outputs among them (Liberis and Lane 2019,
arXiv 1910.05110, "working set"; David et al. 2020, arXiv 2010.08678, whose TensorFlow Lite Micro
plans its arena by these lifetimes; Lin et al. 2020, arXiv 2007.10319, which searches networks under
a limit on it). Operations run in the order of the forward pass. What is counted, for one image:

- The input image and the logits are activations. Weights, buffers that an operation needs for
  itself, alignment and gaps between tensors are not counted, so that an actual arena is larger.
- A tensor is stored in each form in which it is read: packed at the bits of a grid for the layers
  and additions that quantize their inputs on it, once for all that share the grid; and as floats of
  4 bytes for any other reader, a layer without quantized inputs and the output among them.
- Max pooling, padding with zeros, concatenation, resizing to the nearest value and whatever else
  moves values keep the grid of their inputs: what they read is stored as their outputs are. A
  concatenation has memory of its own beside its inputs.
- A normalisation or an activation that is the only reader of its input's memory is computed in
  place, as is a BatchNorm that is folded. Views (slices, reshapes, chunks), dropout in evaluation
  mode, and padding or resizing to the size that a tensor already has are the tensor that they read.
  Additions and multiplications are not done in place.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import fx, nn

from trainables.quantization.bits import FULL_PRECISION, LayerBits, packed_length
from trainables.quantization.graph import LAYERS, is_metadata
from trainables.quantization.selections import CALLS, is_selection
from trainables.quantization.shapes import ELEMENTWISE, called_module

VIEWS = frozenset(
    [
        "getitem",
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "squeeze",
        "unsqueeze",
        "expand",
        "chunk",
        "split",
        "contiguous",
        "detach",
        "dropout",
        "dropout2d",
        "identity",
    ]
)
"""Operations whose outputs are the memory of their input."""
UNCHANGED = frozenset(["pad", "zeropad2d", "resize", "interpolate", "upsample"])
"""Operations that do nothing where the size stays the same."""
FLOAT = ""
"""The form of a tensor that is read as floats; others are named by a layer or addition."""


class StoredTensor(NamedTuple):
    """A tensor: `last_reads` gives, by its form, the operation that reads that form last."""

    num_values: int
    computed_by: int
    last_reads: Mapping[str, int]


def find_stored_tensors(
    modules: Mapping[str, nn.Module],
    operations: Mapping[fx.Node, str],
    num_values: Mapping[fx.Node, int],
    input_groups: Sequence[tuple[str, ...]],
    additions: Mapping[fx.Node, str],
) -> list[StoredTensor]:
    """The activations of a network, with numbers of its operations in the order of execution.

    Args:
        modules: of a network that is not prepared for quantization, by their names.
        operations: of its forward pass, by `name_operations`.
        num_values: of the tensors that each node gives, for one image.
        input_groups: names of layers and additions that share a grid.
        additions: of feature maps, with the names that they get.
    """
    grids = {name: group[0] for group in input_groups for name in group}
    nodes = [
        node
        for node in needed_nodes(operations)
        if node.op == "output" or (num_values[node] and node.op != "get_attr")
    ]
    numbers = {node: number for number, node in enumerate(nodes)}
    owners: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        is_alias = shares_memory(node, operations[node], num_values, owners)
        owners[node] = owners[node.all_input_nodes[0]] if is_alias else node
    last_reads: dict[fx.Node, dict[str, int]] = {node: {} for node in owners.values()}
    for node in reversed(nodes):
        if owners[node] is not node:
            continue
        forms: Sequence[str] = [FLOAT]
        if node in additions or isinstance(called_module(modules, node), LAYERS):
            name = additions.get(node, str(node.target))
            forms = [grids.get(name, name)]
        elif is_selection(node, operations[node], called_module(modules, node)):
            forms = list(last_reads[node])
        for source in {owners[source] for source in node.all_input_nodes if source in owners}:
            for form in forms:
                last_reads[source].setdefault(form, numbers[node])
    return [
        StoredTensor(num_values[node], numbers[node], reads)
        for node, reads in last_reads.items()
        if node.op != "output"
    ]


def needed_nodes(operations: Mapping[fx.Node, str]) -> list[fx.Node]:
    """The nodes that the output depends on, in their order."""
    needed: set[fx.Node] = set()
    for node in reversed(list(operations)):
        if node.op == "output" or node in needed:
            needed |= {node, *node.all_input_nodes}
    return [node for node in operations if node in needed]


def shares_memory(
    node: fx.Node,
    operation: str,
    num_values: Mapping[fx.Node, int],
    owners: Mapping[fx.Node, fx.Node],
) -> bool:
    """Whether an operation's output is the memory of its first input.

    `owners` gives for each node before it the one that computed the memory.
    """
    if node.op not in CALLS:
        return False
    source = node.all_input_nodes[0]
    if source.op == "get_attr":
        return False
    if operation in ELEMENTWISE and operation not in VIEWS:
        return is_only_reader(source, owners)
    is_unchanged = operation in UNCHANGED and num_values[node] == num_values[source]
    return is_unchanged or operation in VIEWS


def is_only_reader(source: fx.Node, owners: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether the memory of a node is read once from where it is computed to this node's reader."""
    while len([reader for reader in source.users if not is_metadata(reader)]) == 1:
        if owners.get(source, source) is source:
            return True
        source = source.all_input_nodes[0]
    return False


def peak_bytes(tensors: Sequence[StoredTensor], bits: Mapping[str, LayerBits]) -> int:
    """The most bytes that are taken at once; `bits` are those of the layers that are quantized."""
    taken_from, freed_after = Counter[int](), Counter[int]()
    for tensor in tensors:
        last_reads: dict[str, int] = {}
        for layer, number in tensor.last_reads.items():
            is_float = bits_of(layer, bits) == FULL_PRECISION
            form = FLOAT if is_float else layer
            last_reads[form] = max(number, last_reads.get(form, 0))
        for form, number in last_reads.items():
            num_bytes = packed_length(tensor.num_values, bits_of(form, bits))
            taken_from[tensor.computed_by] += num_bytes
            freed_after[number] += num_bytes
    peak = taken = 0
    for number in sorted(taken_from.keys() | freed_after.keys()):
        taken += taken_from[number]
        peak = max(peak, taken)
        taken -= freed_after[number]
    return peak


def bits_of(form: str, bits: Mapping[str, LayerBits]) -> int:
    """The bits of a value in one of its forms."""
    return bits[form].activation_bits if form in bits else FULL_PRECISION
