"""Uses of private interfaces of Ray; a test checks each function against the installed Ray."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray._private import services
from ray.actor import ActorHandle
from ray.tune.experiment import Trial

from search.execution.restart import Node


@contextmanager
def processes_in_own_group() -> Iterator[None]:
    """Lets Ray start its processes outside the driver's process group.

    A signal to that group, as `timeout` and terminals send it, then reaches only the driver, which
    shuts the other processes down in order. Ray has no setting for it.
    """
    module: Any = services
    popen = module.ConsolePopen
    module.ConsolePopen = partial(popen, process_group=0)
    try:
        yield
    finally:
        module.ConsolePopen = popen


def local_node() -> Node:
    """The processes that `ray.init` started on this machine."""
    worker: Any = ray._private.worker
    node: Node = worker._global_node
    return node


def find_cluster_address() -> str:
    """HOST:PORT of the cluster that Ray finds on this machine by itself.

    Raises:
        ConnectionError: there is none, or several.
    """
    address: str = services.canonicalize_bootstrap_address_or_die("auto")
    return address


def actor_of(trial: Trial) -> ActorHandle[Any] | None:
    """The actor that runs a trial of Tune; None where the trial does not run."""
    actor: ActorHandle[Any] | None = trial.temporary_state.ray_actor
    return actor
