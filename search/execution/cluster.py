"""The nodes of the cluster that the driver has joined, and what may be added to them."""

import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml

from search.execution.cluster_address import on_cluster
from search.execution.ray_internals import autoscaler_news, draining_nodes
from search.execution.resources import ACCELERATOR, Nodes, NodeType, TrialResources, this_machine

BOOTSTRAP_FILE = "~/ray_bootstrap_config.yaml"
"""By which `ray up` tells the autoscaler of the head what nodes it may add."""
KUBERAY = "RAY_USAGE_STATS_KUBERAY_IN_USE"
"""An environment variable of pods of KubeRay, whose autoscaler says nothing of what it may add."""


class Kind(NamedTuple):
    """What makes nodes alike for trials."""

    cpus: float
    gpus: float
    accelerator: str


def offered_nodes() -> Nodes:
    """The nodes that trials may run on now."""
    return cluster_nodes() if on_cluster() else this_machine()


def cluster_nodes() -> Nodes:
    """The nodes of the cluster, and those that its autoscaler may add."""
    alive = [kind_of(node["Resources"]) for node in living_nodes()]
    running = Counter(kind for kind in alive if kind.cpus)
    addable, is_known = addable_nodes(os.path.expanduser(BOOTSTRAP_FILE))
    kinds = sorted({*running, *addable}, reverse=True)
    return Nodes(
        tuple(
            NodeType(*kind, running[kind], max(running[kind], addable.get(kind, 0)))
            for kind in kinds
        ),
        is_cluster=True,
        may_grow=not is_known or bool(os.environ.get(KUBERAY)),
    )


def living_nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster on which something may begin, as Ray describes them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    draining = draining_nodes()
    return [node for node in nodes if node["Alive"] and node["NodeID"] not in draining]


def kind_of(resources: dict[str, float]) -> Kind:
    """The kind of a node with Ray's resources."""
    named = [name for name in resources if name.startswith(ACCELERATOR)]
    accelerator = named[0].removeprefix(ACCELERATOR) if named else ""
    gpus = float(resources.get("GPU", 0))
    return Kind(float(resources.get("CPU", 0)), gpus, accelerator if gpus else "")


@lru_cache
def addable_nodes(file: str) -> tuple[dict[Kind, int], bool]:
    """How many nodes of each kind there may be, and whether all kinds are known.

    Nothing is added where there is no such file: nodes are then started by hand.
    """
    if not Path(file).is_file():
        return {}, True
    config: dict[str, Any] = yaml.safe_load(Path(file).read_text())
    limit, is_known, addable = config.get("max_workers", 0), True, dict[Kind, int]()
    for name, node_type in config["available_node_types"].items():
        most = min(limit, node_type.get("max_workers", limit))
        if name == config.get("head_node_type") or not most:
            continue
        kind = kind_of(node_type.get("resources") or {})
        if kind.cpus:
            addable[kind] = min(limit, addable.get(kind, 0) + most)
        else:
            is_known = False
    return addable, is_known


def why_nothing_runs(share: TrialResources) -> str:
    """What trials, or a preparation with these resources, wait for."""
    if not on_cluster():
        return "the processes of this machine take long to start"
    nodes = cluster_nodes()
    if not nodes.may_grow and not nodes.fits(share):
        return f"no node can run {share}: the cluster has {nodes.describe()}"
    starting, failures = autoscaler_news()
    if starting:
        return f"nodes are starting: {', '.join(starting)}"
    if failures:
        return f"a node could not be started: {failures[-1]}"
    if nodes.num_running(share):
        return f"all nodes that could run {share} are in use"
    return f"no node that could run {share} has joined: the cluster has {nodes.describe()}"
