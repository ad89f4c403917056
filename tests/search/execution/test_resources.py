"""How many trials fit."""

from pathlib import Path

import pytest
import torch
from factories import make_config

from search.core.config import StudyConfig
from search.execution import resources
from search.execution.resources import (
    TrialResources,
    fixed_resources,
    num_parallel,
    resources_by_memory,
)

GIB = 1 << 30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs, 16 cores each, no cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resources, "num_cores", lambda: 32)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def config(gpus: object, cpus: float | None = None) -> StudyConfig:
    return make_config(Path("/s"), "shapes", cpus_per_trial=cpus, gpus_per_trial=gpus)


@pytest.mark.parametrize(
    ("gpus", "cpus", "share"),
    [
        (0, None, TrialResources(1, 0)),
        (0, 3, TrialResources(3, 0)),
        (1, None, TrialResources(16, 1)),
        (0.5, None, TrialResources(8, 0.5)),
        (0.5, 2, TrialResources(2, 0.5)),
        ("auto", None, TrialResources(16, 1)),
    ],
)
def test_cores_go_with_gpus_unless_they_are_named(
    gpus: object, cpus: float | None, share: TrialResources
) -> None:
    assert fixed_resources(config(gpus, cpus)) == share


@pytest.mark.parametrize(
    ("peak", "cpus", "trials"),
    [
        (20 * GIB, None, 2),  # 80 GiB, of which 30 % may hold data
        (10 * GIB, None, 4),  # five without what CUDA itself takes
        (GIB // 8, None, 8),  # never more than 8
        (GIB // 8, 4, 4),  # 16 cores
        (80 * GIB, None, 1),
    ],
)
def test_no_more_trials_share_a_gpu_than_it_holds(
    peak: int, cpus: float | None, trials: int
) -> None:
    share = resources_by_memory(config("auto", cpus), peak, 80 * GIB)
    assert share == TrialResources(cpus or 16 // trials, 1 / trials)
    assert num_parallel(share, {"CPU": 32, "GPU": 2}) == 2 * trials


def test_on_a_cluster_some_trials_wait_for_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert num_parallel(TrialResources(cpus=1, gpus=0), {"CPU": 2}) == 2 + 4
    assert num_parallel(TrialResources(cpus=1, gpus=0.5), {"CPU": 8, "GPU": 1}) == 2 + 4
    assert num_parallel(TrialResources(cpus=1, gpus=0), {}) == 4


def test_a_cpu_runs_as_many_trials_as_it_has_cores() -> None:
    assert num_parallel(TrialResources(cpus=1, gpus=0), {"CPU": 2}) == 2
    assert num_parallel(TrialResources(cpus=4, gpus=0), {"CPU": 2}) == 1
    assert num_parallel(TrialResources(cpus=1, gpus=1 / 3), {"CPU": 64, "GPU": 1}) == 3
