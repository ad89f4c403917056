"""Lists of students, and which of them the weights at hand are for."""

from pathlib import Path

import pytest
import torch

from spaces import U_NETS
from trainables.core import optional_dependencies
from trainables.models.backbone_weights import imagenet_file_name
from trainables.models.backbones import Backbone
from trainables.models.configs import EncoderDecoderConfig, UNetConfig, weights_digest
from trainables.models.student_list import (
    complete_students,
    complete_teacher,
    parse_students,
    write_students,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache, which is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(Backbone("mobilenet_v1", 0.5, is_dilated=False).network.state_dict(), path)
    return path


def test_students_are_read_and_written() -> None:
    text = "unet,deeplabv3_mobilenet_v1,unet_resnet18:imagenet"
    students = parse_students(text)
    assert [student.name for student in students] == [
        "unet",
        "deeplabv3_mobilenet_v1",
        "unet_resnet18",
    ]
    assert students[0] == UNetConfig()
    assert write_students(students) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "unet,vnet",
            r"one of unet, .*lraspp_mobilenet_v3_small.*, but got 'vnet' .did you mean unet..$",
        ),
        ("", r"must be one of .*, but got ''$"),
        (
            "unet:imagenet",
            r"only :imagenet may follow a name, .*lite0, but got 'unet:imagenet'$",
        ),
        (
            "unet_mobilenet_v1:imagenet",
            r"may follow a name, .* but got 'unet_mobilenet_v1:imagenet",
        ),
        ("unet_resnet18:best", r"may follow a name, .* but got 'unet_resnet18:best'$"),
    ],
)
def test_what_is_no_student_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_students(text)


@pytest.fixture(autouse=True)
def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default students depend on what is installed."""
    monkeypatch.setattr("trainables.models.student_list.has_timm", lambda: False)


def test_unets_are_the_default() -> None:
    assert complete_students(None, [], "imagenet", U_NETS) == (UNetConfig(),)


def test_weights_in_the_cache_are_at_hand(cache: Path) -> None:
    (cache / "mobilenet_v2-00000000.pth").touch()  # of another version
    (cache / imagenet_file_name("resnet18")).touch()
    students = complete_students(None, [], "imagenet", U_NETS)
    assert write_students(students) == "unet,unet_resnet18:imagenet"


def test_a_file_is_for_the_students_that_it_fits(file: Path) -> None:
    digest = weights_digest(file)
    named = parse_students("unet,unet_mobilenet_v1,unet_resnet18,deeplabv3_mobilenet_v1")
    students = complete_students(named, [file], "symmetric", U_NETS)
    assert [student.name for student in students] == [student.name for student in named]
    for index in (0, 2):
        assert students[index] == named[index]
    for index in (1, 3):
        student = students[index]
        assert isinstance(student, EncoderDecoderConfig)
        assert (student.weights, student.multiplier) == (digest, 0.5)
        assert student.input_normalization == "symmetric"
        depth = {"encoder_depth"} if student.name.startswith("unet") else set()
        assert student.choices().keys() == {"channels"} | depth
    default = complete_students(None, [file], "imagenet", U_NETS)
    assert [student.name for student in default] == ["unet", "unet_mobilenet_v1"]


def test_a_file_may_be_for_the_teacher_alone(file: Path) -> None:
    (teacher,) = parse_students("unet_mobilenet_v1")
    students = complete_students(parse_students("unet"), [file], "symmetric", others=[teacher])
    assert students == (UNetConfig(),)
    completed = complete_teacher(teacher, [file], "symmetric")
    assert isinstance(completed, EncoderDecoderConfig)
    assert (completed.weights, completed.multiplier) == (weights_digest(file), 0.5)
    (other,) = parse_students("unet_resnet18")
    with pytest.raises(ValueError, match=r"must fit the student's backbone, but"):
        complete_teacher(other, [file], "symmetric")
    with pytest.raises(ValueError, match=r"--backbone-weights must be a file, but there is no /no"):
        complete_teacher(other, [Path("/no")], "symmetric")
    for needs_none in (*parse_students("unet,unet_resnet18:imagenet"), completed):
        assert complete_teacher(needs_none, [file], "symmetric") == needs_none
    default = complete_students(None, [file], "imagenet", U_NETS, [other])
    assert [student.name for student in default] == ["unet", "unet_mobilenet_v1"]


def test_the_nearest_student_says_why_a_file_does_not_fit(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    del state["layers.5.0.weight"]
    torch.save(state, file)
    named = parse_students("unet_mobilenet_v2,unet_mobilenet_v1")
    with pytest.raises(
        ValueError, match=r"must fit the student's backbone, but .*lacks 'layers.5.0"
    ):
        complete_students(named, [file], "imagenet", U_NETS)
    with pytest.raises(
        ValueError, match=r"--students must name a student with a backbone for .*pth"
    ):
        complete_students(parse_students("unet"), [file], "imagenet", U_NETS)
    with pytest.raises(
        ValueError, match=r"--backbone-weights must be a file, but there is no .*gone"
    ):
        complete_students(named, [file.with_name("gone")], "imagenet", U_NETS)


def test_a_student_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional_dependencies, "has_timm", lambda: False)
    with pytest.raises(ValueError, match="efficientnet_lite0 needs timm, which is not installed"):
        complete_students(parse_students("unet,unet_efficientnet_lite0"), [], "imagenet", U_NETS)
