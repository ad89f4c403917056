"""What trials need before the first of them runs."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from factories import make_config
from study_factories import open_new_study, open_stored_study

from search.execution.parallel import OnEnd
from search.execution.session import RemoteRunner
from search.storage.study_file import read_study_file
from search.study.prerequisites import measure_sensitivities, record_teacher_choices
from search.tracking.console import ConsoleProgress
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import Artifact
from trainables.core.errors import TrialFailed
from trainables.models.configs import StudentConfig
from trainables.quantization.mixed_precision import uniform_minimum_sensitivity
from trainables.quantization.prepare import quantizable_names
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


def test_starts_are_trained_at_once_and_those_that_fail_not_again(
    blocks_folder: Path, tmp_path: Path
) -> None:
    """Students whose start has failed get no trials."""
    study = open_new_study(make_config(tmp_path, blocks_folder, space="mixed"))
    narrow, *others = study.cost_model.pretraining_configs()
    said, trained, measured = list[str](), list[str](), list[StudentConfig]()
    progress = cast(ConsoleProgress, SimpleNamespace(record=said.append))

    def train(trainings: Mapping[str, TrialConfig], on_end: OnEnd) -> None:
        for name, config in trainings.items():
            trained.append(name)
            failure = TrialFailed("not learning") if config.student == narrow else None
            on_end(name, failure or cast(Artifact, None))

    def remote(run: ExecutionConfig, prepare: object, start: TrialConfig, kind: str) -> Path:
        measured.append(start.student)
        names = quantizable_names(start.student.build(study.data.num_classes))
        path = tmp_path / f"sensitivity-{len(measured)}" / "sensitivity.json"
        path.parent.mkdir()
        path.write_text(uniform_minimum_sensitivity(names).model_dump_json())
        return path

    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)
    measure_sensitivities(study, progress, cast(RemoteRunner, remote), run, train)
    assert trained == [f"the start of {each.describe()}" for each in (narrow, *others)]
    assert len(others) > 1
    assert measured == others
    assert said == [
        f"training {', '.join(trained)}, to measure the sensitivity of layers",
        f"warning: no trials of {narrow.describe()}: not learning",
    ]
    assert {config.student for config in study.cost_model.completed_samples()} <= set(others)
