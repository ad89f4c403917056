"""The shapes of all tensors of a traced network, found without computing values."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from trainables.quantization.layers import QUANTIZABLE, count_steps
from trainables.quantization.selections import CALLS, operation_name
from trainables.quantization.shape_formulas import ARITHMETIC, FORMULAS, broadcast, layer_outputs

ELEMENTWISE = frozenset(
    [
        "relu",
        "relu6",
        "leakyrelu",
        "hardtanh",
        "clamp",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "silu",
        "mish",
        "gelu",
        "elu",
        "tanh",
        "dropout",
        "dropout2d",
        "identity",
        "batchnorm2d",
    ]
)
"""Operations on each value alone, by `operation_name`."""
PRODUCTS = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "convtranspose1d",
        "convtranspose2d",
        "convtranspose3d",
        "linear",
        "matmul",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "einsum",
        "scaleddotproductattention",
        "multiheadattention",
    ]
)
"""Operations with multiply-accumulates, by `operation_name`."""
STATE = frozenset(vars(nn.Module()))
"""Attributes that every module has for its tensors, modules, hooks and mode."""


class Shapes:
    """The numbers of values of all tensors of a network, and its multiply-accumulates.

    Common operations follow from formulas; others run on the meta device, in evaluation mode.

    Args:
        modules: of a network on the meta device, by their names.
        operations: of its forward pass, by `name_operations`.
        images: the shape (B,3,H,W) of the input.

    Attributes:
        num_values: of the tensors that a node gives; 0 for sizes and other numbers.
        macs: multiply-accumulates of convolutions, linear layers and matrix products.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        operations: Mapping[fx.Node, str],
        images: tuple[int, ...],
    ) -> None:
        self.macs = 0
        self._modules, self._values = modules, dict[fx.Node, Any]()
        with torch.no_grad():
            for node, name in operations.items():
                if node.op == "placeholder":
                    self._values[node] = torch.empty(images, device="meta")
                elif node.op == "get_attr":
                    holder, _, attribute = str(node.target).rpartition(".")
                    self._values[node] = getattr(modules[holder], attribute)
                else:
                    self._values[node] = self._run(node, name)
        self.num_values = {node: count_values(value) for node, value in self._values.items()}

    def _run(self, node: fx.Node, name: str) -> Any:
        if name in ELEMENTWISE:
            return self._values[node.all_input_nodes[0]]
        module = called_module(self._modules, node)
        if type(module) in QUANTIZABLE:
            return self._run_layer(module, self._values[node.all_input_nodes[0]])
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        if node.op == "output":
            return args[0]
        if name in ARITHMETIC and (terms := find_tensors([*args, *kwargs.values()])):
            return broadcast(terms)
        if name in FORMULAS:
            options = kwargs if module is None else options_of(module)
            if (outputs := FORMULAS[name](*args, **options)) is not None:
                return outputs
        if name not in PRODUCTS and not isinstance(module, QUANTIZABLE):
            return call(node, module, args, kwargs)
        from torch.utils.flop_counter import FlopCounterMode  # imports Triton, a second

        with FlopCounterMode(display=False) as counter:
            outputs = call(node, module, args, kwargs)
        self.macs += int(counter.get_total_flops()) // 2
        return outputs

    def _run_layer(self, layer: Any, inputs: Tensor) -> Tensor:
        outputs = layer_outputs(layer, inputs)
        transposed = isinstance(layer, nn.ConvTranspose2d)
        channels = layer.in_channels if transposed else count_steps(layer)
        num_positions = (inputs if transposed else outputs).numel() // channels
        self.macs += num_positions * layer.weight.numel()
        return outputs


def name_operations(modules: Mapping[str, nn.Module], graph: fx.Graph) -> dict[fx.Node, str]:
    """The nodes of a graph in their order, each with its `operation_name` or its kind."""
    return {
        node: operation_name(node, called_module(modules, node)) if node.op in CALLS else node.op
        for node in graph.nodes
    }


def called_module(modules: Mapping[str, nn.Module], node: fx.Node) -> nn.Module | None:
    """The module that a node calls; None where it calls a function or a method."""
    return modules[str(node.target)] if node.op == "call_module" else None


def call(
    node: fx.Node, module: nn.Module | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """What a node gives for some arguments."""
    if module is not None:
        return module.eval()(*args, **kwargs)
    if isinstance(node.target, str):
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)


def options_of(module: nn.Module) -> dict[str, Any]:
    """The options of a module, which are named like arguments of the function that it calls."""
    return {name: value for name, value in vars(module).items() if name not in STATE}


def find_tensors(values: Sequence[object]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def count_values(value: object) -> int:
    """The number of values of the tensors in what an operation gives."""
    if isinstance(value, tuple | list):
        return sum(count_values(item) for item in value)
    return value.numel() if isinstance(value, Tensor) else 0
