"""How many trials share a GPU of each kind, by a probe of memory on one of them."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from search.core.config import Placement
from search.execution.cluster import offered_nodes
from search.execution.resources import (
    MAX_TRIALS_PER_GPU,
    Nodes,
    TrialResources,
    resources_by_memory,
)
from search.execution.session import RemoteRunner
from search.execution.worker_failure import describe_worker_failure
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.units import human_size
from trainables.training.memory_probe import measure_gpu_bytes


class CardShares:
    """The resources of a trial on each kind of GPU that has been measured.

    The first kind is waited for. A kind that joins later is measured beside the search, and takes
    trials from then on; one where the probe fails takes none. All GPUs of a kind are taken to have
    the same memory. Trials are bound to a kind only where there is more than one: not every
    autoscaler knows the kinds of its nodes.

    Args:
        largest: the trials that take most memory.
        say: gets a line for each kind.
    """

    def __init__(
        self,
        config: Placement,
        largest: Sequence[TrialConfig],
        say: Callable[[str], None],
        remote: RemoteRunner,
        run: ExecutionConfig,
    ) -> None:
        self.config, self.largest, self.say, self.remote = config, largest, say, remote
        self.run = run.replace(gpu_share=1 / MAX_TRIALS_PER_GPU)
        self.known: dict[str, TrialResources] = {}
        self.probes: dict[str, Any] = {}
        """Tasks of Ray that run, by the kind of GPU."""
        self.failed: set[str] = set()
        say("measuring the GPU memory that the largest trials take")
        measured = None
        if not (kinds := offered_nodes().kinds_of_gpu(are_running=True)):
            measured = remote(self.run, measure_gpu_bytes, largest)  # this brings a node
            kinds = offered_nodes().kinds_of_gpu(are_running=True) or [""]
        if measured is None or len(kinds) > 1:
            measured = remote.on(kinds[0])(self.run, measure_gpu_bytes, largest)
        self._learn(kinds[0], offered_nodes(), measured)

    def __call__(self, nodes: Nodes) -> Sequence[TrialResources]:
        """The resources of a trial on each kind that is known by now; starts probes of others."""
        for kind in nodes.kinds_of_gpu(are_running=True):
            if kind not in {*self.known, *self.probes, *self.failed}:
                task = self.remote.on(kind).start(self.run, measure_gpu_bytes, self.largest)
                self.probes[kind] = task
        for kind, probe in list(self.probes.items()):
            if ray.wait([probe], timeout=0)[0]:
                del self.probes[kind]
                try:
                    self._learn(kind, nodes, ray.get(probe))
                except ray.exceptions.RayError as error:
                    self.failed.add(kind)
                    self.say(f"warning: no trials on {kind}: {describe_worker_failure(error)}")
        kinds = nodes.kinds_of_gpu(are_running=False)
        if len(kinds) > 1:
            return [self.known[kind] for kind in kinds if kind in self.known]
        if kinds and kinds[0] not in self.known:
            return []  # it is being measured
        shares = [self.known[kinds[0]]] if kinds else self.known.values()
        return [max(shares, key=lambda share: share.gpus)._replace(accelerator="")]

    def _learn(self, kind: str, nodes: Nodes, measured: tuple[int, int]) -> None:
        peak, free = measured
        share = resources_by_memory(self.config, nodes, kind, peak, free)
        self.known[kind] = share
        self.say(
            f"{round(1 / share.gpus)} trials at once on {f'each {kind}' if kind else 'a GPU'} with "
            f"{human_size(free)} free: the largest takes {human_size(peak)}"
        )
