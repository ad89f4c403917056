"""The Multi-Process Service, with a stand-in for NVIDIA's program that notes what it is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from drivers import wait_until
from mps_program import HANGING, REFUSING, SERVICE, install

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.progress import progress_to
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Supervised
from trainables.training import mps
from trainables.training.mps import (
    PIPES,
    MpsUnavailable,
    MultiProcessService,
    is_in_use,
    join_service,
    new_folder,
)
from trainables.training.trial import Trial

REPOSITORY = Path(__file__).parents[3]


def test_a_service_sees_all_gpus_and_is_told_to_quit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, folder = install(SERVICE, tmp_path, monkeypatch), tmp_path / "service"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    service = MultiProcessService(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv(PIPES, "elsewhere")  # so that what is joined is set back
    join_service(tmp_path / "absent")
    assert os.environ[PIPES] == "elsewhere"
    assert not is_in_use()
    join_service(folder)
    assert os.environ[PIPES] == str(folder)
    assert is_in_use()
    service.close()
    assert log.read_text().splitlines() == [
        "begins with CUDA_VISIBLE_DEVICES=unset",
        "get_server_list",
        "quit -t 10",
    ]
    assert not folder.exists()
    join_service(folder)  # nothing happens
    assert not is_in_use()


def test_what_cannot_join_a_service_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(SERVICE, tmp_path, monkeypatch)
    service, said = MultiProcessService(tmp_path / "service"), list[str]()
    with progress_to(said.append):
        monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
        join_service(service.folder)
        monkeypatch.undo()
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        (service.folder / "killed").touch()
        join_service(service.folder)
    assert PIPES not in os.environ
    assert said == [
        "the Multi-Process Service (MPS) is not used: this process has used a GPU before",
        "the Multi-Process Service (MPS) is not used: it does not answer",
    ]
    service.close()


def test_a_service_is_not_started_for_parts_of_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(SERVICE, tmp_path, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-8932f937/1/0")
    with pytest.raises(MpsUnavailable, match="MIG"):
        MultiProcessService(tmp_path / "service")


def test_a_service_ends_with_a_process_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, folder = install(SERVICE, tmp_path, monkeypatch), tmp_path / "service"
    program = (
        "from pathlib import Path; import os, signal, sys; "
        "from trainables.training.mps import MultiProcessService; "
        "service = MultiProcessService(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    killed = subprocess.run([sys.executable, "-c", program, folder], env=environment)
    assert killed.returncode == -9
    wait_until(lambda: log.read_text().endswith("quit -t 10\n"))


@pytest.mark.parametrize(
    ("program", "reason"),
    [(None, "there is no nvidia-cuda-mps-control"), (REFUSING, "an error: no rights")],
)
def test_the_reason_why_a_service_does_not_start_is_given(
    program: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        install(program, tmp_path, monkeypatch)
    with pytest.raises(MpsUnavailable, match=f"^{reason}$"):
        MultiProcessService(tmp_path / "service")
    assert not (tmp_path / "service").exists()


def test_a_folder_that_cannot_be_made_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(SERVICE, tmp_path, monkeypatch)
    (tmp_path / "file").touch()
    with pytest.raises(MpsUnavailable, match="file/service"):
        MultiProcessService(tmp_path / "file" / "service")


def test_a_service_that_does_not_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(HANGING, tmp_path, monkeypatch)
    monkeypatch.setattr(mps, "START_S", 0.2)
    with pytest.raises(MpsUnavailable, match="nvidia-cuda-mps-control does not answer"):
        MultiProcessService(tmp_path / "service")


def test_the_names_of_folders_are_short_and_new() -> None:
    first, second = new_folder(), new_folder()
    assert first != second
    assert not first.exists()
    assert len(str(first)) < 80  # a pipe's whole name has 108 characters at most


def test_a_trial_joins_the_service_of_its_run(
    blocks_run: ExecutionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[Path] = []
    monkeypatch.setattr("trainables.training.trial.join_service", joined.append)
    config = TrialConfig(student=UNetConfig(width=2, depth=2), recipe=Supervised())
    Trial(config, blocks_run)
    Trial(config, blocks_run.replace(mps=tmp_path))
    assert joined == [tmp_path]
