"""Which networks share a structure."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trainables.models.configs import StudentConfig
from trainables.models.outline import build_outline
from trainables.quantization.shapes import Shapes
from trainables.training.structure import Structure, find_structure


def structure_of(name: str, **fields: float) -> Structure:
    student = StudentConfig.members()[name].model_validate({"name": name, **fields})
    return find_structure(build_outline(student, 5))


def test_networks_that_differ_in_channels_share_one() -> None:
    assert structure_of("unet", width=4) is structure_of("unet", width=6)
    backbone = "unet_mobilenet_v2"
    assert structure_of(backbone) is structure_of(backbone, multiplier=0.5, channels=16)


def test_networks_that_run_other_operations_do_not() -> None:
    assert structure_of("unet", depth=2) is not structure_of("unet", depth=3)
    whole = structure_of("unet_mobilenet_v2")
    # Two blocks have as many inputs as outputs only at this multiplier, and become residual
    narrow = structure_of("unet_mobilenet_v2", multiplier=0.25)
    added = [list(each.operations.values()).count("add") for each in (whole, narrow)]
    assert added[0] < added[1]


class Block(nn.Module):
    """A convolution, and what `extra` computes from it and its outputs."""

    def __init__(
        self,
        channels: int,
        extra: Callable[[nn.Conv2d, Tensor], Tensor] | None = None,
        is_residual: bool = False,
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, channels, 1)
        self.last = nn.Conv2d(channels, 2, 1)
        self.extra, self.is_residual = extra, is_residual

    def forward(self, images: Tensor) -> Tensor:
        x = self.convolution(images)
        if self.extra is not None:
            x = self.extra(self.convolution, x)
        if self.is_residual:
            x = x + x
        return self.last(x)


def find(*args: object) -> Structure:
    with torch.device("meta"):
        return find_structure(Block(*args))


def test_attributes_distinguish_networks() -> None:
    assert find(4) is find(8)
    assert find(4) is not find(4, None, True)


def narrowed(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return x.view(-1, layer.out_channels, 8, 8)


def weighted(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return x * layer.weight.shape[0]


def test_a_network_that_reads_sizes_of_its_layers_has_its_own() -> None:
    for extra in (narrowed, weighted):
        for channels in (4, 8):
            with torch.device("meta"):
                model = Block(channels, extra)
            modules, before = dict(model.named_modules()), dict(vars(model.convolution))
            structure = find_structure(model)
            assert vars(model.convolution) == {**before, "training": False}
            shapes = Shapes(modules, structure.operations, (1, 3, 8, 8))
            assert shapes.macs == 64 * (3 * channels + channels * 2)


def test_values_that_cannot_be_compared_are_not_shared() -> None:
    assert find(4, lambda _, x: x) is not find(4, lambda _, x: x)

    def doubled(_: nn.Conv2d, x: Tensor) -> Tensor:
        return x * 2

    assert find(4, doubled) is find(6, doubled)


def test_the_mode_makes_no_difference() -> None:
    with torch.device("meta"):
        models = [Block(4).train(), Block(4).eval()]
    assert find_structure(models[0]) is find_structure(models[1])


def test_a_module_that_runs_twice_is_told_from_two() -> None:
    with torch.device("meta"):
        layer = nn.Conv2d(3, 3, 1)
        once, twice = nn.Sequential(layer, nn.Conv2d(3, 3, 1)), nn.Sequential(layer, layer)
    assert len(find_structure(once).roles.names) == 2
    assert len(find_structure(twice).roles.names) == 1
