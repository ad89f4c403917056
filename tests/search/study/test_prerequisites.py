"""What trials need before the first of them runs."""

from pathlib import Path

from factories import make_config
from study_factories import open_new_study, open_stored_study

from search.storage.study_file import read_study_file
from search.study.prerequisites import record_teacher_choices
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
