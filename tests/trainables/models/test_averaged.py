"""The mean of networks and of mirror images, against a plain computation."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainables.models.averaged import AveragedNetwork
from trainables.models.base import Network
from trainables.models.configs import AveragedConfig, TorchvisionConfig, UNetConfig
from trainables.models.model_file import ModelSpec, read_model, write_model

SMALL = UNetConfig(width=3, depth=2)


@pytest.fixture
def networks() -> list[Network]:
    torch.manual_seed(0)
    return [SMALL.build(5).eval() for _ in range(2)]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("mirrored", [False, True])
def test_probabilities_are_means(mirrored: bool, networks: list[Network], images: Tensor) -> None:
    wanted = [network(images).softmax(1) for network in networks]
    if mirrored:
        wanted += [network(images.flip(3)).softmax(1).flip(3) for network in networks]
    logits = AveragedNetwork(networks, mirrored)(images)
    torch.testing.assert_close(logits.softmax(1), torch.stack(wanted).mean(0))
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(2, 24, 32))


@torch.no_grad()
def test_a_mirrored_image_has_the_mirrored_answer(networks: list[Network], images: Tensor) -> None:
    averaged = AveragedNetwork(networks, mirrored=True)
    torch.testing.assert_close(averaged(images.flip(3)), averaged(images).flip(3))


@torch.no_grad()
def test_features_of_all_networks_are_kept(networks: list[Network], images: Tensor) -> None:
    outputs = AveragedNetwork(networks, mirrored=True).native_outputs(images)
    parts = [network.native_outputs(images) for network in networks]
    assert outputs.features.equal(torch.cat([part.features for part in parts], 1))
    assert outputs.decoder is not None
    decoders = [part.decoder for part in parts if part.decoder is not None]
    assert outputs.decoder.equal(torch.cat(decoders, 1))
    lraspp = TorchvisionConfig(name="lraspp_mobilenet_v3_large").build(5).eval()
    assert AveragedNetwork([lraspp], mirrored=True).native_outputs(images).decoder is None


@torch.no_grad()
def test_its_model_file_is_read_back(
    networks: list[Network], images: Tensor, tmp_path: Path
) -> None:
    model = AveragedConfig(networks=(SMALL, SMALL), mirrored=True)
    card = ModelSpec(model=model, num_classes=5, folded=False)
    averaged = AveragedNetwork(networks, mirrored=True)
    write_model(tmp_path / "teacher.safetensors", averaged, card)
    again = read_model(tmp_path / "teacher.safetensors")
    torch.testing.assert_close(again(images), averaged(images))
