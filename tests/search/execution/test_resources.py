"""How many trials fit."""

from pathlib import Path

import pytest
import torch
from factories import make_config

from search.core.config import StudyConfig
from search.execution import resources
from search.execution.resources import (
    Nodes,
    NodeType,
    TrialResources,
    check_resources,
    default_gpus,
    fixed_resources,
    most_trials_per_gpu,
    shared_resources,
    this_machine,
)

GIB = 1 << 30
MACHINE = Nodes((NodeType(32, 2),))
CLUSTER = Nodes(
    (
        NodeType(8, 1, "L4", running=0, most=4),
        NodeType(48, 4, "A10G", running=1, most=2),
        NodeType(1, running=2, most=2),
    ),
    is_cluster=True,
)


def config(gpus: object, cpus: float | None = None) -> StudyConfig:
    return make_config(Path("/s"), "shapes", cpus_per_trial=cpus, gpus_per_trial=gpus)


def test_a_machine_is_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "num_cores", lambda: 32)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert this_machine() == MACHINE


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
    assert fixed_resources(config(gpus, cpus), MACHINE) == share


def test_cores_are_those_of_the_nodes_and_not_of_the_driver() -> None:
    """So that a trial with one GPU fits a node of each kind."""
    assert fixed_resources(config(1), CLUSTER) == TrialResources(8, 1)
    assert fixed_resources(config("auto"), CLUSTER) == TrialResources(8, 1)
    assert default_gpus(CLUSTER) == "auto"
    assert default_gpus(Nodes((NodeType(8),), is_cluster=True)) == 0


@pytest.mark.parametrize(
    ("cpus", "most"),
    [(None, 8), (1, 8), (4, 4), (16, 1), (24, 1)],  # of 16 cores for each GPU; never more than 8
)
def test_no_more_trials_share_a_gpu_than_there_are_cores(cpus: float | None, most: int) -> None:
    assert most_trials_per_gpu(config("auto", cpus), MACHINE, "") == most


@pytest.mark.parametrize(("cpus", "trials"), [(None, 1), (None, 4), (None, 8), (2, 8)])
def test_trials_share_a_gpu_and_its_cores(cpus: float | None, trials: int) -> None:
    share = shared_resources(config("auto", cpus), MACHINE, "", trials)
    assert share == TrialResources(cpus or 16 // trials, 1 / trials)
    assert MACHINE.num_running(share) == 2 * trials


def test_each_kind_of_gpu_has_a_share_of_its_own() -> None:
    def share_on(kind: str, trials: int) -> TrialResources:
        return shared_resources(config("auto"), CLUSTER, kind, trials)

    assert share_on("L4", 2) == TrialResources(4, 1 / 2, "L4")
    assert share_on("A10G", 8) == TrialResources(12 // 8, 1 / 8, "A10G")
    assert CLUSTER.num_running(TrialResources(1, 1 / 8, "A10G")) == 4 * 8
    assert CLUSTER.num_running(TrialResources(1, 1 / 8, "L4")) == 0
    assert CLUSTER.num_absent(TrialResources(4, 1 / 2, "L4")) == 4 * 2
    request = {"CPU": 4, "GPU": 0.5, "accelerator_type:L4": 0.001}
    assert TrialResources(4, 0.5, "L4").request() == request
    assert TrialResources(4, 0).request() == {"CPU": 4}


@pytest.mark.parametrize(
    ("share", "fitting"),
    [
        (TrialResources(1, 0), 48),
        (TrialResources(5, 0), 9),
        (TrialResources(49, 0), 0),
        (TrialResources(1, 1), 4),
        (TrialResources(1, 3), 1),
        (TrialResources(1, 5), 0),
        (TrialResources(1, 0.4), 8),  # two on each GPU
        (TrialResources(1, 1 / 3), 12),
        (TrialResources(24, 1 / 3), 2),
        (TrialResources(1, 1, "A10G"), 4),
        (TrialResources(1, 0, "L4"), 0),
    ],
)
def test_trials_fit_on_single_gpus_of_a_node(share: TrialResources, fitting: int) -> None:
    assert NodeType(48, 4, "A10G").num_fitting(share) == fitting


@pytest.mark.parametrize(
    ("gpus", "cpus", "message"),
    [
        (8, None, "a trial gets 64 CPUs and 8 GPUs"),
        (0, 64, "a trial gets 64 CPUs"),
        (1, 13, None),
        (1, 49, "a trial gets 49 CPUs and 1 GPU"),
        (0, 48, None),
    ],
)
def test_what_no_node_will_have_is_refused(
    gpus: float, cpus: float | None, message: str | None
) -> None:
    if message is None:
        check_resources(config(gpus, cpus), CLUSTER)
        return
    described = (
        r"0 nodes of 8 CPUs and 1 L4 \(up to 4\), 1 node of 48 CPUs and 4 A10G \(up to 2\), "
        "2 nodes of 1 CPU"
    )
    with pytest.raises(ValueError, match=f"must fit a node .* {message}, and .* has {described}$"):
        check_resources(config(gpus, cpus), CLUSTER)
    check_resources(config(gpus, cpus), Nodes(CLUSTER.types, is_cluster=True, may_grow=True))


def test_a_preparation_has_a_whole_node() -> None:
    assert CLUSTER.whole_node == 48
    assert Nodes((NodeType(8, running=0, most=2), NodeType(4, running=0, most=1))).whole_node == 4
    assert Nodes(()).whole_node == 1
    assert Nodes(()).describe() == "no node for trials yet"
