"""Pretrained weights of students: fetched once, kept as artifacts, and part of a training's key."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import TrialFailed
from trainables.data.packed import pack_dataset
from trainables.data.voc import VocFolder
from trainables.models.backbones import Backbone
from trainables.models.configs import (
    EncoderDecoderConfig,
    StudentConfig,
    TracedConfig,
    WeightSources,
    weights_digest,
)
from trainables.models.student_list import parse_students
from trainables.models.trace_network import record_network
from trainables.recipes.configs import Supervised
from trainables.train import main
from trainables.training.identity import training_facts
from trainables.training.setup import set_up_weights
from trainables.training.task import TrialTask
from trainables.training.weights import check_students, check_weights, prepare_weights


@pytest.fixture
def run(blocks_run: ExecutionConfig, tmp_path: Path) -> ExecutionConfig:
    """With an artifact store of its own."""
    return blocks_run.replace(artifacts=tmp_path / "artifacts")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(7)
    path = tmp_path / "weights.pth"
    torch.save(Backbone("mobilenet_v1", 0.25, is_dilated=False).network.state_dict(), path)
    return path


def student_of(file: Path) -> StudentConfig:
    fields = {"name": "unet_mobilenet_v1", "multiplier": 0.25, "channels": 8}
    return EncoderDecoderConfig.model_validate({**fields, "weights": weights_digest(file)})


def test_weights_are_prepared_once_and_students_start_from_them(
    run: ExecutionConfig, file: Path
) -> None:
    student, store, lines = student_of(file), ArtifactStore(run.artifacts), list[str]()
    check_weights([student], WeightSources(backbones=(file,)), store, run.data.name)
    assert not run.artifacts.exists()
    set_up_weights(
        run, [student, student.replace(channels=16)], WeightSources(backbones=(file,)), lines.append
    )
    (folder,) = run.artifacts.glob("weights-*")
    assert lines == [f"pretrained weights of unet mnv1 0.25/8: {folder / 'weights.safetensors'}"]
    expected = torch.load(file, weights_only=True)["layers.0.0.weight"]
    file.unlink()
    check_weights([student], WeightSources(), store, run.data.name)
    for config in (student, student.replace(channels=16)):  # a decoder does not change them
        assert prepare_weights(run, config) == folder / "weights.safetensors"
        task = TrialTask(TrialConfig(student=config, recipe=Supervised()), run)
        found = task.new_student().state_dict()["backbone.network.layers.0.0.weight"]
        assert torch.equal(found, expected)


def test_a_teacher_has_weights_for_the_images_that_it_sees(
    run: ExecutionConfig, file: Path, blocks_folder: Path
) -> None:
    teacher, store = student_of(file), ArtifactStore(run.artifacts)
    larger = pack_dataset(VocFolder(blocks_folder, 16, None), store).path
    run, sources = run.replace(teacher_data=larger), WeightSources(backbones=(file,))
    set_up_weights(run, [], sources, print, [teacher])
    file.unlink()
    for each in (run, run.of_teacher):
        assert prepare_weights(each, teacher) is not None


def test_a_student_whose_weights_are_not_to_be_had_fails(run: ExecutionConfig, file: Path) -> None:
    student = student_of(file)
    with pytest.raises(ValueError, match=r"must name the file of unet mnv1 0.25/8 whose SHA-256"):
        check_weights([student], WeightSources(), ArtifactStore(run.artifacts), run.data.name)
    task = TrialTask(TrialConfig(student=student, recipe=Supervised()), run)
    with pytest.raises(TrialFailed, match=r"must name the file of unet mnv1 0.25/8 whose SHA-256"):
        task.new_student()


def test_weights_determine_a_training(run: ExecutionConfig, file: Path) -> None:
    student = student_of(file)
    facts = training_facts(TrialConfig(student=student, recipe=Supervised()), run)
    assert facts["weights"] == student.weights_key()
    assert student.replace(weights=None).weights_key() is None
    plain = TrialConfig(student=student.replace(weights=None), recipe=Supervised())
    assert set(training_facts(plain, run)) == {"format", "config", "data", "bfloat16"}


def test_a_configuration_with_weights_is_trained_from_the_command_line(
    blocks_folder: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrialConfig(student=student_of(file), recipe=Supervised(), num_epochs=1)
    path, out = tmp_path / "config.json", tmp_path / "out"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    argv = [str(path), "--data", str(blocks_folder), "--image-size", "32", "--out", str(out)]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "--backbone-weights must name the file of unet mnv1 0.25/8" in error
    assert len(error.splitlines()) == 1
    main([*argv, "--backbone-weights", str(file)])
    assert "pretrained weights of unet mnv1 0.25/8: " in capsys.readouterr().out


class Narrow(nn.Module):
    """A network of stride 8, with a convolution that is not padded behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.last = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 5, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.down(images))
        return logits


def test_images_must_be_large_enough_for_a_student() -> None:
    recorded = record_network(Narrow(), nn.Identity(), "narrow")
    narrow = TracedConfig(
        label="narrow", graph=recorded.graph.encode(), num_classes=5, weights="0" * 16
    )
    check_students([narrow], 5, (32, 40))
    message = r"large enough for narrow, and of a size that it takes, but of 16 x 16 pixels it says"
    with pytest.raises(ValueError, match=message):
        check_students([narrow], 5, (16, 16))
    (deep,) = parse_students("unet_resnet18")
    check_students([deep], 5, (32, 24))
    message = "images must have at least 32 pixels, the stride of .*, but the longest side has 16"
    with pytest.raises(ValueError, match=message):
        check_students([deep], 5, (16, 12))
    with pytest.raises(ValueError, match="of the 7 classes of the data, but narrow has 5"):
        check_students([narrow], 7, (32, 40))
