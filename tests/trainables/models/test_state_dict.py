"""Which state dicts are read as networks of torchvision, and what is said of the others."""

import os
import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights

from trainables.models.configs import (
    TORCHVISION_NAMES,
    TorchvisionConfig,
    TorchvisionName,
    UNetConfig,
)
from trainables.models.model_file import ModelSpec, write_model
from trainables.models.state_dict import is_model_file, read_state_dict, recognize
from trainables.models.torchvision_model import TorchvisionModel

State = dict[str, Tensor]
NAME: TorchvisionName = "lraspp_mobilenet_v3_large"
IMAGES = torch.rand(2, 3, 33, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Of three classes, with statistics that are not the initial ones."""
    return build(NAME)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where a test may leave a file of many megabytes."""
    yield tmp_path / "t.pth"
    (tmp_path / "t.pth").unlink(missing_ok=True)


def build(name: TorchvisionName, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = get_model(
        name, weights=None, weights_backbone=None, num_classes=3, **options
    )
    model(IMAGES)
    return model.eval()


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def reference_checkpoint(state: State) -> object:
    """As torchvision's reference training saves it."""
    return {
        "model": state,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{}]},
        "lr_scheduler": {"last_epoch": 3, "_get_lr_called_within_step": False},
        "epoch": 3,
        "args": Namespace(device="cuda", lr=0.01, aux_loss=True, resume=None),
    }


def old(state: State) -> State:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


WRAPPINGS: dict[str, Callable[[State], object]] = {
    "plain": lambda state: state,
    "of parameters": lambda state: prefixed(
        "", {k: nn.Parameter(v, False) for k, v in state.items()}
    ),
    "parallel": lambda state: prefixed("module.", state),
    "compiled": lambda state: prefixed("_orig_mod.", state),
    "of this project's module": lambda state: prefixed("network.", state),
    "model": lambda state: {"model": state, "epoch": 3, "iou": torch.tensor(0.5)},
    "Lightning": lambda state: {"state_dict": prefixed("module.model.", state), "epoch": 3},
    "nested": lambda state: {"model": {"state_dict": state, "epoch": 3}},
    "averaged": lambda state: {
        "model_ema": {"n_averaged": torch.tensor(9), **prefixed("module.", state)}
    },
    "another model first": lambda state: {"model": {"width": 3}, "net": state, "ema": {}},
    "reference training": reference_checkpoint,
    "old": old,
    "with other entries": lambda state: {**state, "epoch": 3, "sizes": torch.zeros(2).int()},
    "float64": lambda state: {
        key: value.double() if value.is_floating_point() else value for key, value in state.items()
    },
    "counters of float64": lambda state: {key: value.double() for key, value in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_weights_compute_the_same(wrapping: str, network: nn.Module, path: Path) -> None:
    torch.save(WRAPPINGS[wrapping](network.state_dict()), path)
    assert_same(path, network)


def test_an_auxiliary_head_is_dropped(path: Path) -> None:
    name: TorchvisionName = "deeplabv3_mobilenet_v3_large"
    network = build(name, aux_loss=True)
    torch.save(prefixed("module.", network.state_dict()), path)
    assert_same(path, network, name)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_ending_does_not_say_which_format_it_is(
    zipped: bool, network: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "t.safetensors"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    assert_same(path, network)


def test_safetensors_of_others_are_read(network: nn.Module, path: Path) -> None:
    safetensors.torch.save_file(prefixed("module.", network.state_dict()), path, {"format": "pt"})
    assert_same(path, network)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype: torch.dtype, path: Path) -> None:
    network = build(NAME).to(dtype)
    torch.save(network.state_dict(), path)
    assert_same(path, network.float())


def assert_same(path: Path, network: nn.Module, name: TorchvisionName = NAME) -> None:
    state = read_state_dict(path)
    assert (state.name, state.num_classes) == (name, 3)
    assert state.spec.model == TorchvisionConfig(name=name)
    assert all(tensor.dtype == torch.float32 for tensor in state.weights.values())
    with torch.no_grad():
        logits, expected = state.build()(IMAGES), network(IMAGES)["out"]
    assert logits.std() > 0
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
@pytest.mark.parametrize("num_classes", [2, 255])
def test_each_network_is_recognised_by_its_shapes(name: TorchvisionName, num_classes: int) -> None:
    with torch.device("meta"):
        state = TorchvisionModel(name, num_classes).network.state_dict()
    floats = {key: value for key, value in state.items() if value.is_floating_point()}
    assert recognize(Path("t.pth"), floats, num_classes) == name


@pytest.mark.parametrize("name", TORCHVISION_NAMES)
def test_each_network_has_pretrained_weights(name: TorchvisionName) -> None:
    assert get_model_weights(name)["COCO_WITH_VOC_LABELS_V1"].url.startswith("https://")


def test_fcn_gives_its_native_outputs() -> None:
    model = TorchvisionModel("fcn_resnet50", 3).eval()
    with torch.no_grad():
        logits, features, decoded = model.native_outputs(IMAGES)
        torch.testing.assert_close(model(IMAGES), model.network(IMAGES)["out"])
    assert logits.shape == (2, 3, 5, 5)
    assert features.shape == (2, 2048, 5, 5)
    assert decoded is not None
    assert decoded.shape == (2, 512, 5, 5)


def test_a_model_file_of_this_project_is_told_apart(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    spec = ModelSpec(model=UNetConfig(width=2, depth=1), num_classes=3)
    write_model(path, spec.build(), spec)
    assert is_model_file(path)
    safetensors.torch.save_file(network.state_dict(), path)
    assert not is_model_file(path)
    torch.save(network.state_dict(), path)
    assert not is_model_file(path)
    path.write_bytes(b"")
    assert not is_model_file(path)


class Order:
    """Pickled as an order to make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_not_executed(
    zipped: bool, network: nn.Module, tmp_path: Path
) -> None:
    content = {"model": network.state_dict(), "args": Namespace(x=Order(tmp_path / "made"))}
    torch.save(content, tmp_path / "t.pth", _use_new_zipfile_serialization=zipped)
    assert "of tensors alone, but " in refusal(tmp_path / "t.pth")
    assert not (tmp_path / "made").exists()


def refusal(path: Path) -> str:
    """What is said of a file, which must be one line without torch's advice."""
    with pytest.raises(ValueError, match=r".") as caught:
        read_state_dict(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert str(path) in text
    assert "weights_only" not in text
    return text


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save({"model": nn.Conv2d(1, 1, 1)}, tmp_path / "t.pth")
    text = refusal(tmp_path / "t.pth")
    assert "t.pth holds 'torch.nn.modules.conv.Conv2d': write it by torch.save(model.state" in text


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Conv2d(1, 1, 1)).save(tmp_path / "t.pt")
    assert "t.pt is a TorchScript archive: write it by torch.save" in refusal(tmp_path / "t.pt")


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4", b"12345678{", b"\x80\2}", b"some text", bytes(10**4)]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.pth").write_bytes(content)
    assert "t.pth is damaged or of another format: write it" in refusal(tmp_path / "t.pth")


@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_damaged_files_are_refused(kind: str, tmp_path: Path) -> None:
    path, state = tmp_path / "t.bin", {"x": torch.rand(1000)}
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "t.bin is damaged or of another format: write it" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"model": {}},
        [torch.zeros(3)],
        torch.zeros(3),
        {"epoch": torch.tensor(3)},
        {"x": torch.empty(3, device="meta"), "y": torch.eye(3).to_sparse(), 3: torch.zeros(3)},
    ],
    ids=str,
)
def test_a_file_without_weights_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "t.pth")
    assert "must hold floating-point tensors, but" in refusal(tmp_path / "t.pth")


