"""The Multi-Process Service on the nodes whose trials share GPUs by it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.execution.cluster import kind_of, living_nodes
from search.execution.worker_failure import describe_worker_failure
from trainables.training.mps import MpsUnavailable, MultiProcessService, new_folder

START_S = 60.0
"""Seconds that trials wait for the services of nodes on which nothing runs yet."""


class NodeService:
    """The service of a node, as an actor of Ray, with which it ends."""

    def start(self, folder: str) -> str:
        """Why it cannot be started; "" where it was."""
        try:
            self.service = MultiProcessService(Path(folder))
        except MpsUnavailable as reason:
            return str(reason)
        return ""


class MpsServices:
    """Starts the service on nodes with GPUs of certain kinds, until Ray ends.

    Where it does not start, trials share GPUs without it; `say` gets a line then. `folder` is the
    same on all nodes.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.folder = say, str(new_folder())
        self.actors: dict[str, Any] = {}
        self.starting: dict[Any, str] = {}
        """The names of nodes by the answers that are waited for."""

    def start_on(self, kinds: Iterable[str], wait: bool = False) -> None:
        """Starts it on the nodes of these kinds that there are now, and reads what was answered."""
        wanted = set(kinds)
        for node in living_nodes() if wanted else ():
            resources, node_id = kind_of(node["Resources"]), node["NodeID"]
            is_wanted = bool(wanted & {"", resources.accelerator})  # "" on a single machine
            if resources.gpus and is_wanted and node_id not in self.actors:
                here = NodeAffinitySchedulingStrategy(node_id, soft=False)
                actor: Any = ray.remote(num_cpus=0)(NodeService)
                actor = self.actors[node_id] = actor.options(scheduling_strategy=here).remote()
                self.starting[actor.start.remote(self.folder)] = node["NodeManagerAddress"]
        if self.starting:
            answers = list(self.starting)
            timeout_s = START_S if wait else 0
            for answer in ray.wait(answers, num_returns=len(answers), timeout=timeout_s)[0]:
                self._read(answer, self.starting.pop(answer))

    def _read(self, answer: Any, node: str) -> None:
        try:
            reason = ray.get(answer)
        except ray.exceptions.RayError as error:  # the node may be lost
            reason = describe_worker_failure(error)
        if reason:
            self.say(f"warning: no Multi-Process Service (MPS) on {node}: {reason}")
