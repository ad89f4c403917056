"""The nodes of a cluster, and why none of them runs a trial."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import AuthenticationError, RpcError

from search.execution import cluster, ray_internals
from search.execution.cluster import (
    BOOTSTRAP_FILE,
    KUBERAY,
    addable_nodes,
    cluster_nodes,
    offered_nodes,
    why_nothing_runs,
)
from search.execution.resources import Nodes, NodeType, TrialResources

L4 = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0, "memory": 3e10}
BOOTSTRAP = """
cluster_name: paretoseg
max_workers: 4
head_node_type: head
available_node_types:
  head: {resources: {CPU: 0}, max_workers: 0}
  spot: {resources: {CPU: 8, GPU: 1, "accelerator_type:L4": 1}, max_workers: 4}
  on demand: {resources: {CPU: 8, GPU: 1, "accelerator_type:L4": 1}, max_workers: 1}
  large: {resources: {CPU: 48, GPU: 4, "accelerator_type:L4": 1}, max_workers: 9}
  never: {resources: {CPU: 96}, max_workers: 0}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv(KUBERAY, raising=False)
    addable_nodes.cache_clear()
    return tmp_path


def has(monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float]) -> None:
    """Ray's nodes, beside a head without CPUs, a node that is lost and one that soon will be."""
    alive = [{"Alive": True, "Resources": each} for each in ({"memory": 1e9}, *resources)]
    others = [{"Alive": is_alive, "Resources": {"CPU": 64.0}} for is_alive in (False, True)]
    nodes = [{**node, "NodeID": str(n)} for n, node in enumerate([*others, *alive])]
    monkeypatch.setattr(cluster.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(cluster, "draining_nodes", lambda: {"1"})


def test_nodes_without_cpus_run_no_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, {"CPU": 2.0}, L4, {"CPU": 2.0})
    nodes = cluster_nodes()
    assert nodes == Nodes((NodeType(8, 1, "L4"), NodeType(2, running=2, most=2)), is_cluster=True)
    assert offered_nodes() == nodes
    assert nodes.describe() == "1 node of 8 CPUs and 1 L4, 2 nodes of 2 CPUs"


def test_a_cluster_scaled_to_zero_has_what_its_autoscaler_may_add(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / Path(BOOTSTRAP_FILE).name).write_text(BOOTSTRAP)
    has(monkeypatch)
    nodes = cluster_nodes()
    one, four = NodeType(8, 1, "L4", 0, 4), NodeType(48, 4, "L4", 0, 4)
    assert nodes == Nodes((four, one), is_cluster=True)
    assert nodes.has_gpus
    has(monkeypatch, L4)
    assert cluster_nodes().types == (four, one._replace(running=1))


@pytest.mark.parametrize(
    ("resources", "may_grow"), [("{}", True), ("{CPU: 1}", False), ("{GPU: 1}", True)]
)
def test_types_without_resources_may_be_anything(
    resources: str, may_grow: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / Path(BOOTSTRAP_FILE).name
    file.write_text(
        "max_workers: 2\nhead_node_type: a\navailable_node_types:\n  a: {}\n"
        f"  b: {{resources: {resources}}}\n"
    )
    has(monkeypatch, {"CPU": 1.0})
    assert cluster_nodes().may_grow == may_grow


def test_kuberay_may_add_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, {"CPU": 1.0})
    assert not cluster_nodes().may_grow
    monkeypatch.setenv(KUBERAY, "1")
    assert cluster_nodes().may_grow


@pytest.mark.parametrize(
    ("nodes", "news", "reason"),
    [
        (
            [{"CPU": 1.0}],
            ([], []),
            "no node can run 4 CPUs: the cluster has 1 node of 1 CPU",
        ),
        ([{"CPU": 4.0}], ([], []), "all nodes that could run 4 CPUs are in use"),
        ([L4], (["2 of type spot"], ["spot: old"]), "nodes are starting: 2 of type spot"),
        ([L4], ([], ["spot: no capacity"]), "a node could not be started: spot: no capacity"),
    ],
)
def test_it_is_known_what_trials_wait_for(
    nodes: list[dict[str, float]],
    news: tuple[list[str], list[str]],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has(monkeypatch, *nodes)
    monkeypatch.setattr(cluster, "autoscaler_news", lambda: news)
    assert why_nothing_runs(TrialResources(4, 0)) == reason


def test_nodes_that_may_be_added_are_waited_for(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / Path(BOOTSTRAP_FILE).name).write_text(BOOTSTRAP)
    has(monkeypatch)
    none: Any = lambda: ([], [])  # noqa: E731
    monkeypatch.setattr(cluster, "autoscaler_news", none)
    assert why_nothing_runs(TrialResources(8, 1)) == (
        "no node that could run 8 CPUs and 1 GPU has joined: the cluster has 0 nodes of 48 CPUs "
        "and 4 L4 (up to 4), 0 nodes of 8 CPUs and 1 L4 (up to 4)"
    )
    monkeypatch.delenv("RAY_ADDRESS")
    assert "take long to start" in why_nothing_runs(TrialResources(8, 1))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AuthenticationError("no"), "refuses the token of this user"),
        (RpcError("timed out", 4), "nothing answers there that Ray understands"),
        (None, "this machine is none of its nodes"),
    ],
)
def test_it_is_known_why_a_cluster_is_not_joined(
    error: Exception | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(address: str) -> None:
        assert address == "10.0.0.1:6379"
        if error:
            raise error

    monkeypatch.setattr("ray._raylet.GcsClient", connect)
    monkeypatch.setattr(ray_internals.services, "find_node_ids", list)
    assert words in ray_internals.why_not_admitted("10.0.0.1:6379")
    monkeypatch.setattr(ray_internals.services, "find_node_ids", lambda: ["a"])
    assert (ray_internals.why_not_admitted("10.0.0.1:6379") == "") == (error is None)


def test_a_head_that_is_busy_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(address: str) -> None:
        raise RpcError("timed out", 4)

    monkeypatch.setattr(ray_internals, "get_cluster_status", fail)
    monkeypatch.setattr(
        ray_internals.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="a:1")
    )
    assert ray_internals.autoscaler_news() == ([], [])


def test_what_the_autoscaler_does_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(name: str, ago_s: float, details: str | None) -> SimpleNamespace:
        failed = int(time.time() - ago_s)
        return SimpleNamespace(
            ray_node_type_name=name, count=2, failed_ts_s=failed, details=details
        )

    status = SimpleNamespace(
        pending_nodes=[SimpleNamespace(ray_node_type_name="spot")],
        pending_launches=[launch("spot", 0, None)],
        failed_launches=[
            launch("spot", 1, "no\n capacity"),
            launch("spot", 3600, "old"),
            launch("large", 9, None),
        ],
    )
    monkeypatch.setattr(ray_internals, "get_cluster_status", lambda address: status)
    monkeypatch.setattr(
        ray_internals.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="a:1")
    )
    assert ray_internals.autoscaler_news() == (
        ["3 of type spot"],
        ["large: no reason is given", "spot: no capacity"],
    )
