"""Resources of nodes and of trials, and the number of trials that fit."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from search.core.config import Placement
from search.execution.cluster_address import on_cluster
from trainables.config import ExecutionConfig

MAX_TRIALS_PER_GPU = 8
"""Maximum number of trials on one GPU, however small they are."""
EPS = 1e-9
"""Keeps a share such as 1/3 from fitting once less than it does."""


class TrialResources(NamedTuple):
    """The resources of one trial; `accelerator` is the kind of GPU, where it must be a certain one.

    `mps` is the folder of the Multi-Process Service by which trials share GPUs, if they do so.
    Ray divides single GPUs only: with a share of 0.4, two trials fit on each.
    """

    cpus: float
    gpus: float
    accelerator: str = ""
    mps: str = ""

    @property
    def threads(self) -> int:
        """The CPU threads of a trial."""
        return max(1, int(self.cpus))

    @property
    def kind(self) -> dict[str, float]:
        """What a trial takes of Ray's resource for a kind of GPU."""
        return {f"{ACCELERATOR}{self.accelerator}": KIND_SHARE} if self.accelerator else {}

    def request(self) -> dict[str, float]:
        """All that a trial takes, as Ray names resources."""
        gpus = {"GPU": self.gpus} if self.gpus else {}
        return {"CPU": self.cpus, **gpus, **self.kind}

    def given_to(self, run: ExecutionConfig) -> ExecutionConfig:
        """`run` with the threads and the share of a GPU that a trial has."""
        return run.replace(
            num_threads=self.threads, gpu_share=min(1, self.gpus) or 1.0, mps=self.mps or None
        )

    def __str__(self) -> str:
        return describe_resources(self.cpus, self.gpus, self.accelerator)


ACCELERATOR = "accelerator_type:"
"""What the name of Ray's resource for a kind of GPU begins with; each node has 1 of it."""
KIND_SHARE = 0.001
"""How much of that a trial takes, as Ray's own `accelerator_type` does."""


class NodeType(NamedTuple):
    """Nodes of the same resources: how many are `running`, and how many there may be at `most`."""

    cpus: float
    gpus: float = 0.0
    accelerator: str = ""
    running: int = 1
    most: int = 1

    def num_fitting(self, share: TrialResources) -> int:
        """The trials that fit on one node."""
        if share.accelerator not in ("", self.accelerator):
            return 0
        by_cpus = int(self.cpus / share.cpus + EPS)
        if not share.gpus:
            return by_cpus
        if share.gpus >= 1:
            return min(by_cpus, int(self.gpus / share.gpus + EPS))
        return min(by_cpus, int(self.gpus) * int(1 / share.gpus + EPS))

    def __str__(self) -> str:
        return describe_resources(self.cpus, self.gpus, self.accelerator)


@dataclass(frozen=True)
class Nodes:
    """The nodes that trials may run on: this machine, or those of a cluster.

    Args:
        types: of those that offer CPUs.
        is_cluster: whether the driver only joined them.
        may_grow: whether nodes of other types may join, which are not known here.
    """

    types: tuple[NodeType, ...]
    is_cluster: bool = False
    may_grow: bool = False

    def of_kind(self, kind: str) -> "Nodes":
        """Those with GPUs of a kind."""
        types = (each for each in self.types if each.gpus and each.accelerator == kind)
        return Nodes(tuple(types), self.is_cluster, self.may_grow)

    @property
    def has_gpus(self) -> bool:
        """Whether any node has a GPU, or could be added that has one."""
        return any(each.gpus for each in self.types)

    @property
    def whole_node(self) -> float:
        """The CPUs of the largest node, or where none runs, of the smallest that may be added."""
        running = [each.cpus for each in self.types if each.running]
        return max(running) if running else min((each.cpus for each in self.types), default=1.0)

    def cores_with(self, gpus: float) -> int:
        """The share of a node's cores that goes with so many of its GPUs; one without a GPU."""
        ratios = [each.cpus / each.gpus for each in self.types if each.gpus]
        return max(1, int(min(ratios) * gpus + EPS)) if gpus and ratios else 1

    def num_running(self, share: TrialResources) -> int:
        """The trials that fit on the nodes there are."""
        return sum(each.running * each.num_fitting(share) for each in self.types)

    def num_absent(self, share: TrialResources) -> int:
        """The trials that fit on the nodes that may be added."""
        return sum((each.most - each.running) * each.num_fitting(share) for each in self.types)

    def kinds_of_gpu(self, are_running: bool) -> list[str]:
        """The kinds of GPUs, of all nodes that there may be, or of those that run."""
        return sorted(
            {
                each.accelerator
                for each in self.types
                if each.gpus and (each.running or not are_running)
            }
        )

    def fits(self, share: TrialResources) -> bool:
        """Whether any node, running or not, could run a trial."""
        return any(each.num_fitting(share) for each in self.types)

    def describe(self) -> str:
        """As "2 nodes of 8 CPUs and 1 L4 (up to 4)"."""
        return ", ".join(self._parts()) or "no node for trials yet"

    def _parts(self) -> Iterator[str]:
        for each in self.types:
            nodes = "1 node" if each.running == 1 else f"{each.running} nodes"
            more = f" (up to {each.most})" if each.most > each.running else ""
            yield f"{nodes} of {each}{more}"


