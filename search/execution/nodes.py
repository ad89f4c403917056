"""The nodes that a study may run on, found and checked before it begins.

Ray is imported here only where there is a cluster; on this machine it starts in a thread meanwhile.
"""

from collections.abc import Callable

from search.core.config import Placement
from search.execution.cluster_address import on_cluster
from search.execution.environment import let_threads_spin
from search.execution.ray_start import RayStart
from search.execution.resources import Nodes, check_resources, this_machine
from search.execution.restart import is_stop_requested


def find_nodes(config: Placement, say: Callable[[str], None]) -> Nodes:
    """Joins the cluster whose address is set, or begins to start Ray here; gives the nodes.

    Raises:
        RayUnavailable: the cluster does not answer, or refuses the driver.
    """
    say("importing PyTorch and Ray")
    if on_cluster():
        from search.execution.cluster import offered_nodes
        from search.execution.session import join_cluster

        join_cluster()
        say(f"the cluster has {offered_nodes().describe()}")
        return offered_nodes()
    if (config.cpus_per_trial or 1) <= 1:
        let_threads_spin()
    if not is_stop_requested():
        RayStart.begin()
    return this_machine()


def check_nodes(config: Placement, nodes: Nodes, say: Callable[[str], None]) -> None:
    """Checks that trials fit the nodes, and that the nodes of a cluster share the storage.

    Raises:
        ValueError: no node will ever have what one trial wants.
        StorageNotShared: a node does not see the storage.
    """
    check_resources(config, nodes)
    if nodes.is_cluster:
        from search.execution.shared_storage import shared_storage

        say("checking that all nodes share the storage")
        shared_storage(config.storage).check_all()


def await_started(say: Callable[[str], None]) -> None:
    """Returns when Ray is no longer being started here: now it may be imported."""
    if RayStart.now:
        say("starting Ray")
        RayStart.now.wait()
