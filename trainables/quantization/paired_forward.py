"""Runs a full-precision network and its quantized copy together, one operation at a time."""

import operator
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from trainables.quantization.graph import trace
from trainables.quantization.layers import QuantizableLayer, QuantizedLayer


class LayerInputs(NamedTuple):
    """One layer of both networks, and what it reads in each, before it has run.

    Attributes:
        name: of the layer in both networks.
        layer: of the full-precision network.
        quantized: the same layer of the quantized network.
        inputs: of `layer`.
        quantized_inputs: of `quantized`, before its own input quantizer.
    """

    name: str
    layer: QuantizableLayer
    quantized: QuantizedLayer
    inputs: Tensor
    quantized_inputs: Tensor


def paired_layer_inputs(
    reference: nn.Module, quantized: nn.Module, images: Tensor
) -> Iterator[LayerInputs]:
    """Yields the quantized layers in the order in which they run on images (B,3,H,W).

    Changes that the caller makes to a yielded layer have effect on all that follow it. A layer that
    is called several times is left out. Both networks must be in evaluation mode; no more tensors
    are held than two forward passes hold.

    Raises:
        ValueError: the quantized network cannot be traced.
    """
    graph = trace(quantized)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    last_uses: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        last_uses[max((*node.users, node))].append(node)
    both = [NetworkInterpreter(model, graph, images) for model in (reference, quantized)]
    for node in graph.nodes:
        layer = both[1].fetch_attr(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, QuantizedLayer) and calls[node.target] == 1:
            inputs = [each.env[node.all_input_nodes[0]] for each in both]
            original = reference.get_submodule(str(node.target))
            assert isinstance(original, QuantizableLayer)
            yield LayerInputs(str(node.target), original, layer, *inputs)
        for each in both:
            each.env[node] = each.run_node(node)
            for used in last_uses[node]:
                del each.env[used]


class NetworkInterpreter(fx.Interpreter):
    """Computes the graph of a quantized network with the modules of another one.

    Where the other has no module for an addition, it adds.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, images: Tensor) -> None:
        super().__init__(model, garbage_collect_values=False, graph=graph)
        self.args_iter = iter([images])
        self.modules = dict(model.named_modules(remove_duplicate=False))

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.modules.get(target, operator.add)(*args, **kwargs)
