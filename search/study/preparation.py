"""Prepares a search where it runs: the teacher's outputs, and how trials share a GPU."""

from search.core.units import human_size
from search.execution import resources
from search.execution.resources import TrialResources
from search.execution.session import RemoteRunner
from search.study.study import Study
from search.tracking.console import ConsoleProgress
from trainables.config import ExecutionConfig
from trainables.training.memory_probe import measure_gpu_bytes
from trainables.training.setup import set_up_teacher_outputs

NUM_LARGEST = 3
"""Trials whose memory is measured before any runs."""


def keep_teacher_outputs(
    study: Study, progress: ConsoleProgress, remote: RemoteRunner, run: ExecutionConfig
) -> ExecutionConfig:
    """`run` with the teacher's outputs where they are kept, having said how much that takes."""
    wanted, augmentation = study.config.teacher_outputs, study.cost_model.defaults.augmentation
    run, mode = set_up_teacher_outputs(run, wanted, augmentation, progress.say, remote)
    if mode != wanted:
        study.record_teacher_output_mode(mode)
    return run


def share_gpu(
    study: Study, progress: ConsoleProgress, remote: RemoteRunner, run: ExecutionConfig
) -> TrialResources:
    """How many trials share a GPU, by the memory that the largest of the space take."""
    largest = sorted(
        study.cost_model.completed_samples(), key=lambda t: (t.needs_teacher, t.student.width)
    )
    crowded = run.replace(gpu_share=1 / resources.MAX_TRIALS_PER_GPU)
    peak, free = remote(crowded, measure_gpu_bytes, largest[-NUM_LARGEST:])
    share = resources.resources_by_memory(study.config, peak, free)
    progress.say(
        f"{round(1 / share.gpus)} trials at once on a GPU with {human_size(free)} free: the "
        f"largest takes {human_size(peak)}"
    )
    return share
