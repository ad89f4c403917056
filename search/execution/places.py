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
        """The trials that run at once on all nodes that there may be, at least one."""
        nodes = self.nodes()
        shares = self.shares(nodes)
        return max(1, sum(nodes.num_running(share) + nodes.num_absent(share) for share in shares))

    def next(self, taken: Counter[TrialResources]) -> TrialResources | None:
        """The resources of the next trial, given those of pending and running ones.

        None where there is no room. On a machine one trial may always run. On a cluster some wait,
        for the kind of GPU of which most can be added. Trials that no node could run any more take
        no room.
        """
        nodes = self.nodes()
        if not (shares := self.shares(nodes)):
            return None
        room = {share: nodes.num_running(share) - taken[share] for share in shares}
        capacity = sum(nodes.num_running(share) for share in shares)
        asked = sum(number for share, number in taken.items() if nodes.fits(share) or not capacity)
        if asked < capacity:
            return max(shares, key=room.__getitem__)
        if not nodes.is_cluster:
            return None if taken else shares[0]
        if asked - capacity >= WAITING_ON_CLUSTER:
            return None
        return max(shares, key=nodes.num_absent)


def places_of(config: Placement) -> TrialPlaces:
    """Places with the resources that the configuration gives; for `auto`, a whole GPU."""
    return TrialPlaces(offered_nodes, lambda nodes: [fixed_resources(config, nodes)])
