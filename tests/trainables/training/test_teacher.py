"""Which teacher is taken, and how it is measured."""

import re
from email.message import Message
from http.client import IncompleteRead
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.metrics import SplitMetrics, TeacherMetrics
from trainables.core.progress import progress_to
from trainables.data.configs import Augmentation
from trainables.data.packed import open_pack, pack_dataset
from trainables.data.voc import VocFolder
from trainables.models.configs import TorchvisionConfig, UNetConfig
from trainables.models.model_file import ModelSpec, read_model, write_model
from trainables.models.student_list import parse_students
from trainables.models.torchvision_model import TorchvisionModel, weights_file
from trainables.recipes.configs import AdamW, Supervised
from trainables.teachers.averaging import Averaging, choose_averaging
from trainables.training.teacher import check_teacher, prepare_teacher
from trainables.training.teacher_metrics import measure_teacher

ZERO = SplitMetrics(miou=0.0, class_iou=(0.0,) * 5, never_predicted=())
KNOWN = TeacherMetrics(train=ZERO, val=ZERO)
CANVAS = (32, 32)
LRASPP = "lraspp_mobilenet_v3_large"
OWN = TrialConfig(
    student=UNetConfig(width=8, depth=2),
    recipe=Supervised(optimizer=AdamW(learning_rate=1e-2)),
    augmentation=Augmentation(color=0),
    num_epochs=4,
)


def test_auto_trains_a_teacher_once(blocks_run: ExecutionConfig) -> None:
    first = prepare_teacher(blocks_run, "auto", OWN)
    stamp = first.file.stat().st_mtime_ns
    again = prepare_teacher(blocks_run, "auto", OWN)
    assert again == first
    assert again.file.stat().st_mtime_ns == stamp
    assert "unet 8 depth 2 trained on the data" in first.note
    assert 0.3 < first.miou <= 1


def test_a_student_that_is_named_is_trained(
    blocks_run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "trainables.training.teacher.VOC_CLASSES", open_pack(blocks_run.data).class_names
    )
    (named,) = parse_students("unet")
    teacher = prepare_teacher(blocks_run, named, OWN)
    assert teacher == prepare_teacher(blocks_run, named, OWN)
    assert "unet 8 depth 2 trained on the data" in teacher.note


def test_a_teacher_is_the_mean_of_seeds_and_of_mirror_images(blocks_run: ExecutionConfig) -> None:
    both = Averaging(num_seeds=2, mirrored=True)
    teacher = prepare_teacher(blocks_run, "auto", OWN, both)
    assert teacher.note.endswith("trained on the data, the mean of 2 seeds, mirror images averaged")
    stamp = teacher.file.stat().st_mtime_ns
    assert prepare_teacher(blocks_run, "auto", OWN, both) == teacher
    assert teacher.file.stat().st_mtime_ns == stamp
    averaged = read_model(teacher.file)
    first = read_model(prepare_teacher(blocks_run, "auto", OWN).file)
    second = read_model(prepare_teacher(blocks_run, "auto", OWN.replace(seed=1)).file)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        parts = [net(images).softmax(1) for net in (first, second)]
        parts += [net(images.flip(3)).softmax(1).flip(3) for net in (first, second)]
        torch.testing.assert_close(averaged(images).softmax(1), torch.stack(parts).mean(0))


def test_a_folded_model_file_is_not_averaged(
    blocks_run: ExecutionConfig, teacher_file: Path
) -> None:
    plain = prepare_teacher(blocks_run, str(teacher_file), OWN)
    mirrored = prepare_teacher(blocks_run, str(teacher_file), OWN, Averaging(mirrored=True))
    assert (mirrored.file, mirrored.metrics) == (plain.file, plain.metrics)
    assert "mirror" not in plain.note
    assert ", mirror images not averaged, since its normalisation is folded" in mirrored.note


