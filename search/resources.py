"""What the machine or the cluster offers, and how many trials fit."""

import os

import torch

from search.study_config import StudyConfig

CLUSTER_ADDRESS = "RAY_ADDRESS"
WAITING_ON_CLUSTER = 8


def on_cluster() -> bool:
    """Whether Ray's address is set: then the driver's own hardware says nothing about workers."""
    return CLUSTER_ADDRESS in os.environ


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_gpus() -> float:
    """GPUs per trial where the user says nothing."""
    return 1.0 if torch.cuda.is_available() else 0.0


def default_cpus(gpus: float) -> int:
    """Cores per trial: one on a CPU; with a part of the GPUs, the same part of the cores."""
    num_gpus = torch.cuda.device_count()
    return max(1, int(num_cores() * gpus / num_gpus)) if gpus and num_gpus else 1


def check_resources(config: StudyConfig) -> None:
    """Raises ValueError where one trial wants more than this machine has."""
    if on_cluster():
        return
    offers = {"gpus": torch.cuda.device_count(), "cpus": num_cores()}
    for kind, offered in offers.items():
        wanted = getattr(config, f"{kind}_per_trial")
        if wanted > offered:
            raise ValueError(
                f"--{kind}-per-trial must not exceed the {offered} {kind.upper()} of this machine, "
                f"but got {wanted:g}"
            )


def num_parallel(config: StudyConfig, available: dict[str, float]) -> int:
    """Trials that run at once on `available` resources, at least one.

    On a cluster always several: its autoscaler adds nodes only for trials that wait.
    """
    fits = available.get("CPU", 0) / config.cpus_per_trial
    if config.gpus_per_trial:
        fits = min(fits, available.get("GPU", 0) / config.gpus_per_trial)
    return max(WAITING_ON_CLUSTER if on_cluster() else 1, int(fits))
