"""What the machine or the cluster offers, and how many trials fit."""

import os
from typing import Literal, NamedTuple

from search.core.config import StudyConfig
from search.execution.cluster_address import on_cluster

WAITING_ON_CLUSTER = 4
CONTEXT_BYTES = 600 << 20
"""What CUDA itself takes for each process, beside PyTorch's tensors."""
MEMORY_SHARE = 0.9
"""Of a GPU's memory, for all trials on it together."""
MAX_TRIALS_PER_GPU = 8
"""On one GPU, however small they are."""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_gpus() -> int:
    """GPUs of this machine."""
    import torch  # takes seconds, which a wrong argument should not

    return torch.cuda.device_count()


def default_gpus() -> float | Literal["auto"]:
    """GPUs per trial where the user says nothing."""
    import torch

    return "auto" if torch.cuda.is_available() else 0.0


def check_cores(config: StudyConfig) -> None:
    """Raises ValueError where one trial wants more cores than this machine has."""
    if not on_cluster():
        check_offer("cpus", config.cpus_per_trial or 0, num_cores())


def check_gpus(config: StudyConfig) -> None:
    """Raises ValueError where one trial wants more GPUs than this machine has."""
    if config.max_gpus_per_trial and not on_cluster():
        check_offer("gpus", config.max_gpus_per_trial, num_gpus())


def check_offer(kind: Literal["cpus", "gpus"], requested: float, offered: int) -> None:
    if requested > offered:
        raise ValueError(
            f"--{kind}-per-trial must not exceed the {offered} {kind.upper()} of this machine, but "
            f"got {requested:g}"
        )


class TrialResources(NamedTuple):
    """What one trial gets."""

    cpus: float
    gpus: float


def fixed_resources(config: StudyConfig) -> TrialResources:
    """What is asked for: of `auto`, a whole GPU.

    Where no cores are named: one on a CPU; with a part of the GPUs, the same part of the cores.
    """
    gpus = config.max_gpus_per_trial
    available = num_gpus() if gpus else 0
    proportional = max(1, int(num_cores() * gpus / available)) if available else 1
    return TrialResources(config.cpus_per_trial or proportional, gpus)


def resources_by_memory(config: StudyConfig, peak_bytes: int, free_bytes: int) -> TrialResources:
    """Of one GPU and the cores that come with it: for as many trials as both are enough for.

    `peak_bytes` is what the largest trial took of the GPU's `free_bytes`, with little data on it.
    """
    from trainables.data.loader import NUM_TABLES, RESIDENT_SHARE  # imports torch

    whole = fixed_resources(config.replace(cpus_per_trial=None)).cpus
    for_data = NUM_TABLES * RESIDENT_SHARE
    by_memory = MEMORY_SHARE * (1 - for_data) * free_bytes / (peak_bytes + CONTEXT_BYTES)
    by_cores = whole / (config.cpus_per_trial or 1)
    trials = max(1, int(min(by_memory, by_cores, MAX_TRIALS_PER_GPU)))
    return TrialResources(config.cpus_per_trial or max(1, whole // trials), 1 / trials)


def num_parallel(share: TrialResources, available: dict[str, float]) -> int:
    """Trials on their way at once on `available` resources, at least one.

    On a cluster some more than it has room for: its autoscaler adds nodes only for those that wait.
    """
    fits = available.get("CPU", 0) / share.cpus
    if share.gpus:
        fits = min(fits, available.get("GPU", 0) / share.gpus + 1e-9)
    return int(fits) + WAITING_ON_CLUSTER if on_cluster() else max(1, int(fits))
