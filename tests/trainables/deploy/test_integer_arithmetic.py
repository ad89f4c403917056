"""A packed file computes what ONNX Runtime computes on integers, to the last one."""

from typing import get_args

import pytest
import torch
from foreign_networks import randomize
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.deploy.onnx_export import find_float_operations, to_onnx
from trainables.deploy.onnx_graph import OnnxForm
from trainables.deploy.runtime import CPU, open_session, session_network
from trainables.quantization.convert import ConvertedLayer, convert
from trainables.quantization.integer_bias import round_biases
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers.configs import Lsq, QuantizerName


class Bottlenecks(nn.Module):
    """Wide, depthwise and strided layers, additions, pooling and a skip; no operation on floats."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.expand, self.expand_norm = nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.project, self.up = nn.Conv2d(64, 16, 1), nn.ConvTranspose2d(16, 16, 2, 2)
        self.fuse, self.classifier = nn.Conv2d(32, 24, 3, padding=1), nn.Conv2d(24, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        skip = x = F.relu(self.norm(self.stem(images)))
        x = F.relu6(self.depthwise(F.relu6(self.expand_norm(self.expand(x)))))
        x = F.max_pool2d(skip + self.project(x), 2)
        x = torch.cat([F.relu(self.up(x)), skip], 1)
        return self.classifier(F.relu(self.fuse(x)))


@pytest.mark.parametrize("quantizer", get_args(QuantizerName))
@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 8), (4, 4), (2, 3)])
@torch.no_grad()
def test_every_integer_is_that_of_onnx_runtime(
    weight_bits: int, activation_bits: int, quantizer: str
) -> None:
    torch.manual_seed(0)
    network, images = randomize(Bottlenecks()).eval(), torch.randn(8, 3, 64, 64)
    bits = Lsq(weight_bits=weight_bits, activation_bits=activation_bits)
    prepare(network, bits.of_kind(quantizer))
    calibrate(network, images)
    network = convert(network)
    round_biases(network)
    assert find_float_operations(network) == ["classifier"]
    layers = [m for m in network.modules() if isinstance(m, ConvertedLayer)]
    assert [layer.output_grid is None for layer in layers] == 6 * [False] + [True]
    expected = network(images)
    for form in get_args(OnnxForm):
        content = to_onnx(network, 5, form, {}).SerializeToString()
        found = session_network(open_session(content, CPU, 1))(images.numpy())
        # an integer more or less would change logits by far more
        tolerance = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=tolerance, rtol=0)
