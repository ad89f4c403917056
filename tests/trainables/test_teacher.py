"""Which teacher is taken, and how it is measured."""

from pathlib import Path

import pytest
import torch

from trainables.config import RunConfig, TrialConfig
from trainables.data.augmentation import Augmentation
from trainables.data.loader import Loader
from trainables.data.pack import open_pack
from trainables.evaluation import evaluate
from trainables.models.file import ModelCard, read_model, write_model
from trainables.models.outputs import place
from trainables.models.torchvision_model import TorchvisionConfig, TorchvisionModel
from trainables.models.unet import UNetConfig
from trainables.recipes import Supervised
from trainables.recipes.optimization import AdamW
from trainables.teacher import check_teacher, prepare_teacher

OWN = TrialConfig(
    student=UNetConfig(width=8, depth=2),
    recipe=Supervised(optimizer=AdamW(learning_rate=1e-2)),
    augmentation=Augmentation(color=0),
    num_epochs=4,
)


def test_auto_trains_a_teacher_once(blocks_run: RunConfig) -> None:
    first = prepare_teacher(blocks_run, "auto", OWN)
    stamp = first.file.stat().st_mtime_ns
    again = prepare_teacher(blocks_run, "auto", OWN)
    assert again == first
    assert again.file.stat().st_mtime_ns == stamp
    assert "U-Net of width 8 trained on the data" in first.note
    assert 0.3 < first.miou <= 1


def test_a_file_is_measured_on_the_validation_split(
    blocks_run: RunConfig, teacher_file: Path
) -> None:
    teacher = prepare_teacher(blocks_run, str(teacher_file), OWN)
    data = open_pack(blocks_run.data)
    val = Loader(data.val, torch.device("cpu"))
    scores = evaluate(place(read_model(teacher_file), val.device), val, 5)
    assert teacher.miou == scores.miou


def test_a_torchvision_network_becomes_a_model_file(
    blocks_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "lraspp_mobilenet_v3_large"
    network = TorchvisionModel(name, 21).eval()
    monkeypatch.setattr("trainables.teacher.load_pretrained", lambda _: network)
    monkeypatch.setattr("trainables.teacher.VOC_CLASSES", open_pack(blocks_run.data).class_names)
    monkeypatch.setattr("trainables.teacher.DEFAULT_TORCHVISION", name)
    monkeypatch.setattr("trainables.teacher.measure", lambda folder, *_: write_zero(folder))
    teacher = prepare_teacher(blocks_run, "auto", OWN)
    assert teacher.note == f"torchvision {name}"
    loaded = read_model(teacher.file)
    for ours, theirs in zip(loaded.parameters(), network.parameters(), strict=True):
        assert ours.equal(theirs)


def write_zero(folder: Path) -> None:
    (folder / "metrics.json").write_text('[{"miou": 0.0}]')


def test_without_a_network_auto_falls_back_and_says_so(
    blocks_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise ConnectionError("there is no network")

    monkeypatch.setattr("trainables.teacher.load_pretrained", refuse)
    monkeypatch.setattr("trainables.teacher.VOC_CLASSES", open_pack(blocks_run.data).class_names)
    teacher = prepare_teacher(blocks_run.replace(num_threads=1), "auto", OWN)
    assert teacher.note.endswith("trained on the data, because there is no network")


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    card = ModelCard(model=TorchvisionConfig(name="lraspp_mobilenet_v3_large"), num_classes=7)
    write_model(tmp_path / "t.safetensors", card.build(), card)
    with pytest.raises(ValueError, match=r"must have the 5 classes of the data, but .* has 7"):
        check_teacher(str(tmp_path / "t.safetensors"), 5)
