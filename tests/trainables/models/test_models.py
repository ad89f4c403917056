"""The contract of every network, and the model file."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from trainables.models.base import forward_features, supports_fast_bf16
from trainables.models.configs import (
    TORCHVISION_NAMES,
    NetworkConfig,
    TorchvisionConfig,
    UNetConfig,
)
from trainables.models.model_file import (
    Format,
    ModelSpec,
    deserialize,
    file_content,
    file_length,
    read_model,
    read_spec,
    serialize,
    short_tensors,
    shorten,
    write_model,
)
from trainables.models.torchvision_model import load_pretrained
from trainables.quantization.convert import ConvertedLayer
from trainables.quantization.layers import QuantizedLayer, step_shape
from trainables.quantization.prepare import calibrate
from trainables.quantization.quantizers.configs import Lsq

MODELS: list[NetworkConfig] = [
    UNetConfig(width=4, depth=3),
    UNetConfig(width=4, depth=2, upsampling="bilinear"),
    TorchvisionConfig(name="lraspp_mobilenet_v3_large"),
    TorchvisionConfig(name="deeplabv3_mobilenet_v3_large"),
]
SLOW: list[NetworkConfig] = [
    TorchvisionConfig(name="deeplabv3_resnet50"),
    TorchvisionConfig(name="deeplabv3_resnet101"),
]


@pytest.mark.parametrize(
    "config", [*MODELS, *(pytest.param(c, marks=pytest.mark.slow) for c in SLOW)], ids=str
)
def test_a_model_maps_images_to_logits_and_features(config: NetworkConfig) -> None:
    torch.manual_seed(0)
    model = config.build(7).eval()
    images = torch.randn(2, 3, 36, 50)
    with torch.no_grad():
        outputs = forward_features(model, images)
        # the plain forward is in full precision, training in bfloat16 where that is fast
        error = (model(images) - outputs.logits).abs().max()
        assert (
            error <= (0.05 if supports_fast_bf16(images.device) else 0) * outputs.logits.abs().max()
        )
    assert outputs.logits.shape == (2, 7, 36, 50)
    assert outputs.features.shape[0] == 2
    assert outputs.features.shape[2] < 36
    assert (outputs.decoder is None) == ("lraspp" in config.name)
    assert outputs.logits.min() < 0 or outputs.logits.max() > 1  # raw: no activation


@pytest.mark.parametrize(
    "change", [{"width": 6}, {"depth": 2}, {"upsampling": "bilinear"}], ids=lambda c: next(iter(c))
)
def test_every_field_of_a_student_changes_the_model(change: dict[str, object]) -> None:
    student = UNetConfig(width=4, depth=3)
    names = {name for name in UNetConfig.model_fields if name != "name"}
    assert names == {"width", "depth", "upsampling"}
    before = [p.shape for p in student.build(5).parameters()]
    assert before != [p.shape for p in student.replace(**change).build(5).parameters()]


@pytest.mark.parametrize("config", MODELS, ids=str)
def test_a_network_to_train_on_is_kept_bit_for_bit(config: NetworkConfig, tmp_path: Path) -> None:
    card = ModelSpec(model=config, num_classes=4, folded=False)
    model = card.build().eval()
    path = tmp_path / "model.safetensors"
    write_model(path, model, card)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(read_model(path)(images), model(images))
    assert read_spec(path) == card


def test_fewer_bits_make_a_smaller_file() -> None:
    student = UNetConfig(width=8, depth=3)
    sizes = []
    for bits in (32, 8, 5, 4, 3, 2):
        card = ModelSpec(
            model=student, num_classes=4, quantizer=Lsq(weight_bits=bits, activation_bits=8)
        )
        sizes.append(len(serialize(card.build(), card)))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 3 * sizes[1]


@pytest.mark.parametrize("number", get_args(Format))
def test_a_file_that_was_written_long_ago_is_read_as_it_was_meant(number: int) -> None:
    """Weights of 3 and 8 bits; another format gets a file of its own."""
    path = Path(__file__).with_name(f"format-{number}.safetensors")
    network, card = read_model(path), read_spec(path)
    assert card.quantizer == Lsq(weight_bits=3, activation_bits=4)
    expected = [
        [[0.4392, 0.4362], [0.4415, 0.4480]],
        [[-0.6009, -0.6058], [-0.6012, -0.6071]],
        [[1.3747, 1.3877], [1.3698, 1.3631]],
    ]
    with torch.no_grad():
        (logits,) = network(torch.linspace(-2, 2, 12).view(1, 3, 2, 2))
    torch.testing.assert_close(logits, torch.tensor(expected), atol=1e-3, rtol=0)
    exact = read_model(path.with_name("format-2.safetensors"))
    written, stored = (
        safetensors.numpy.load(content) for content in (serialize(exact, card), path.read_bytes())
    )
    assert {name: tensor.tolist() for name, tensor in written.items()} == {
        name: tensor.tolist() for name, tensor in stored.items()
    }


def test_steps_and_biases_take_half_the_bytes_and_are_rounded_by_little() -> None:
    torch.manual_seed(0)
    student, quantizer = UNetConfig(width=4, depth=2), Lsq(weight_bits=3)
    long = ModelSpec(model=student, num_classes=5, quantizer=quantizer)
    compact = long.replace(format=3)
    network = long.build()
    calibrate(network, torch.randn(2, 3, 16, 16))
    contents = [serialize(network, spec) for spec in (long, compact)]
    before, after = (
        [m for m in deserialize(content).modules() if isinstance(m, ConvertedLayer)]
        for content in contents
    )
    num_values = sum(len(values) for layer in before for values in short_tensors(layer))
    saved = len(contents[0]) - len(contents[1])
    assert saved == pytest.approx(2 * num_values - 2 * 4 * len(before), abs=8)
    for exact, rounded in zip(before, after, strict=True):
        assert exact.step is not None
        assert rounded.step is not None
        assert exact.layer.bias is not None
        assert rounded.layer.bias is not None
        assert torch.equal(exact.codes, rounded.codes)
        assert torch.equal(exact.step.abs().amax(), rounded.step.abs().amax())
        torch.testing.assert_close(rounded.step, exact.step, rtol=2**-11, atol=0)
        assert rounded.grid is not None
        finest = float(rounded.step.abs().amax() * rounded.grid.step) / 2
        torch.testing.assert_close(rounded.layer.bias, exact.layer.bias, rtol=2**-11, atol=finest)


def test_values_of_a_layer_are_shares_of_the_largest() -> None:
    shares, largest = shorten(torch.zeros(3))
    assert (shares.float() * largest).tolist() == [0, 0, 0]
    shares, largest = shorten(torch.tensor([-1.0, 0.5, 1e-3, -1e-30, 0.0]))
    kept = (shares.float() * largest).tolist()
    assert kept == pytest.approx([-1, 0.5, 1e-3, -(2**-24), 0], rel=2**-11)


@pytest.mark.parametrize("gamma", [1e-9, 1e-20, 0.0])
@pytest.mark.parametrize("beta", [0.3, 1e-9, 0.0])
@torch.no_grad()
def test_channels_that_normalisation_makes_constant_are_kept(gamma: float, beta: float) -> None:
    """Their steps are far below the largest of their layer, or 0."""
    torch.manual_seed(0)
    spec = ModelSpec(
        model=UNetConfig(width=4, depth=2), num_classes=5, quantizer=Lsq(weight_bits=4), format=3
    )
    network, images = spec.build(), torch.randn(2, 3, 16, 16)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight[0], norm.bias[0] = gamma, beta
    calibrate(network.eval(), images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = deserialize(serialize(network, spec))(images)
    torch.testing.assert_close(found, network(images), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    "damage", ["truncated", "header", "card", "version", "empty", "text", "longer"]
)
def test_a_damaged_model_file_is_named(damage: str, tmp_path: Path) -> None:
    card = ModelSpec(model=UNetConfig(width=2, depth=1), num_classes=3)
    content = serialize(card.build(), card)
    damaged = {
        "truncated": content[:-8],
        "header": content[:20] + b"\0" * 20 + content[40:],
        "card": content.replace(b"unet", b"vnet"),
        "empty": b"",
        "text": b"not a model, though long enough for a header",
        "version": content.replace(b'{\\"format\\":2', b'{\\"format\\":1'),
        "longer": serialize(UNetConfig(width=3, depth=1).build(3), card),
    }[damage]
    path = tmp_path / "bad.safetensors"
    assert damaged != content
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"intact \.safetensors file .*bad\.safetensors is not"):
        read_model(path)


def test_deserialize_refuses_too_few_values() -> None:
    small, large = (ModelSpec(model=UNetConfig(width=w, depth=1), num_classes=3) for w in (2, 3))
    with pytest.raises(ValueError, match="fewer values"):
        deserialize(serialize(small.build(), large))


def test_pretrained_weights_without_network_name_file_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"hub/checkpoints/lraspp_mobilenet.*\.pth: put"):
        load_pretrained("lraspp_mobilenet_v3_large")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_file_is_its_bits_and_a_small_header(bits: int) -> None:
    student = UNetConfig(width=8)
    quantizer = Lsq(weight_bits=bits, activation_bits=bits)
    card = ModelSpec(model=student, num_classes=11, quantizer=quantizer)
    layers = [m for m in card.build().modules() if isinstance(m, QuantizedLayer)]
    weight_bits = sum(m.layer.weight.numel() * m.weight_quantizer.bits for m in layers)  # type: ignore[union-attr]
    # a step and a bias for each channel, a step and a sign for each input
    floats = sum(2 * max(step_shape(m.layer)) + 2 for m in layers)
    content = serialize(card.build(), card)
    header = 8 + int.from_bytes(content[:8], "little")
    assert header < 4096
    assert len(content) - header == pytest.approx(weight_bits / 8 + 4 * floats, abs=len(layers) + 8)


@pytest.mark.parametrize("num_code_bytes", [0, 7, 99_999])
@pytest.mark.parametrize("num_floats", [0, 3, 4096, 1_234_567])
def test_the_length_of_a_file_is_known_without_its_values(
    num_code_bytes: int, num_floats: int
) -> None:
    for name in TORCHVISION_NAMES:
        card = ModelSpec(model=TorchvisionConfig(name=name), num_classes=5)
        codes, floats = np.zeros(num_code_bytes, np.uint8), np.zeros(num_floats, np.float32)
        written = len(file_content(codes, floats, card))
        assert file_length(num_code_bytes, num_floats, card) == written


def test_a_quantized_file_is_read_where_nothing_else_is_imported() -> None:
    path = Path(__file__).with_name("format-2.safetensors")
    code = (
        "from pathlib import Path; from trainables.models.model_file import read_spec; "
        f"print(read_spec(Path({str(path)!r})).quantizer.name)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "lsq\n"
