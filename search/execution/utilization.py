"""How busy the devices are: the GPUs as NVML says, without any the CPUs."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pynvml
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.execution.cluster import living_nodes
from search.execution.cluster_address import on_cluster

ANSWER_S = 5.0
"""Seconds that the nodes of a cluster may take to answer; those that do not are left out."""


def utilization_here(visible: str | None = None) -> tuple[int, float]:
    """The devices of this machine, and how many of them are busy: a share of a GPU counts in part.

    They are the GPUs that are `visible` as in CUDA_VISIBLE_DEVICES, whoever uses them; those that
    do not say it, as parts of a divided one (MIG), are left out. Without any GPU they are the CPUs,
    since the last call.
    """
    try:
        pynvml.nvmlInit()
        handles = visible_gpus(visible)
    except pynvml.NVMLError:  # there is no driver
        handles = []
    if not handles:
        count = psutil.cpu_count() or 1
        return count, count * psutil.cpu_percent() / 100
    busy: list[float] = []
    for handle in handles:
        with suppress(pynvml.NVMLError):
            busy.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
    return len(busy), sum(busy)


def visible_gpus(visible: str | None) -> list[Any]:
    """NVML's handles of GPUs by their numbers or their names; of all where none are given."""
    if visible is None:
        return [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
    return [
        pynvml.nvmlDeviceGetHandleByIndex(int(name))
        if name.isdigit()
        else pynvml.nvmlDeviceGetHandleByUUID(name)
        for name in filter(None, map(str.strip, visible.split(",")))
    ]


class Node:
    """Of a node of a cluster, whose Ray runs it."""

    def read(self) -> tuple[int, float]:
        """Its devices, and how many are busy."""
        return utilization_here()


class ClusterUtilization:
    """The share of the devices of a cluster that is busy, of nodes with GPUs where there are any.

    A process on each node, which takes no resources of trials, looks at its devices.
    """

    def __init__(self) -> None:
        self.readers: dict[str, Any] = {}

    def __call__(self) -> float | None:
        """None where no node answers."""
        nodes = living_nodes()
        nodes = [each for each in nodes if each["Resources"].get("GPU")] or nodes
        ids = {node["NodeID"] for node in nodes}
        self.readers = {name: reader for name, reader in self.readers.items() if name in ids}
        for name in ids - self.readers.keys():
            place = NodeAffinitySchedulingStrategy(name, soft=False)
            options = {"num_cpus": 0, "scheduling_strategy": place}
            self.readers[name] = ray.remote(Node).options(**options).remote()
        asked = [reader.read.remote() for reader in self.readers.values()]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
        found = []
        for answer in answered:
            with suppress(ray.exceptions.RayError):  # the node is just being lost
                found.append(ray.get(answer))
        return share_of(found)


def share_of(found: list[tuple[int, float]]) -> float | None:
    """The share that is busy of all devices."""
    count = sum(number for number, _ in found)
    return sum(busy for _, busy in found) / count if count else None


def device_utilization() -> Callable[[], float | None]:
    """A function that gives the share of the devices of this machine, or the cluster, in use."""
    if on_cluster():
        return ClusterUtilization()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return lambda: share_of([utilization_here(visible)])