CBR, LOW, HIGH = (
    f"classifier.{name}" for name in ("cbr.0.", "low_classifier.", "high_classifier.")
)
CHANGES: dict[str, tuple[Callable[[State], object], str]] = {
    "missing": (
        lambda state: state.pop(f"{CBR}weight"),
        f"has 271 of the 272 weights of .*{NAME}, and differs first in '{CBR}weight', which is mis",
    ),
    "integers": (
        lambda state: state.update({f"{CBR}weight": state[f"{CBR}weight"].int()}),
        f"differs first in '{CBR}weight', which is missing",
    ),
    "of another shape": (
        lambda state: state.update({f"{CBR}weight": torch.zeros(256, 960, 1, 1)}),
        rf"271 of .*{CBR}weight', whose shape is \(256, 960, 1, 1\) and not \(128, 960, 1, 1\);",
    ),
    "unexpected": (
        lambda state: state.update({"mean\n": torch.zeros(3)}),
        rf"272 of the 272 .*{NAME}, and differs first in 'mean\\n', which is not known there;",
    ),
    "no classifier": (
        lambda state: [state.pop(key) for key in list(state) if key.startswith("classifier.")],
        rf"262 of .*{NAME}, and differs first in '{CBR}weight', which is missing;",
    ),
    "scalar": (
        lambda state: state.update({f"{LOW}weight": torch.tensor(1.0)}),
        rf"first in '{LOW}weight', whose shape is \(\) and not \(3, 40, 1, 1\);",
    ),
    "immense": (
        lambda state: state.update({f"{LOW}weight": torch.zeros(1).expand(10**12)}),
        rf"first in '{LOW}weight', whose shape is \(10{{12}},\) and not \(10{{12}}, 40, 1, 1\);",
    ),
    "of two numbers of classes": (
        lambda state: state.update({f"{HIGH}bias": torch.zeros(4)}),
        rf"first in '{HIGH}bias', whose shape is \(4,\) and not \(3,\);",
    ),
    "of one class": (
        lambda state: state.update(
            {key: value[:1].clone() for key, value in state.items() if key.startswith((LOW, HIGH))}
        ),
        "a network must have 2 to 255 classes, but .* has 1$",
    ),
    "not finite": (
        lambda state: state["backbone.0.1.running_var"].fill_(torch.inf),
        r"weights must be finite, but backbone.0.1.running_var in .*t.pth holds NaN or infinity$",
    ),
    "too large for float32": (
        lambda state: state.update({f"{LOW}bias": torch.full((3,), 1e300, dtype=torch.double)}),
        f"weights must be finite, but {LOW}bias in .*t.pth holds NaN or infinity$",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_are_refused(change: str, network: nn.Module, path: Path) -> None:
    act, message = CHANGES[change]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    act(state)
    torch.save(state, path)
    assert re.search(message, refusal(path))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 3)).state_dict(), tmp_path / "t.pth")
    text = refusal(tmp_path / "t.pth")
    assert f"must be that of one of {', '.join(TORCHVISION_NAMES)}, but " in text
    assert "has 0 of the" in text
