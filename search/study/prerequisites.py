"""Prerequisites of trials, prepared before the first trial runs.

How they run, the outputs of the teacher, and the sensitivity of students to quantization.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from search.core.comparison_config import ComparisonConfig
from search.core.config import StudyConfig
from search.execution.parallel import OnEnd
from search.execution.session import RemoteRunner
from search.execution.shutdown import GracefulShutdown
from search.storage.study_file import write_study_file
from search.storage.trials import store_sensitivities
from search.study.study import Study
from search.tracking.console import ConsoleProgress
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import TrialFailed
from trainables.data.packed import PackedDataset
from trainables.models.configs import StudentConfig
from trainables.quantization.mixed_precision import Sensitivity
from trainables.teachers.averaging import Averaging
from trainables.training.cost import count_macs
from trainables.training.sensitivity import (
    cache_sensitivity,
    find_sensitivity,
    read_sensitivity,
)
from trainables.training.setup import (
    OutputMode,
    UnlabelledImages,
    found_or_made,
    set_up_teacher_outputs,
    with_images,
)


class Prepared(Protocol):
    """A study or a comparison whose checks have passed, and whose data are packed."""

    @property
    def config(self) -> StudyConfig | ComparisonConfig: ...
    @property
    def data(self) -> PackedDataset: ...
    @property
    def teacher_data(self) -> PackedDataset | None: ...
    @property
    def unlabelled(self) -> UnlabelledImages | None: ...
    @property
    def store(self) -> ArtifactStore: ...


def execution_config(prepared: Prepared, shutdown: GracefulShutdown) -> ExecutionConfig:
    """How its trainings run, as long as nothing is known of a teacher."""
    config = prepared.config
    run = ExecutionConfig(
        data=prepared.data.path,
        artifacts=prepared.store.root,
        device=config.device,
        checkpoint_every_s=config.checkpoint_every_s,
        stop_files=(shutdown.stop_file,),
        timeout_s=config.trial_timeout_s,
    )
    return with_images(run, prepared.teacher_data, prepared.unlabelled)


def keep_teacher_outputs(
    study: Study,
    progress: ConsoleProgress,
    remote: RemoteRunner,
    run: ExecutionConfig,
    wanted: OutputMode | Literal["auto"],
    averaging: Averaging,
) -> ExecutionConfig:
    """`run` with the folder of cached teacher outputs, if they are cached; reports their size."""
    augmentation = study.cost_model.defaults.augmentation
    run, mode = set_up_teacher_outputs(run, wanted, augmentation, progress.record, remote)
    if mode != study.config.teacher_outputs:
        record_teacher_choices(study, mode, averaging)
    return run


def record_teacher_choices(study: Study, mode: OutputMode, averaging: Averaging) -> None:
    """Writes what `auto` came to, so that a resumed study goes on with it.

    The configuration that this driver runs with stays as it is, wherever it was handed to.
    """
    flip = "on" if averaging.mirrored else "off"
    config = study.config.replace(teacher_outputs=mode, teacher_flip=flip)
    write_study_file(study.file.replace(config=config))


def measure_sensitivities(
    study: Study,
    progress: ConsoleProgress,
    remote: RemoteRunner,
    run: ExecutionConfig,
    measure_all: Callable[[Mapping[str, TrialConfig], OnEnd[Path]], None],
) -> None:
    """Measures the sensitivity of each student for which the space suggests mixed precision.

    It is that to the study's quantizer. Where several are missing, `measure_all` trains what the
    students start from and measures them, as many at once as there are devices.

    Raises:
        OverBudget: no student meets the budget with the bits that are allocated to it.
    """
    kind = study.config.quantizer_name
    starts = study.cost_model.pretraining_configs()
    missing: dict[str, StudentConfig] = {}
    for student, start in starts.items():
        if find_sensitivity(run, start, kind) is None:
            name = f"the start of {student.describe()}"
            missing[f"{name}, {student.digest()}" if name in missing else name] = student
    failed: dict[StudentConfig, TrialFailed] = {}

    def on_end(name: str, outcome: Path | TrialFailed) -> None:
        if isinstance(outcome, TrialFailed):
            failed[missing[name]] = outcome

    if len(missing) > 1:
        described = ", ".join(student.describe() for student in missing.values())
        progress.record(f"measuring the sensitivity of the layers of {described}, once trained")
        measure_all({name: starts[student] for name, student in missing.items()}, on_end)
    known: dict[StudentConfig, Sensitivity] = {}
    files: dict[str, str] = {}
    for student, start in starts.items():
        try:
            if student in failed:
                raise failed[student]
            kept = found_or_made(remote, run, partial(cache_sensitivity, start, kind=kind))
            known[student] = read_sensitivity(kept)
            files[student.digest()] = f"{kept.parent.name}/{kept.name}"
        except TrialFailed as failure:
            progress.record(f"warning: no trials of {student.describe()}: {failure}")
    study.cost_model.sensitivities = known
    store_sensitivities(study.optuna_study, files)
    study.cost_model.check_budget()


def by_memory(prepared: Prepared, trials: Iterable[TrialConfig]) -> list[TrialConfig]:
    """Trainings by the GPU memory that they take, the most last."""
    data = prepared.data

    def memory(trial: TrialConfig) -> tuple[bool, int]:
        macs = count_macs(trial.student, data.num_classes, data.height, data.width)
        return trial.needs_teacher, macs

    return sorted(trials, key=memory)
