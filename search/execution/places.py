"""Where the next trial runs: on which kind of GPU, and with what share of it."""

from collections import Counter
from collections.abc import Callable, Sequence

from search.core.config import Placement
from search.execution.cluster import offered_nodes
from search.execution.resources import Nodes, TrialResources, fixed_resources

WAITING_ON_CLUSTER = 4
"""Trials that wait on a cluster: its autoscaler adds nodes only for pending trials."""


class TrialPlaces:
    """Gives each trial the resources that it runs with, as long as there is room.

    Args:
        nodes: those that there are now.
        shares: the resources of a trial on them, for each kind of GPU.
    """

    def __init__(
        self, nodes: Callable[[], Nodes], shares: Callable[[Nodes], Sequence[TrialResources]]
    ) -> None:
        self.nodes, self.shares = nodes, shares

    def capacity(self) -> int:
        """The trials that run at once on the nodes that there are, at least one."""
        nodes = self.nodes()
        return max(1, sum(nodes.num_running(share) for share in self.shares(nodes)))

    def next(self, taken: Counter[TrialResources]) -> TrialResources | None:
        """The resources of the next trial, given those of pending and running ones.

        None where there is no room. On a machine one trial may always run. On a cluster some wait,
        for the kind of GPU of which most can be added.
        """
        nodes = self.nodes()
        shares = self.shares(nodes)
        room = {share: nodes.num_running(share) - taken[share] for share in shares}
        freest = max(shares, key=room.__getitem__)
        if room[freest] > 0:
            return freest
        if not nodes.is_cluster:
            return None if taken else freest
        if -sum(room.values()) >= WAITING_ON_CLUSTER:
            return None
        return max(shares, key=nodes.num_absent)


def places_of(config: Placement) -> TrialPlaces:
    """Places with the resources that the configuration gives; for `auto`, a whole GPU."""
    return TrialPlaces(offered_nodes, lambda nodes: [fixed_resources(config, nodes)])
