"""Quantizes the additions of feature maps, such as those of residual blocks.

A forward pass is Python code, in which an addition has no module that could be exchanged. A network
with additions therefore gets forward passes that torch.fx writes from the traced graph, in which
they are modules. All its other modules, their names and its own class stay. Modules around whatever
computes the operands would leave the code alone, but operands also come from functions, and from
modules that are used for other purposes too.
"""

from collections.abc import Sequence

from torch import fx, nn

from trainables.quantization.graph import find_additions, trace
from trainables.quantization.layers import QuantizedAddition
from trainables.quantization.quantizers.fake_quantizer import FakeQuantizer

ADDITIONS = "quantized_additions"
"""The module of a network that holds the additions, by their numbers in the order of execution."""
METHODS = ("forward", "native_outputs")
"""The ways to run a network."""


def named_additions(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, str]:
    """The additions of feature maps in the graph of a model, with the names that they get."""
    nodes = find_additions(model, graph)
    return {node: f"{ADDITIONS}.{number}" for number, node in enumerate(nodes)}


def quantize_additions(model: nn.Module, quantizers: Sequence[FakeQuantizer | None]) -> None:
    """Exchanges additions for `QuantizedAddition`s, in place; None leaves one on floats.

    The class of the model becomes a subclass of it, as torch.nn.utils.parametrize makes one. Its
    forward passes call layers, and no modules that hold them. What code outside of layers does only
    while training is left out.

    Raises:
        ValueError: the network cannot be traced.
    """
    chosen = {
        f"{ADDITIONS}.{number}": QuantizedAddition(quantizer)
        for number, quantizer in enumerate(quantizers)
        if quantizer is not None
    }
    if not chosen:
        return
    assert not hasattr(model, ADDITIONS)
    kind, training = type(model), model.training
    model.eval()
    graphs = {method: trace(model, method=method) for method in METHODS if hasattr(kind, method)}
    model.train(training)
    model.add_module(ADDITIONS, nn.Module())
    for name, addition in chosen.items():
        model.set_submodule(name, addition)
    for graph in graphs.values():
        named = named_additions(model, graph)
        assert len(named) == len(quantizers)
        for node, name in named.items():
            if name in chosen:
                exchange(graph, node, name)
    # torch.fx writes methods that find all modules by their names in `self`
    methods = {name: type(fx.GraphModule(model, graph)).forward for name, graph in graphs.items()}
    model.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, **methods})


def exchange(graph: fx.Graph, node: fx.Node, name: str) -> None:
    """Puts the call of a module in the place of a node."""
    with graph.inserting_after(node):
        call = graph.call_module(name, node.args)
    node.replace_all_uses_with(call)
    graph.erase_node(node)