def describe_resources(cpus: float, gpus: float, accelerator: str) -> str:
    """As "8 CPUs and 1 L4"."""
    cores = f"{cpus:g} CPU{'s' if cpus != 1 else ''}"
    if not gpus:
        return cores
    return f"{cores} and {gpus:.3g} {accelerator or ('GPU' if gpus <= 1 else 'GPUs')}"


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_gpus() -> int:
    """GPUs of this machine."""
    import torch  # takes seconds, which an invalid argument should not

    return torch.cuda.device_count()


def this_machine() -> Nodes:
    """The machine of the driver."""
    return Nodes((NodeType(num_cores(), num_gpus()),))


def default_gpus(nodes: Nodes) -> float | Literal["auto"]:
    """GPUs per trial where no flag gives them."""
    return "auto" if nodes.has_gpus else 0.0


def check_cores(config: Placement) -> None:
    """Raises ValueError where one trial wants more cores than this machine has."""
    if not on_cluster():
        check_offer("cpus", config.cpus_per_trial or 0, num_cores())


def check_resources(config: Placement, nodes: Nodes) -> None:
    """Raises ValueError where no node will ever have what one trial wants."""
    share = fixed_resources(config, nodes)
    if nodes.is_cluster:
        if not nodes.may_grow and not nodes.fits(share):
            raise ValueError(
                f"--cpus-per-trial and --gpus-per-trial must fit a node of the cluster, but a "
                f"trial gets {share}, and the cluster has {nodes.describe()}"
            )
    else:
        (machine,) = nodes.types
        check_offer("gpus", config.max_gpus_per_trial, int(machine.gpus))


def check_offer(kind: Literal["cpus", "gpus"], requested: float, offered: int) -> None:
    if requested > offered:
        raise ValueError(
            f"--{kind}-per-trial must not exceed the {offered} {kind.upper()} of this machine, but "
            f"got {requested:g}"
        )


def fixed_resources(config: Placement, nodes: Nodes) -> TrialResources:
    """The resources that the configuration gives; for `auto`, a whole GPU.

    Without a number of cores: one core on a CPU; with a share of the GPUs, the same share of cores.
    """
    gpus = config.max_gpus_per_trial
    return TrialResources(config.cpus_per_trial or nodes.cores_with(gpus), gpus)


def most_trials_per_gpu(config: Placement, nodes: Nodes, kind: str) -> int:
    """The trials that a GPU of a kind may have at most, by the cores that go with it."""
    by_cores = nodes.of_kind(kind).cores_with(1) / (config.cpus_per_trial or 1)
    return max(1, min(int(by_cores), MAX_TRIALS_PER_GPU))


def shared_resources(
    config: Placement, nodes: Nodes, kind: str, trials: int, mps: str = ""
) -> TrialResources:
    """The share of one GPU of a kind and its cores, for so many trials at once."""
    cores = config.cpus_per_trial or max(1, nodes.of_kind(kind).cores_with(1) // trials)
    return TrialResources(cores, 1 / trials, kind, mps)
