"""Resources of the machine or the cluster, and the number of trials that fit."""

import os
from typing import Literal, NamedTuple

from search.core.config import Placement
from search.execution.cluster_address import on_cluster

WAITING_ON_CLUSTER = 4
CONTEXT_BYTES = 600 << 20
"""GPU memory of each process for CUDA itself, in addition to PyTorch's tensors."""
MEMORY_SHARE = 0.9
"""Share of a GPU's memory for all trials on it together."""
MAX_TRIALS_PER_GPU = 8
"""Maximum number of trials on one GPU, however small they are."""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_gpus() -> int:
    """GPUs of this machine."""
    import torch  # takes seconds, which an invalid argument should not

    return torch.cuda.device_count()


def default_gpus() -> float | Literal["auto"]:
    """GPUs per trial where no flag gives them."""
    import torch

    return "auto" if torch.cuda.is_available() else 0.0


def check_cores(config: Placement) -> None:
    """Raises ValueError where one trial wants more cores than this machine has."""
    if not on_cluster():
        check_offer("cpus", config.cpus_per_trial or 0, num_cores())


def check_gpus(config: Placement) -> None:
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
    """The resources of one trial."""

    cpus: float
    gpus: float


def fixed_resources(config: Placement) -> TrialResources:
    """The resources that the configuration gives; for `auto`, a whole GPU.

    Without a number of cores: one core on a CPU; with a share of the GPUs, the same share of cores.
    """
    gpus = config.max_gpus_per_trial
    return TrialResources(config.cpus_per_trial or share_of_cores(gpus), gpus)


def share_of_cores(gpus: float) -> int:
    """The share of the cores that belongs to so many of the GPUs; one core without a GPU."""
    available = num_gpus() if gpus else 0
    return max(1, int(num_cores() * gpus / available)) if available else 1


def resources_by_memory(config: Placement, peak_bytes: int, free_bytes: int) -> TrialResources:
    """The share of one GPU and its cores, for as many trials as its memory and cores allow.

    `peak_bytes` is the peak of the largest trial, with little data on the GPU; `free_bytes` is the
    free memory of the GPU.
    """
    from trainables.data.loader import NUM_TABLES, RESIDENT_SHARE  # imports torch

    whole = share_of_cores(config.max_gpus_per_trial)
    for_data = NUM_TABLES * RESIDENT_SHARE
    by_memory = MEMORY_SHARE * (1 - for_data) * free_bytes / (peak_bytes + CONTEXT_BYTES)
    by_cores = whole / (config.cpus_per_trial or 1)
    trials = max(1, int(min(by_memory, by_cores, MAX_TRIALS_PER_GPU)))
    return TrialResources(config.cpus_per_trial or max(1, whole // trials), 1 / trials)


def num_parallel(share: TrialResources, available: dict[str, float]) -> int:
    """The maximum number of pending and running trials on `available` resources, at least one.

    On a cluster, some more than fit: its autoscaler adds nodes only for pending trials.
    """
    fits = available.get("CPU", 0) / share.cpus
    if share.gpus:
        fits = min(fits, available.get("GPU", 0) / share.gpus + 1e-9)
    return int(fits) + WAITING_ON_CLUSTER if on_cluster() else max(1, int(fits))