def test_mirror_images_are_averaged_where_outputs_are_kept() -> None:
    assert choose_averaging(3, "auto", is_live=False) == Averaging(3, mirrored=True)
    assert choose_averaging(1, "auto", is_live=True) == Averaging(1, mirrored=False)
    assert choose_averaging(1, "on", is_live=True).mirrored
    assert not choose_averaging(1, "off", is_live=False).mirrored


def test_a_teacher_is_trained_and_measured_on_the_images_that_it_sees(
    blocks_run: ExecutionConfig, blocks_folder: Path
) -> None:
    store = ArtifactStore(blocks_run.artifacts)
    small, large = (
        pack_dataset(VocFolder(blocks_folder, 16, size), store).path for size in (None, 32)
    )
    run = blocks_run.replace(data=small, teacher_data=large)
    teacher = prepare_teacher(run, "auto", OWN)
    assert teacher.note.endswith("at 32x32 pixels")
    assert teacher.metrics == measure_teacher(teacher.file, run.of_teacher, open_pack(large))
    assert teacher.file == prepare_teacher(blocks_run.replace(data=large), "auto", OWN).file


def test_its_training_says_how_far_it_is(blocks_run: ExecutionConfig, tmp_path: Path) -> None:
    lines: list[str] = []
    with progress_to(lines.append, every_s=0):
        prepare_teacher(blocks_run.replace(artifacts=tmp_path), "auto", OWN)
    assert lines[0] == "training the teacher: epoch 1 of 4"
    for epoch in (2, 3, 4):
        line = rf"training the teacher: epoch {epoch} of 4, about \d+ s left"
        assert any(re.fullmatch(line, said) for said in lines)


