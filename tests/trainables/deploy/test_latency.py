"""Networks of which a latency is measured."""

import gc
import weakref

from trainables.deploy.latency import untrained
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec
from trainables.quantization.convert import ConvertedLayer
from trainables.quantization.quantizers.configs import Lsq


def spec(num_classes: int) -> ModelSpec:
    return ModelSpec(model=UNetConfig(width=4, depth=2), num_classes=num_classes, quantizer=Lsq())


def test_few_networks_are_kept_in_memory() -> None:
    kept = [weakref.ref(untrained(spec(num_classes))) for num_classes in range(2, 14)]
    gc.collect()  # networks are part of reference cycles
    assert sum(network() is not None for network in kept) == 8
    assert untrained(spec(13)) is kept[-1]()


def test_grids_behind_a_relu_are_unsigned() -> None:
    layers = [m for m in untrained(spec(5)).modules() if isinstance(m, ConvertedLayer)]
    assert [layer.grid.zero_point for layer in layers if layer.grid] == [128] + [0] * (
        len(layers) - 1
    )
