"""What trials need before the first of them runs."""

from collections.abc import Mapping
from functools import partial
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
from trainables.core.errors import TrialFailed
from trainables.models.configs import StudentConfig
from trainables.quantization.mixed_precision import uniform_minimum_sensitivity
from trainables.quantization.prepare import quantizable_names
from trainables.teachers.averaging import Averaging
from trainables.training.identity import ARTIFACT_KIND, artifact_key
from trainables.training.sensitivity import FILE, sensitivity_key


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


def test_students_are_measured_at_once_and_those_that_fail_not_again(
    blocks_folder: Path, tmp_path: Path
) -> None:
    """Students whose start has failed get no trials; a single one has a whole node."""
    study = open_new_study(make_config(tmp_path, blocks_folder, space="mixed"))
    narrow, last, *others = study.cost_model.pretraining_configs()
    said, together, alone = list[str](), list[StudentConfig](), list[StudentConfig]()
    progress = cast(ConsoleProgress, SimpleNamespace(record=said.append))
    run = ExecutionConfig(data=study.data.path, artifacts=study.store.root)

    def keep(start: TrialConfig) -> Path:
        """What a measurement leaves."""
        names = quantizable_names(start.student.build(study.data.num_classes))

        def build(folder: Path) -> None:
            (folder / FILE).write_text(uniform_minimum_sensitivity(names).model_dump_json())

        key = artifact_key(start, run, study.store)
        network = study.store.get(ARTIFACT_KIND, key, lambda folder: None).path
        key = sensitivity_key(network, "lsq")
        return study.store.get("sensitivity", key, build).path / FILE

    def measure_all(trainings: Mapping[str, TrialConfig], on_end: OnEnd[Path]) -> None:
        for name, start in trainings.items():
            together.append(start.student)
            if start.student == last:
                continue  # a driver that ends before
            failure = TrialFailed("not learning") if start.student == narrow else None
            on_end(name, failure or keep(start))

    def remote(run: ExecutionConfig, measure: partial[Path]) -> Path:
        (start,) = measure.args
        alone.append(start.student)
        return keep(start)

    measure_sensitivities(study, progress, cast(RemoteRunner, remote), run, measure_all)
    assert together == [narrow, last, *others]
    assert len(others) > 1
    assert alone == [last]
    described = ", ".join(each.describe() for each in together)
    assert said == [
        f"measuring the sensitivity of the layers of {described}, once trained",
        f"warning: no trials of {narrow.describe()}: not learning",
    ]
    rest = {config.student for config in study.cost_model.completed_samples()}
    assert rest <= {last, *others}
