"""What trials need before the first of them runs."""

from pathlib import Path
from typing import Any, cast

import pytest
from factories import make_config
from study_factories import open_new_study, open_stored_study

from search.execution.session import RemoteRunner
from search.storage.study_file import read_study_file
from search.study.prerequisites import record_teacher_choices, share_gpu
from search.tracking.console import ConsoleProgress
from trainables.config import ExecutionConfig
from trainables.core import terminal
from trainables.teachers.averaging import Averaging


def test_what_auto_came_to_is_for_the_next_driver(blocks_folder: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, blocks_folder, teacher_outputs="auto")
    study = open_new_study(config)
    record_teacher_choices(study, "views", Averaging(mirrored=True))
    assert study.config is study.cost_model.config
    assert study.config == config
    study.lock.release()
    kept = read_study_file(config.folder).config
    assert (kept.teacher_outputs, kept.teacher_flip) == ("views", "on")
    resumed = open_stored_study(kept)
    assert resumed.config == resumed.cost_model.config == kept


def test_a_slow_step_is_in_the_log_before_it_begins(
    blocks_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(terminal, "write_log", logged.append)
    config = make_config(tmp_path, blocks_folder)
    study = open_new_study(config)
    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    said = "measuring the GPU memory that the largest trials take"

    def measure(*args: Any, **kwargs: Any) -> tuple[int, int]:
        assert logged == [said]
        return 10**9, 10**10

    progress = ConsoleProgress(config, [], 1)
    share_gpu(study, progress, cast(RemoteRunner, measure), run)
    printed = capsys.readouterr().out
    assert len(logged) == 2
    assert all(line in printed for line in logged)
