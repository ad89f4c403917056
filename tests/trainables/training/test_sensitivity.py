"""Sensitivities of layers, measured on a pretrained student."""

import copy
from pathlib import Path
from typing import get_args

import pytest
import torch
from calibration_networks import random_images, unequal_network
from torch import Tensor

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import read_artifact
from trainables.core.progress import progress_to
from trainables.data.configs import Augmentation
from trainables.models.base import StudentNetwork
from trainables.models.configs import StudentConfig, UNetConfig
from trainables.quantization.bits import LayerBits
from trainables.quantization.mixed_precision import CHOICES
from trainables.quantization.prepare import (
    calibrate,
    find_layer_roles,
    layer_bits,
    prepare,
    quantizable_names,
)
from trainables.quantization.quantizers.configs import Lsq, MixedPrecision, QuantizerName
from trainables.recipes.configs import AdamW, Distill, Ptq, Supervised
from trainables.training.identity import training_facts
from trainables.training.sensitivity import (
    cache_sensitivity,
    find_sensitivity,
    measure_sensitivity,
    read_sensitivity,
)
from trainables.training.trial import train_or_find

STUDENT = UNetConfig(width=4, depth=1)


def test_a_pretrained_student_is_measured_once(
    blocks_run: ExecutionConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    start = TrialConfig(
        student=STUDENT,
        recipe=Supervised(optimizer=AdamW(learning_rate=1e-2)),
        augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
        num_epochs=4,
    )
    assert find_sensitivity(blocks_run, start, "lsq") is None
    path = cache_sensitivity(start, blocks_run, "lsq")
    assert find_sensitivity(blocks_run, start, "lsq") == path
    assert find_sensitivity(blocks_run, start, "codebook") is None
    other = cache_sensitivity(start, blocks_run, "codebook")
    assert find_sensitivity(blocks_run, start, "codebook") == other != path
    assert read_artifact(path.parent).key.keys() == {"format", "start"}  # as earlier versions
    known = read_sensitivity(path)
    modified = path.stat().st_mtime_ns
    assert cache_sensitivity(start, blocks_run, "lsq").stat().st_mtime_ns == modified
    names = quantizable_names(STUDENT.build(5))
    assert list(known.weights) == names
    readers = [reader for group in known.readers.values() for reader in group]
    assert sorted(readers) == sorted(names)
    assert set(known.inputs) == set(known.num_inputs) == set(known.readers)
    for losses in (*known.weights.values(), *known.inputs.values()):
        assert tuple(losses) == CHOICES
        assert all(loss > -1e-6 for loss in losses.values())
        assert losses[8] < losses[2]


def test_a_distilled_start_of_version_0_2_is_found_by_the_folder_of_its_teacher(
    blocks_run: ExecutionConfig, teacher_file: Path, tmp_path: Path
) -> None:
    """With its sensitivity, so that a resumed study gives its students the same bits."""
    run = blocks_run.replace(teacher=teacher_file, artifacts=tmp_path)
    start = TrialConfig(
        student=STUDENT,
        recipe=Distill(optimizer=AdamW(learning_rate=1e-2)),
        augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
        num_epochs=4,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainables.training.identity.training_facts", facts_of_0_2)
        kept = cache_sensitivity(start, run, "lsq")
    (folder,) = tmp_path.glob("student-*")
    assert read_artifact(folder).key["teacher"] == teacher_file.parent.name
    assert train_or_find(start, run).path == folder
    assert find_sensitivity(run, start, "lsq") == cache_sensitivity(start, run, "lsq") == kept
    elsewhere = tmp_path / "other" / teacher_file.name
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(teacher_file.read_bytes())
    assert find_sensitivity(run.replace(teacher=elsewhere), start, "lsq") is None


def facts_of_0_2(config: TrialConfig, run: ExecutionConfig) -> dict[str, object]:
    assert run.teacher is not None
    return {**training_facts(config, run), "teacher": run.teacher.parent.name}


def student_with_statistics(width: int, size: int) -> tuple[StudentNetwork, Tensor]:
    """A network in training mode whose BatchNorm has seen the images (2,3,size,size)."""
    torch.manual_seed(0)
    student, images = UNetConfig(width=width, depth=1).build(5), torch.randn(2, 3, size, size)
    for _ in range(20):
        student(images)
    return student.requires_grad_(False), images


def test_a_loss_is_the_divergence_of_the_quantized_network_from_the_full_one() -> None:
    student, images = student_with_statistics(width=2, size=8)
    known = measure_sensitivity(student, images)
    for name, losses in known.weights.items():
        layers = {name: LayerBits(weight_bits=2, activation_bits=32)}
        quantized = prepare(
            copy.deepcopy(student), Lsq(weight_bits=32, activation_bits=32, layers=layers)
        )
        calibrate(quantized, images)
        full, few = student(images).softmax(1), quantized(images).softmax(1)
        divergence = (full * (full / few).log()).sum(1).mean().item()
        assert losses[2] == pytest.approx(divergence, rel=1e-3)


def test_sensitivity_is_that_to_the_quantizer_that_is_named() -> None:
    """Two bits of weights on free points change a network less than on a uniform grid."""
    student, images = student_with_statistics(width=4, size=16)
    known = {kind: measure_sensitivity(student, images, kind) for kind in get_args(QuantizerName)}
    total = {
        kind: sum(losses[2] for losses in each.weights.values()) for kind, each in known.items()
    }
    assert len(set(total.values())) > 3
    assert total["codebook"] < 0.6 * total["lsq"]
    assert known["codebook"].inputs == known["lsq"].inputs


def test_measuring_says_how_far_it_is() -> None:
    lines: list[str] = []
    with progress_to(lines.append, every_s=0):
        measure_sensitivity(STUDENT.build(5), torch.randn(2, 3, 16, 16))
    for tensors in ("weights", "inputs"):
        said = [line for line in lines if f"measuring the sensitivity of {tensors}: layer" in line]
        assert len(said) > 2
        assert all(" left" in line for line in said[1:])


def test_a_network_is_left_as_it_was_and_readers_of_one_tensor_go_together() -> None:
    torch.manual_seed(0)
    student = STUDENT.build(5).eval()
    images = torch.randn(2, 3, 16, 16)
    before = student(images)
    known = measure_sensitivity(student, images)
    assert torch.equal(student(images), before)
    assert known.readers["encoder.1.0"] == ("encoder.1.0", "decoder.0.0")
    assert "decoder.0.0" not in known.inputs
    assert known.num_inputs["encoder.1.0"] == 4 * 8 * 8 + 8 * 16 * 16
    assert known.num_weights["classifier"] == 4 * 5
    assert known.num_inputs["encoder.0.0"] == 3 * 16 * 16
    bits = MixedPrecision(activation_bits=4).resolve(known, STUDENT.build(5).group_of).layers
    assert bits["encoder.1.0"].activation_bits == bits["decoder.0.0"].activation_bits
    quantized = prepare(
        STUDENT.build(5),
        MixedPrecision(activation_bits=4).resolve(known, STUDENT.build(5).group_of),
    )
    for name, layer in bits.items():
        quantizer = quantized.get_submodule(name).input_quantizer
        assert quantizer.bits == layer.activation_bits  # type: ignore[union-attr]


def test_layers_that_read_what_is_added_are_not_measured() -> None:
    """Their inputs have 8 bits anyway, and do not count for the mean."""
    network = unequal_network()
    measured = measure_sensitivity(network, random_images())
    assert set(measured.weights) == set(quantizable_names(network))
    assert set(measured.inputs) == {"stem.0.0", "depthwise.0.0", "project.0"}
    quantizer = MixedPrecision(activation_bits=3).resolve(measured, lambda _: None)
    assert quantizer.layers["head"].activation_bits == 8
    assert quantizer.layers["expand.0.0"].activation_bits == 8
    bits = layer_bits(find_layer_roles(network), quantizer)
    assert bits["quantized_additions.0"].activation_bits == 8
    assert sum(bits[name].activation_bits * size for name, size in measured.num_inputs.items()) <= (
        3 * sum(measured.num_inputs.values())
    )


def test_a_training_on_quantized_additions_is_another_than_on_floats(
    blocks_run: ExecutionConfig,
) -> None:
    """So that no checkpoint of an earlier version is continued with grids that it lacks."""
    residual = StudentConfig.members()["unet_mobilenet_v2"].model_validate(
        {"name": "unet_mobilenet_v2", "multiplier": 0.25, "channels": 16}
    )
    for student, recipe, expected in (
        (residual, Ptq(start=Supervised()), "quantized"),
        (residual, Supervised(), None),
        (STUDENT, Ptq(start=Supervised()), None),
    ):
        config = TrialConfig(student=student, recipe=recipe, num_epochs=1)
        assert training_facts(config, blocks_run).get("additions") == expected
