"""How busy the devices are that train: the GPUs as NVML says, or the CPUs."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import psutil
import pynvml
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.execution.cluster import living_nodes
from search.execution.cluster_address import on_cluster
from trainables.deploy.latency import machine_name

ANSWER_S = 5.0
"""Seconds that the nodes of a cluster may take to answer; those that do not are left out."""


def utilization_here(device: str, visible: str | None = None) -> tuple[int, float]:
    """The devices of this machine, and how many of them are busy: a share of one counts in part.

    Of `cuda` they are the GPUs that are `visible`, named as in CUDA_VISIBLE_DEVICES, whoever uses
    them. Those of which NVML says nothing, as parts of a divided one (MIG), are left out. Of `cpu`
    they are the cores, since the last call.
    """
    if device == "cpu":
        count = psutil.cpu_count() or 1
        return count, count * psutil.cpu_percent() / 100
    busy: list[float] = []
    for handle in visible_gpus(visible):
        with suppress(pynvml.NVMLError):
            busy.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
    return len(busy), sum(busy)


def visible_gpus(visible: str | None) -> Iterator[Any]:
    """NVML's handles of the GPUs that it knows; none where there is no driver."""
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        names = visible.split(",") if visible else map(str, range(pynvml.nvmlDeviceGetCount()))
        for name in map(str.strip, names):
            with suppress(pynvml.NVMLError):
                if name.isdigit():
                    yield pynvml.nvmlDeviceGetHandleByIndex(int(name))
                else:
                    yield pynvml.nvmlDeviceGetHandleByUUID(name)


def device_name(device: str) -> str:
    """The name of this machine's first visible GPU, or for `cpu` of its processor."""
    if device == "cpu":
        return machine_name()
    for handle in visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")):
        return str(pynvml.nvmlDeviceGetName(handle))
    return device


class Node:
    """Of a node of a cluster, whose Ray runs it."""

    def read(self, device: str) -> tuple[int, float]:
        """Its devices, and how many are busy."""
        return utilization_here(device)


class ClusterUtilization:
    """The share of the devices of a cluster that is busy, of those that have trials: `cuda`, `cpu`.

    A process on each node, which takes no resources of trials, looks at its devices.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.readers: dict[str, Any] = {}

    def __call__(self) -> float | None:
        """None where no node answers."""
        with suppress(ray.exceptions.RayError):  # the head is busy
            return share_of(self._read())
        return None

    def _read(self) -> list[tuple[int, float]]:
        kind = "GPU" if self.device == "cuda" else "CPU"
        ids = {node["NodeID"] for node in living_nodes() if node["Resources"].get(kind)}
        self.readers = {name: reader for name, reader in self.readers.items() if name in ids}
        for name in ids - self.readers.keys():
            place = NodeAffinitySchedulingStrategy(name, soft=False)
            reader = ray.remote(Node).options(num_cpus=0, scheduling_strategy=place)
            self.readers[name] = reader.remote()
        asked = [reader.read.remote(self.device) for reader in self.readers.values()]
        answered, _ = (
            ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
        )
        found = []
        for answer in answered:
            with suppress(ray.exceptions.RayError):  # the node is just being lost
                found.append(ray.get(answer))
        return found


def share_of(found: Sequence[tuple[int, float]]) -> float | None:
    """The share that is busy of all devices."""
    count = sum(number for number, _ in found)
    return sum(busy for _, busy in found) / count if count else None


def device_utilization(device: str) -> Callable[[], float | None]:
    """A function that gives the share of the devices of this machine, or the cluster, in use."""
    if on_cluster():
        return ClusterUtilization(device)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return lambda: share_of([utilization_here(device, visible)])