def test_its_measurement_says_how_far_it_is(
    blocks_run: ExecutionConfig, teacher_file: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    with progress_to(lines.append, every_s=0):
        prepare_teacher(blocks_run.replace(artifacts=tmp_path), str(teacher_file), OWN)
    assert lines[0] == "measuring the teacher: batch 2 of 3"
    assert re.fullmatch(r"measuring the teacher: batch 3 of 3, about \d+ s left", lines[-1])


def test_a_torchvision_network_becomes_a_model_file(
    blocks_run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TorchvisionModel(LRASPP, 21).eval()
    monkeypatch.setattr("trainables.training.teacher.load_pretrained", lambda _: network)
    monkeypatch.setattr(
        "trainables.training.teacher.VOC_CLASSES", open_pack(blocks_run.data).class_names
    )
    monkeypatch.setattr("trainables.training.teacher.DEFAULT_PRETRAINED", LRASPP)
    monkeypatch.setattr("trainables.training.teacher.measure_teacher", lambda *_: KNOWN)
    teacher = prepare_teacher(blocks_run, "auto", OWN)
    assert teacher.note == f"torchvision {LRASPP}"
    assert teacher.metrics == KNOWN
    loaded = read_model(teacher.file)
    for ours, theirs in zip(loaded.parameters(), network.parameters(), strict=True):
        assert ours.equal(theirs)


def test_without_a_network_auto_falls_back_and_says_so(
    blocks_run: ExecutionConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise ConnectionError("there is no network")

    monkeypatch.setattr("trainables.training.teacher.load_pretrained", refuse)
    monkeypatch.setattr(
        "trainables.training.teacher.VOC_CLASSES", open_pack(blocks_run.data).class_names
    )
    teacher = prepare_teacher(blocks_run.replace(num_threads=1), "auto", OWN)
    assert teacher.note.endswith("trained on the data, because there is no network")


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    card = ModelSpec(model=TorchvisionConfig(name=LRASPP), num_classes=7)
    write_model(tmp_path / "t.safetensors", card.build(), card)
    with pytest.raises(ValueError, match=r"must have the 5 classes of the data, but .* has 7"):
        check_teacher(str(tmp_path / "t.safetensors"), 5, CANVAS)


def test_a_teacher_of_a_larger_stride_than_its_images_is_refused(tmp_path: Path) -> None:
    spec = ModelSpec(model=parse_students("unet_resnet18")[0], num_classes=5, folded=False)
    write_model(tmp_path / "t.safetensors", spec.build(), spec)
    check_teacher(str(tmp_path / "t.safetensors"), 5, (24, 32))
    message = r"--teacher must suit .*: images must have at least 32 pixels, the stride of"
    with pytest.raises(ValueError, match=f"{message} .*, but the longest side has 16"):
        check_teacher(str(tmp_path / "t.safetensors"), 5, (16, 16))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = get_model(LRASPP, weights=None, weights_backbone=None, num_classes=5)
    return model.eval()


def test_a_student_of_a_larger_stride_than_its_images_is_refused() -> None:
    (student,) = parse_students("unet_mobilenet_v1")
    check_teacher(student, 5, CANVAS)
    with pytest.raises(ValueError, match=r"at least 32 pixels, the stride of unet mnv1 1, but"):
        check_teacher(student, 5, (8, 8))


def test_a_state_dict_becomes_a_model_file(
    blocks_run: ExecutionConfig, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"model": network.state_dict()}, tmp_path / "t.pth")
    monkeypatch.setenv("HOME", str(tmp_path))
    check_teacher("~/t.pth", 5, CANVAS)
    teacher = prepare_teacher(blocks_run, "~/t.pth", OWN)
    assert teacher.note == f"{LRASPP} of {tmp_path / 't.pth'}"
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        logits, expected = read_model(teacher.file)(images), network(images)["out"]
    torch.testing.assert_close(logits, expected)
    assert prepare_teacher(blocks_run, str(tmp_path / "t.pth"), OWN) == teacher


def test_a_state_dict_of_other_classes_is_refused(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "t.pth")
    with pytest.raises(ValueError, match=r"must have the 7 classes of the data, but .*t.pth has 5"):
        check_teacher(str(tmp_path / "t.pth"), 7, CANVAS)


@pytest.mark.parametrize("spec", ["", "/no/file", "~nobody-of-this-name/t.pth", "unet"])
def test_what_names_no_teacher_is_refused(spec: str) -> None:
    message = "must be auto, a model file, a state dict of a torchvision network, .* or one of deep"
    with pytest.raises(ValueError, match=f"{message}.* but got {spec}$"):
        check_teacher(spec, 5, CANVAS)


class Response(BytesIO):
    """What the network answers with."""

    def info(self) -> Message:
        return Message()


class CutOff(Response):
    def read(self, size: int | None = -1) -> bytes:
        raise IncompleteRead(b"", 1000)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (OSError("the proxy says no\nand more"), "the proxy says no"),
        (URLError("no route to host"), "<urlopen error no route to host>"),
        (HTTPError("", 403, "Forbidden", Message(), None), "HTTP Error 403: Forbidden"),
        (CutOff(), r"IncompleteRead\(0 bytes read, 1000 more expected\)"),
        (
            Response(b"a page for whoever must log in"),
            r'invalid hash value \(expected "[0-9a-f]+".*',
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_keeps_pretrained_weights_away_is_said(
    answer: Response | Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def urlopen(*args: object) -> Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("torch.hub.urlopen", urlopen)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    message = rf"present, but {reason} and there is no file .*/lraspp_.*\.pth: put"
    with pytest.raises(ConnectionError, match=message) as refused:
        check_teacher(LRASPP, 21, CANVAS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"a page", "other"])
def test_damaged_weights_in_the_cache_are_named(
    content: bytes | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = weights_file(get_model_weights(LRASPP)["COCO_WITH_VOC_LABELS_V1"].url)
    file.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save({content: torch.ones(1)}, file)
    with pytest.raises(
        ValueError, match=rf"must be intact, but {file} is .*: delete it"
    ) as refused:
        check_teacher(LRASPP, 21, CANVAS)
    assert "\n" not in str(refused.value)
