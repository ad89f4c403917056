"""The configuration of a single training, as its command line sets it."""

from pathlib import Path

import pytest

from trainables.core.flags import build_config, typed_values
from trainables.train import make_parser
from trainables.training.training_config import TrainingConfig


def parse(*argv: str) -> TrainingConfig:
    arguments = make_parser().parse_args(["config.json", "--out", "out", *argv])
    given = typed_values(TrainingConfig, arguments)
    return build_config(TrainingConfig, {"image_size": 32, **given})


def test_flags_are_read_as_a_search_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    Path("net.pth").touch()
    config = parse(
        *("--data", "~/images", "--unlabelled", "more", "--backbone-weights", "a.pth,/b.pth"),
        *("--teacher", "net.pth", "--compress", "fcn_resnet50", "--checkpoint-every", "500ms"),
    )
    assert config.data == "/home/me/images"
    assert config.unlabelled == tmp_path / "more"
    assert config.backbone_weights == (tmp_path / "a.pth", Path("/b.pth"))
    assert config.teacher == str(tmp_path / "net.pth")
    assert config.compress == "fcn_resnet50"
    assert config.checkpoint_every_s == 0.5


def test_seconds_between_checkpoints_need_no_unit() -> None:
    assert parse("--checkpoint-every", "20").checkpoint_every_s == 20
    assert parse().checkpoint_every_s == 10


def test_a_teacher_that_comes_trained_has_no_seeds() -> None:
    with pytest.raises(ValueError, match=r"^--teacher-seeds must be 1 for a teacher that .*2$"):
        parse("--teacher", "fcn_resnet50", "--teacher-seeds", "2")
