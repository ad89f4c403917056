"""Prerequisites of trials, prepared on a worker before the first trial runs.

The outputs of the teacher, and the sensitivity of students to quantization.
"""

from collections.abc import Sequence
from typing import Literal

from search.execution.session import RemoteRunner
from search.storage.study_file import write_study_file
from search.storage.trials import store_sensitivities
from search.study.study import Study
from search.tracking.console import ConsoleProgress
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.errors import TrialFailed
from trainables.models.configs import StudentConfig
from trainables.quantization.mixed_precision import Sensitivity
from trainables.teachers.averaging import Averaging
from trainables.training.sensitivity import cache_sensitivity, read_sensitivity
from trainables.training.setup import OutputMode, found_or_made, set_up_teacher_outputs


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
    study: Study, progress: ConsoleProgress, remote: RemoteRunner, run: ExecutionConfig
) -> None:
    """Measures the sensitivity of each student for which the space suggests mixed precision.

    It is that to the study's quantizer.

    Raises:
        OverBudget: no student meets the budget with the bits that are allocated to it.
    """
    known: dict[StudentConfig, Sensitivity] = {}
    files: dict[str, str] = {}
    for student, start in study.cost_model.pretraining_configs().items():
        progress.record(f"training the start of {student.describe()} and measuring its sensitivity")
        try:
            kept = found_or_made(remote, run, cache_sensitivity, start, study.config.quantizer_name)
            known[student] = read_sensitivity(kept)
            files[student.digest()] = f"{kept.parent.name}/{kept.name}"
        except TrialFailed as failure:
            progress.record(f"warning: no trials of {student.describe()}: {failure}")
    study.cost_model.sensitivities = known
    store_sensitivities(study.optuna_study, files)
    study.cost_model.check_budget()


def trials_by_memory(study: Study) -> Sequence[TrialConfig]:
    """Those of the space by the GPU memory that they take, the most last."""
    return sorted(
        study.cost_model.completed_samples(),
        key=lambda trial: (trial.needs_teacher, study.cost_model.macs(trial)),
    )
