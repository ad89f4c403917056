"""Networks that users bring, and what is wrong with those that cannot be used."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch
from foreign_networks import Foreign, foreign, randomize
from torch import nn

from trainables.models.configs import NetworkSource, TracedConfig, UNetConfig, WeightSources
from trainables.models.model_file import ModelSpec, write_model
from trainables.models.network_source import import_network
from trainables.quantization.quantizers.configs import Lsq

IMAGES = torch.randn(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "my net.pth"
    torch.save(randomize(Foreign()).state_dict(), path)
    return path


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's, in which functions can be put."""
    module = ModuleType("users_networks")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@torch.no_grad()
def test_a_builder_and_a_file_are_a_student(weights: Path) -> None:
    source = NetworkSource(file=str(weights), builder="foreign_networks:foreign")
    network = import_network(source)
    student = network.student()
    assert isinstance(student, TracedConfig)
    assert (student.describe(), student.num_classes, student.is_trained) == ("my-net", 5, True)
    model = student.build(5)
    student.initialize(model, student.fetch_weights(WeightSources(network=source)))
    expected = randomize(Foreign())(IMAGES)["out"]
    torch.testing.assert_close(model.eval()(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert import_network(source) is network


def test_its_digest_names_its_weights_and_no_path(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "moved" / "my net.pth"
    other.parent.mkdir()
    wrapped = {"model": {f"module.{k}": v for k, v in torch.load(weights).items()}, "epoch": 3}
    torch.save(wrapped, other)
    builder = "foreign_networks:foreign"
    first, second = (
        import_network(NetworkSource(file=str(path), builder=builder)) for path in (weights, other)
    )
    assert first.student().digest() == second.student().digest()
    torch.save(randomize(Foreign(), seed=1).state_dict(), other.with_name("new.pth"))
    changed = NetworkSource(file=str(other.with_name("new.pth")), builder=builder)
    with pytest.raises(ValueError, match=r"--compress must name the network my-net, but .*new"):
        first.student().fetch_weights(WeightSources(network=changed))
    with pytest.raises(ValueError, match=r"--compress must name the network my-net again"):
        first.student().fetch_weights(WeightSources())


@torch.no_grad()
@pytest.mark.parametrize("folded", [True, False])
def test_a_model_file_of_this_project_is_one_too(folded: bool, tmp_path: Path) -> None:
    spec = ModelSpec(model=UNetConfig(width=4, depth=2), num_classes=5, folded=folded)
    original = randomize(spec.build())
    write_model(tmp_path / "unet.safetensors", original, spec)
    source = NetworkSource(file=str(tmp_path / "unet.safetensors"))
    network = import_network(source)
    model = network.student().build(5)
    model.load_state_dict(network.weights)
    torch.testing.assert_close(model.eval()(IMAGES), original(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_quantized_network_is_refused(tmp_path: Path) -> None:
    spec = ModelSpec(model=UNetConfig(width=4, depth=1), num_classes=5, quantizer=Lsq())
    write_model(tmp_path / "small.safetensors", spec.build(), spec)
    with pytest.raises(ValueError, match=r"must name a full-precision network, but .* quantized"):
        import_network(NetworkSource(file=str(tmp_path / "small.safetensors")))


def fail() -> nn.Module:
    raise RuntimeError("no luck\nat all")


def leave() -> nn.Module:
    raise SystemExit(2)


BUILDERS: dict[str, tuple[object, str]] = {
    "raises": (fail, "must build a network without arguments, but .* RuntimeError: no luck$"),
    "leaves": (leave, "must build a network without arguments, but .* SystemExit: 2$"),
    "needs arguments": (lambda width: None, "must build a network .* raises TypeError: .*width"),
    "no module": (lambda: 3, "must give a torch.nn.Module, but users_networks:make gives a int"),
    "no function": (None, "must build a network without arguments, but .*NoneType"),
}


@pytest.mark.parametrize("case", BUILDERS)
def test_what_is_wrong_with_a_builder(case: str, builders: ModuleType, weights: Path) -> None:
    make, message = BUILDERS[case]
    builders.make = make  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=f"^--builder {message}"):
        import_network(NetworkSource(file=str(weights), builder="users_networks:make"))


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (
            "nowhere:make",
            "must be importable, but nowhere:make is not: ModuleNotFoundError",
        ),
        ("foreign_networks:gone", "must be importable, but .* AttributeError: .*gone"),
        ("foreign_networks", "must be PACKAGE.MODULE:FUNCTION, but got 'foreign_networks'"),
        ("os:system('x')", "must be PACKAGE.MODULE:FUNCTION, but got"),
    ],
)
def test_a_builder_that_cannot_be_imported(builder: str, message: str, weights: Path) -> None:
    for flag, shown in (("--compress", "--builder"), ("--teacher", "--teacher-builder")):
        with pytest.raises(ValueError, match=f"^{shown} {message}"):
            import_network(NetworkSource(file=str(weights), builder=builder, flag=flag))


class Holder(nn.Module):
    """A network that keeps all under an attribute with the name of a wrapper's prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Foreign()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images)["out"]
        return logits


def test_only_the_prefixes_of_wrappers_are_taken_off(builders: ModuleType, tmp_path: Path) -> None:
    state = randomize(Holder()).state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "ddp.pth")
    builders.make = Holder  # type: ignore[attr-defined]
    source = NetworkSource(file=str(tmp_path / "ddp.pth"), builder="users_networks:make")
    weights = import_network(source).weights
    assert torch.equal(weights["network.model.gain"], state["model.gain"])


State = dict[str, torch.Tensor]
STATES: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (
        lambda state: {k: v for k, v in state.items() if k != "head.bias"},
        "lacks 'head.bias'$",
    ),
    "unexpected": (lambda state: {**state, "x": torch.zeros(1)}, "has 'x', which is not known"),
    "other shape": (
        lambda state: {**state, "gain": torch.zeros(2)},
        r"'gain' of .* has the shape \(2,\) instead of \(1, 8, 1, 1\)",
    ),
    "infinite": (lambda state: {**state, "gain": state["gain"] / 0}, "must be finite, but gain in"),
    "empty": (lambda state: {}, "lacks 'gain'"),
}


@pytest.mark.parametrize("case", STATES)
def test_weights_that_do_not_fit_are_named(case: str, tmp_path: Path) -> None:
    change, message = STATES[case]
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(change(dict(randomize(foreign()).state_dict())), path)
    with pytest.raises(ValueError, match=message):
        import_network(NetworkSource(file=str(path), builder="foreign_networks:foreign"))
