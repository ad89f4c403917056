"""The contract that every student family keeps, also one from outside the package."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from trainables.config import TrialConfig
from trainables.models.base import StudentNetwork, forward_features
from trainables.models.configs import StudentConfig
from trainables.models.model_file import ModelSpec, deserialize, serialize
from trainables.quantization.graph import find_input_groups
from trainables.quantization.layers import QuantizedLayer
from trainables.quantization.prepare import calibrate, prepare, quantizable_names
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Ptq
from trainables.recipes.optimization import OptimizerLoop
from trainables.training.cost import count_macs, count_params, meta_network, predict_size_bytes

STUDENTS = [
    family.model_validate({"name": name}) for name, family in StudentConfig.members().items()
]
NUM_CLASSES = 5
BITS = Lsq(weight_bits=3, activation_bits=4)

every_student = pytest.mark.parametrize("student", STUDENTS, ids=lambda student: student.name)


def quantized(student: StudentConfig) -> nn.Module:
    torch.manual_seed(0)
    network = prepare(student.build(NUM_CLASSES), BITS)
    calibrate(network, torch.randn(2, 3, 32, 32))
    return network


def test_families_are_found() -> None:
    assert "unet" in {student.name for student in STUDENTS}


@every_student
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (50, 36)], ids=str)
def test_logits_have_the_size_of_the_images(student: StudentConfig, size: tuple[int, int]) -> None:
    network = student.build(NUM_CLASSES).eval()
    with torch.no_grad():
        outputs = forward_features(network, torch.randn(2, 3, *size))
    assert outputs.logits.shape == (2, NUM_CLASSES, *size)
    assert outputs.features.shape[0] == 2
    assert outputs.logits.isfinite().all()


@every_student
def test_its_groups_name_its_layers(student: StudentConfig) -> None:
    network = student.build(NUM_CLASSES)
    layers = set(quantizable_names(network))
    assert {layer for group in find_input_groups(network) for layer in group} <= layers
    assert {network.group_of(layer) for layer in layers} <= {"encoder", "decoder", None}
    for parts in network.layer_groups.values():
        assert all(network.get_submodule(part) for part in parts)


class Wrapped(StudentNetwork):
    """A network inside another, with groups whose names begin alike."""

    layer_groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "encoder": ("network", "network.back"),
        "decoder": ("network.head", "network.backbone.last"),
    }


def test_the_innermost_module_decides_on_the_group() -> None:
    groups = {
        "network.backbone.0": "encoder",
        "network.backbone.last.conv": "decoder",
        "network.head": "decoder",
        "network.header": "encoder",
        "networks.0": None,
    }
    assert {layer: Wrapped().group_of(layer) for layer in groups} == groups


@every_student
def test_it_is_described_in_a_few_words(student: StudentConfig) -> None:
    assert student.name.split("_")[0] in student.describe()
    assert len(student.describe()) <= 24


@every_student
def test_a_seed_draws_the_same_weights(student: StudentConfig) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        network = student.build(NUM_CLASSES)
        student.initialize(network)
        states.append(network.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@every_student
def test_costs_are_known_before_training(student: StudentConfig) -> None:
    network = student.build(NUM_CLASSES)
    assert count_params(student, NUM_CLASSES) == sum(p.numel() for p in network.parameters())
    assert count_macs(student, NUM_CLASSES, 64, 64) == pytest.approx(
        4 * count_macs(student, NUM_CLASSES, 32, 32), rel=0.1
    )
    assert quantizable_names(meta_network(student, NUM_CLASSES)) == quantizable_names(network)
    config = TrialConfig(student=student, recipe=Ptq(quantizer=BITS), num_epochs=1)
    card = ModelSpec(model=student, num_classes=NUM_CLASSES, quantizer=BITS)
    assert predict_size_bytes(config, NUM_CLASSES) == len(serialize(quantized(student), card))


@every_student
def test_it_learns_with_few_bits_and_its_file_predicts_the_same(student: StudentConfig) -> None:
    network, images = quantized(student).train(), torch.randn(4, 3, 32, 32)
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer_loop = OptimizerLoop(network, AdamW(), num_steps=2, accumulation_steps=1)
    optimizer_loop.step(network(images).square().mean())
    moved = [n for n, value in network.named_parameters() if not torch.equal(value, before[n])]
    assert len(moved) > 0.8 * len(before)
    card = ModelSpec(model=student, num_classes=NUM_CLASSES, quantizer=BITS)
    shipped = deserialize(serialize(network.eval(), card))
    assert not any(isinstance(module, QuantizedLayer) for module in shipped.modules())
    with torch.no_grad():
        expected, found = network(images), shipped(images)
    assert (expected.argmax(1) == found.argmax(1)).float().mean() > 0.999
