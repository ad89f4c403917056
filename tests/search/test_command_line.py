"""The help of `search.run`, and output into a closed pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from factories import make_study_file

from search.core.config import StudyConfig
from search.run import config_from_arguments, is_resumed, main, make_parser
from search.storage.study_file import write_study_file
from trainables.models.backbones import Backbone
from trainables.models.configs import StudentConfig
from trainables.models.student_list import write_students

HELP = Path(__file__).with_name("run_help.txt")
"""The help of `search.run` on a terminal of 100 columns."""


def test_help_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as leave:
        main(["--help"])
    assert leave.value.code == 0
    assert capsys.readouterr().out == HELP.read_text()


@pytest.mark.parametrize("flag", ["--help", "--list-spaces"])
def test_a_reader_may_leave(flag: str) -> None:
    """As `head -1` does, here before anything was written."""
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "search.run", flag]
    try:
        done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_student_with_weights_of_a_file_is_trained_as_the_teacher(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(Backbone("mobilenet_v1", 0.5, is_dilated=False).network.state_dict(), file)
    argv = ["--space", "kd", "--students", "unet", "--backbone-weights", str(file)]
    argv += ["--storage", str(tmp_path), "--teacher", "unet_mobilenet_v1"]
    config = config_from_arguments(make_parser().parse_args(argv))
    assert write_students(config.students) == "unet"
    assert isinstance(config.teacher, StudentConfig)
    assert (config.teacher.describe(), config.teacher.is_pretrained) == ("unet mnv1 0.5", True)
    assert StudyConfig.model_validate_json(config.model_dump_json()).teacher == config.teacher


def test_quiet_and_verbose_exclude_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leave:
        main(["--space", "qkd", "--quiet", "--verbose"])
    assert leave.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --quiet and --verbose exclude one another")


def test_a_job_that_begins_again_goes_on_with_its_study(tmp_path: Path) -> None:
    argv = ["--space", "kd", "--teacher", "unet width=32", "--students", "unet", "--epochs", "3"]
    argv += ["--storage", str(tmp_path), "--name", "mine", "--or-resume"]
    new = configured(argv)
    assert not is_resumed(make_parser().parse_args(argv), new)
    file = make_study_file(tmp_path / "mine", config=new)
    (tmp_path / "mine").mkdir()
    write_study_file(file)
    assert is_resumed(make_parser().parse_args(argv), new)
    assert configured([*argv, "--samples", "64"]) == new.replace(samples=64)
    with pytest.raises(ValueError, match="must keep its --epochs, but mine has 3 and got 4"):
        configured([*argv, "--epochs", "4"])
    with pytest.raises(ValueError, match="must have a new name"):
        configured(argv[:-1])


def configured(argv: list[str]) -> StudyConfig:
    return config_from_arguments(make_parser().parse_args(argv))
