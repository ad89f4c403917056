"""The shapes of all tensors of a traced network, found without computing values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.quantization.layers import QUANTIZABLE, QuantizableLayer, step_shape

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


class Shapes(fx.Interpreter):
    """The numbers of values of all tensors of a network, and its multiply-accumulates.

    Layers, activations and resizing follow from formulas, because PyTorch takes up to several
    milliseconds for each of them even on the meta device, where all other operations run.

    Args:
        model: on the meta device, in evaluation mode.
        graph: of its forward pass.
        images: the shape (B,3,H,W) of the input.

    Attributes:
        num_values: of the tensors that a node gives; 0 for sizes and other numbers.
        macs: multiply-accumulates of convolutions, linear layers and matrix products.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph, images: tuple[int, ...]) -> None:
        super().__init__(model, garbage_collect_values=False, graph=graph)
        self.macs = 0
        with torch.no_grad():
            self.run(torch.empty(images, device="meta"))
        self.num_values = {node: count_values(value) for node, value in self.env.items()}
        self.env.clear()

    def run_node(self, n: fx.Node) -> Any:
        if n.op not in ("call_module", "call_function", "call_method"):
            return super().run_node(n)
        name = operation_name(self.module, n)
        if name in ELEMENTWISE:
            return self.env[n.all_input_nodes[0]]
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        if type(module) in QUANTIZABLE:
            return self._run_layer(module, self.env[n.all_input_nodes[0]])
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if name in ("resize", "interpolate", "upsample"):
            return resized(module, *args, **kwargs)
        if name not in PRODUCTS and not isinstance(module, QUANTIZABLE):
            return getattr(self, n.op)(n.target, args, kwargs)
        with FlopCounterMode(display=False) as counter:
            outputs = getattr(self, n.op)(n.target, args, kwargs)
        self.macs += int(counter.get_total_flops()) // 2
        return outputs

    def _run_layer(self, layer: Any, inputs: Tensor) -> Tensor:
        outputs = layer_outputs(layer, inputs)
        transposed = isinstance(layer, nn.ConvTranspose2d)
        channels = layer.in_channels if transposed else max(step_shape(layer))
        num_positions = (inputs if transposed else outputs).numel() // channels
        self.macs += num_positions * layer.weight.numel()
        return outputs


def operation_name(model: nn.Module, node: fx.Node) -> str:
    """The name of an operation in lower case, the same for a module, a function and a method."""
    if node.op == "call_module":
        name = type(model.get_submodule(str(node.target))).__name__
    else:
        name = node.target if isinstance(node.target, str) else node.target.__name__
    return name.lower().replace("_", "")


def resized(
    module: nn.Module | None,
    inputs: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    *args: object,
    **kwargs: object,
) -> Tensor:
    """A tensor of the shape that images (B,C,H,W) get from a resizing function or module."""
    if isinstance(module, nn.Upsample):
        size, scale_factor = module.size, module.scale_factor
    if size is None:
        assert scale_factor is not None
        factors = scale_factor if isinstance(scale_factor, Sequence) else (scale_factor,) * 2
        size = [int(n * factor) for n, factor in zip(inputs.shape[-2:], factors, strict=True)]
    sizes = size if isinstance(size, Sequence) else (size,) * 2
    return inputs.new_empty((*inputs.shape[:-2], *sizes))


def layer_outputs(layer: QuantizableLayer, inputs: Tensor) -> Tensor:
    """A tensor of the shape that a layer gives for inputs (B,C,H,W), or (...,C) if it is linear."""
    if isinstance(layer, nn.Linear):
        return inputs.new_empty((*inputs.shape[:-1], layer.out_features))
    sizes = []
    for axis, size in enumerate(inputs.shape[-2:]):
        stride, padding = layer.stride[axis], layer.padding
        reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        if isinstance(layer, nn.ConvTranspose2d):
            assert not isinstance(padding, str)
            missing = layer.output_padding[axis] - 2 * int(padding[axis])
            sizes.append((size - 1) * stride + reach + 1 + missing)
        elif isinstance(padding, str):
            sizes.append(size if padding == "same" else (size - reach - 1) // stride + 1)
        else:
            sizes.append((size + 2 * int(padding[axis]) - reach - 1) // stride + 1)
    return inputs.new_empty((*inputs.shape[:-3], layer.out_channels, *sizes))


def count_values(value: object) -> int:
    """The number of values of the tensors in what an operation gives."""
    if isinstance(value, tuple | list):
        return sum(count_values(item) for item in value)
    return value.numel() if isinstance(value, Tensor) else 0
