"""How many trials share a GPU, by the kind of GPU."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from factories import make_config

from search.execution import card_shares
from search.execution.card_shares import CardShares
from search.execution.mps_services import MpsServices
from search.execution.resources import MAX_TRIALS_PER_GPU, Nodes, NodeType, TrialResources
from search.execution.session import RemoteRunner
from trainables.config import ExecutionConfig, TrialConfig
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import Supervised
from trainables.training.sharing_probe import CardMeasure

GIB = 1 << 30
L4, A10G = NodeType(8, 1, "L4"), NodeType(16, 1, "A10G")
FOUND = {
    "L4": CardMeasure(5 * GIB, 22 * GIB, 2, 1.25),
    "A10G": CardMeasure(5 * GIB, 44 * GIB, 4, 2.0),
    "": CardMeasure(5 * GIB, 80 * GIB, 8, 3.0),
}


class Runner:
    """Stands for a runner of preparations: tasks are the kinds of GPU that they run on."""

    def __init__(self, kind: str = "", first: str = "") -> None:
        self.kind, self.first = kind, first

    def on(self, kind: str) -> "Runner":
        return Runner(kind)

    def __call__(self, run: ExecutionConfig, measure: object, *given: object) -> CardMeasure:
        assert run.gpu_share == 1 / MAX_TRIALS_PER_GPU
        return FOUND[self.kind or self.first]

    def start(self, run: ExecutionConfig, measure: object, *given: object) -> str:
        return self.kind


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Nodes]:
    """Sets the nodes, and the probes that have ended."""

    def set_up(*types: NodeType, ended: tuple[str, ...] = ()) -> Nodes:
        nodes = Nodes(types, is_cluster=True)
        monkeypatch.setattr(card_shares, "offered_nodes", lambda: nodes)
        monkeypatch.setattr(
            card_shares.ray, "wait", lambda tasks, timeout: ([t for t in tasks if t in ended], [])
        )
        return nodes

    monkeypatch.setattr(card_shares.ray, "get", FOUND.__getitem__)
    return set_up


def shares_of(tmp_path: Path, runner: Runner, said: list[str]) -> CardShares:
    run = ExecutionConfig(data=tmp_path, artifacts=tmp_path)
    config: Any = make_config(tmp_path, "shapes", gpus_per_trial="auto")
    trial = TrialConfig(student=UNetConfig(), recipe=Supervised())
    return CardShares(config, [trial], said.append, cast(RemoteRunner, runner), run)


def test_a_kind_that_joins_takes_trials_once_it_is_measured(
    cluster: Callable[..., Nodes], tmp_path: Path
) -> None:
    said: list[str] = []
    nodes = cluster(L4)
    shares = shares_of(tmp_path, Runner(), said)
    on_l4, on_a10g = TrialResources(4, 1 / 2, "L4"), TrialResources(4, 1 / 4, "A10G")
    assert shares(nodes) == [on_l4._replace(accelerator="")]  # there is no other kind
    assert shares(cluster(L4, A10G)) == [on_l4]
    assert shares(cluster(L4, A10G, ended=("A10G",))) == [on_a10g, on_l4]
    assert shares(cluster(A10G)) == [on_a10g._replace(accelerator="")]  # the other is lost
    assert shares(cluster()) == [on_l4._replace(accelerator="")]  # both: the larger share
    assert said == [
        "measuring how many trials share a GPU",
        "2 trials at once on each L4 with 23.6 GB free: the largest takes 5.37 GB, 1.25 of the "
        "images a second of one",
        "4 trials at once on each A10G with 47.2 GB free: the largest takes 5.37 GB, 2.00 of the "
        "images a second of one",
    ]


def test_the_first_node_of_a_cluster_scaled_to_zero_is_measured(
    cluster: Callable[..., Nodes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = cluster(A10G._replace(running=0, most=4))
    joined = [nodes]
    monkeypatch.setattr(card_shares, "offered_nodes", lambda: joined.pop(0) if joined else after)
    after = Nodes((A10G,), is_cluster=True)
    shares = shares_of(tmp_path, Runner(first="A10G"), [])
    assert shares(after) == [TrialResources(4, 1 / 4)]
    assert shares(Nodes((A10G, L4._replace(running=0, most=1)), is_cluster=True)) == [
        TrialResources(4, 1 / 4, "A10G")
    ]


def test_a_kind_on_which_the_probe_fails_takes_no_trials(
    cluster: Callable[..., Nodes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    shares = shares_of(tmp_path, Runner(first="L4"), said) if cluster(L4) else None
    assert shares is not None

    def fail(task: object) -> None:
        raise card_shares.ray.exceptions.RayError("no CUDA there")

    monkeypatch.setattr(card_shares.ray, "get", fail)
    nodes = cluster(L4, A10G, ended=("A10G",))
    for _ in range(2):
        assert [share.accelerator for share in shares(nodes)] == ["L4"]
    assert said[2:] == ["warning: no trials on A10G: no CUDA there"]


def test_trials_of_a_kind_that_gains_by_it_use_the_multi_process_service(
    cluster: Callable[..., Nodes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    started: list[tuple[list[str], bool]] = []

    def start_on(self: MpsServices, kinds: Iterable[str], wait: bool = False) -> None:
        started.append((list(kinds), wait))

    monkeypatch.setattr(MpsServices, "start_on", start_on)
    monkeypatch.setitem(FOUND, "L4", replace(FOUND["L4"], with_mps=True))
    nodes = cluster(L4)
    shares = shares_of(tmp_path, Runner(), said)
    assert started == [(["L4"], True)]
    (share,) = shares(nodes)
    assert share.mps == shares.services.folder
    run = share.given_to(ExecutionConfig(data=tmp_path, artifacts=tmp_path))
    assert run.mps == Path(share.mps)
    assert shares(cluster(L4, A10G, ended=("A10G",)))[0].mps == ""
    assert started[1:] == [(["L4"], False)] * 2
    assert said[1] == (
        "2 trials at once on each L4 with 23.6 GB free: the largest takes 5.37 GB, 1.25 of the "
        "images a second of one, with the Multi-Process Service (MPS)"
    )
