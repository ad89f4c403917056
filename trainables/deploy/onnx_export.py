"""The U-Net's forward pass as an ONNX graph, operation for operation."""

import numpy as np
import onnx
from torch import nn

from trainables.deploy.onnx_graph import Graph, OnnxForm, Signal, Value
from trainables.models.unet import UNet
from trainables.quantization.convert import ConvertedLayer, StaticQuantizer


def to_onnx(network: nn.Module, form: OnnxForm, metadata: dict[str, str]) -> onnx.ModelProto:
    """A converted network as an ONNX model from `images` to `logits`, of any batch and size.

    Raises:
        ValueError: for other networks than U-Nets.
    """
    if not isinstance(network, UNet):
        raise ValueError(f"only U-Nets are exported to ONNX, but got a {type(network).__name__}")
    graph = Graph(form)
    logits = unet_graph(graph, network, "images")
    return graph.finish(logits, network.num_classes, metadata)


def unet_graph(graph: Graph, unet: UNet, images: Value) -> Value:
    """The logits of a converted U-Net, at the size of the images, which may be any."""
    size = graph.add("Shape", images, start=2)
    encoder, ups, decoder = list(unet.encoder), list(unet.ups), list(unet.decoder)
    x = graph.quantize(pad_to_multiple(graph, images, size, unet.stride), input_grid(encoder[0]))
    skips: list[Signal] = []
    for stage, (block, after) in enumerate(zip(encoder, [*encoder[1:], ups[0]], strict=True)):
        if stage:
            x = graph.map("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = sequence(graph, x, block, input_grid(after))
        skips.append(x)
    skips.pop()
    for up, block, after in zip(ups, decoder, [*ups[1:], unet.classifier], strict=True):
        x = sequence(graph, x, up, input_grid(block))
        x = graph.map("Concat", x, skips.pop(), axis=1)
        x = sequence(graph, x, block, input_grid(after))
    logits = graph.layer(x, unet.classifier, relu=False, grid=None).value
    zeros, axes = graph.constant(np.zeros(2, np.int64)), graph.constant(np.array([2, 3]))
    return graph.add("Slice", logits, zeros, size, axes)


def pad_to_multiple(graph: Graph, images: Value, size: Value, stride: int) -> Value:
    """Images with zeros below and to the right of them."""
    missing = graph.add("Mod", graph.add("Neg", size), graph.constant(np.array(stride)))
    none = graph.constant(np.zeros(6, np.int64))
    return graph.add("Pad", images, graph.add("Concat", none, missing, axis=0))


def sequence(graph: Graph, x: Signal, block: nn.Module, grid: StaticQuantizer | None) -> Signal:
    """Layers, each with a ReLU behind it, and what comes of them on the grid of their reader."""
    parts = list(block.children())
    layers = [part for part in parts if is_layer(part)]
    grows = isinstance(parts[-1], nn.Upsample)
    after = [*(input_grid(layer) for layer in layers[1:]), None if grows else grid]
    for layer, own_grid in zip(layers, after, strict=True):
        x = graph.layer(x, layer, relu=True, grid=own_grid)
    if not grows:
        return x
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    return graph.quantize(graph.add("Resize", x.value, "", scales, mode="linear"), grid)


def input_grid(module: nn.Module) -> StaticQuantizer | None:
    """The grid of a layer's inputs, or of a block's first layer's."""
    layer = next(part for part in module.modules() if is_layer(part))
    return layer.grid if isinstance(layer, ConvertedLayer) else None


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, ConvertedLayer | nn.Conv2d | nn.ConvTranspose2d)
