"""How many trials share a GPU of each kind, by a measurement on one of them."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from search.core.config import Placement
from search.execution.cluster import offered_nodes
from search.execution.mps_services import MpsServices
from search.execution.resources import (
    MAX_TRIALS_PER_GPU,
    Nodes,
    TrialResources,
    most_trials_per_gpu,
    shared_resources,
)
from search.execution.session import RemoteRunner
from search.execution.worker_failure import describe_worker_failure
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.units import human_size
from trainables.data.loader import NUM_TABLES, RESIDENT_SHARE
from trainables.training.sharing_probe import CardMeasure, measure_card

NUM_LARGEST = 3
"""Trials whose memory is measured before any runs."""


class CardShares:
    """The resources of a trial on each kind of GPU that has been measured.

    The first kind is waited for. A kind that joins later is measured beside the search, and takes
    trials from then on; one where the probe fails takes none. All GPUs of a kind are taken to have
    the same memory. Trials are bound to a kind only where there is more than one: not every
    autoscaler knows the kinds of its nodes.

    Args:
        trials: by the memory that they take, the most last.
        say: gets a line for each kind.
    """

    def __init__(
        self,
        config: Placement,
        trials: Sequence[TrialConfig],
        say: Callable[[str], None],
        remote: RemoteRunner,
        run: ExecutionConfig,
    ) -> None:
        self.config, self.say, self.remote = config, say, remote
        self.largest, self.timed = trials[-NUM_LARGEST:], [trials[0], trials[-1]]
        self.run = run.replace(gpu_share=1 / MAX_TRIALS_PER_GPU)
        self.known: dict[str, TrialResources] = {}
        self.probes: dict[str, Any] = {}
        """Tasks of Ray that run, by the kind of GPU."""
        self.failed: set[str] = set()
        self.services = MpsServices(say)
        say("measuring how many trials share a GPU")
        measured = None
        if not (kinds := offered_nodes().kinds_of_gpu(are_running=True)):
            measured = remote(self.run, measure_card, *self._given(""))  # this brings a node
            kinds = offered_nodes().kinds_of_gpu(are_running=True) or [""]
        if measured is None or len(kinds) > 1:
            on_kind = remote.on(kinds[0])
            measured = on_kind(self.run, measure_card, *self._given(kinds[0]))
        self._learn(kinds[0], offered_nodes(), measured)
        self._start_services(wait=True)

    def __call__(self, nodes: Nodes) -> Sequence[TrialResources]:
        """The resources of a trial on each kind that is known by now; starts probes of others."""
        for kind in nodes.kinds_of_gpu(are_running=True):
            if kind not in {*self.known, *self.probes, *self.failed}:
                given = self._given(kind)
                self.probes[kind] = self.remote.on(kind).start(self.run, measure_card, *given)
        for kind, probe in list(self.probes.items()):
            if ray.wait([probe], timeout=0)[0]:
                del self.probes[kind]
                try:
                    self._learn(kind, nodes, ray.get(probe))
                except ray.exceptions.RayError as error:
                    self.failed.add(kind)
                    self.say(f"warning: no trials on {kind}: {describe_worker_failure(error)}")
        self._start_services()
        kinds = nodes.kinds_of_gpu(are_running=False)
        if len(kinds) > 1:
            return [self.known[kind] for kind in kinds if kind in self.known]
        if kinds and kinds[0] not in self.known:
            return []  # it is being measured
        shares = [self.known[kinds[0]]] if kinds else self.known.values()
        return [max(shares, key=lambda share: share.gpus)._replace(accelerator="")]

    def _start_services(self, wait: bool = False) -> None:
        """Starts the Multi-Process Service where trials of a kind that is known use it."""
        self.services.start_on((kind for kind, share in self.known.items() if share.mps), wait)

    def _given(self, kind: str) -> tuple[Any, ...]:
        """What `measure_card` is told besides the run."""
        known = offered_nodes().of_kind(kind).types
        most = MAX_TRIALS_PER_GPU
        if known:  # else a node joins for the measurement
            most = most_trials_per_gpu(self.config, offered_nodes(), kind)
        return self.largest, self.timed, most, NUM_TABLES * RESIDENT_SHARE

    def _learn(self, kind: str, nodes: Nodes, measured: CardMeasure) -> None:
        trials = min(measured.num_trials, most_trials_per_gpu(self.config, nodes, kind))
        mps = self.services.folder if measured.with_mps else ""
        self.known[kind] = shared_resources(self.config, nodes, kind, trials, mps)
        gain = ""
        if measured.gain is not None and trials == measured.num_trials:
            gain = f", {measured.gain:.2f} of the images a second of one"
        if measured.with_mps:
            gain += ", with the Multi-Process Service (MPS)"
        self.say(
            f"{trials} trials at once on {f'each {kind}' if kind else 'a GPU'} with "
            f"{human_size(measured.free_bytes)} free: the largest takes "
            f"{human_size(measured.peak_bytes)}{gain}"
        )
