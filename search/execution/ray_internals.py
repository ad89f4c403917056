"""Uses of private interfaces of Ray; a test checks each function against the installed Ray."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import ray
from ray._private import services
from ray._private.node import Node
from ray.actor import ActorHandle
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import AuthenticationError, RayError

from search.execution import restart

if TYPE_CHECKING:  # Tune takes more than a second to import
    from ray.tune.experiment import Trial

MAX_FIRST_WORKERS = 16
"""Workers that are started before they are needed: each has PyTorch in its memory."""
RECENT_S = 600.0
"""Seconds for which the failure to start a node is news."""


@contextmanager
def processes_in_own_group() -> Iterator[None]:
    """Lets Ray start its processes outside the driver's process group, and only those it needs.

    A signal to that group, as `timeout` and terminals send it, then reaches only the driver, which
    shuts the other processes down in order. On one machine there is no autoscaler, and nobody reads
    the workers' output: the programs for them would take a second of two cores to begin. Ray has no
    setting for either.
    """
    module, node = cast(Any, services), cast(Any, Node)
    popen, monitors = module.ConsolePopen, (node.start_monitor, node.start_log_monitor)

    def start(command: Sequence[str], *given: Any, **named: Any) -> Any:
        own = [fewer_workers(part) for part in command]
        return popen(own, *given, process_group=0, **named)

    module.ConsolePopen = start
    node.start_monitor = node.start_log_monitor = lambda self: None
    try:
        yield
    finally:
        module.ConsolePopen = popen
        node.start_monitor, node.start_log_monitor = monitors


def fewer_workers(argument: str) -> str:
    """An argument of the raylet; that for the workers it starts at once is one per core."""
    name, _, number = argument.partition("=")
    if name != "--num_prestart_python_workers":
        return argument
    return f"{name}={min(int(number), MAX_FIRST_WORKERS)}"


@contextmanager
def trials_in_idle_workers() -> Iterator[None]:
    """Lets trials of Tune begin in workers of this machine that are idle.

    Tune asks for workers with one more environment variable, which PyTorch Lightning needs; these
    would be started, and import PyTorch, when the trial is to begin.
    """
    from ray.tune.execution import class_cache

    cache: Any = class_cache._ActorClassCache
    get = cache.get
    cache.get = lambda self, trainable: self._cache.setdefault(trainable, ray.remote(trainable))
    try:
        yield
    finally:
        cache.get = get


def local_node() -> restart.Node:
    """The processes that `ray.init` started on this machine."""
    worker: Any = ray._private.worker
    node: restart.Node = worker._global_node
    return node


def find_cluster_address() -> str:
    """HOST:PORT of the cluster that Ray finds on this machine by itself.

    Raises:
        ConnectionError: there is none, or several.
    """
    address: str = services.canonicalize_bootstrap_address_or_die("auto")
    return address


def why_not_admitted(address: str) -> str:
    """What keeps a driver on this machine from joining the cluster at HOST:PORT; "" if nothing."""
    raylet, of_nodes = cast(Any, ray._raylet), cast(Any, services)
    try:
        raylet.GcsClient(address=address)
    except AuthenticationError:
        return (
            "it refuses the token of this user: RAY_AUTH_MODE must be token, and RAY_AUTH_TOKEN or "
            "~/.ray/auth_token must be those of the cluster's head"
        )
    except RayError:
        return "nothing answers there that Ray understands"
    if not of_nodes.find_node_ids():
        return (
            "this machine is none of its nodes: run the command on one of them, as by "
            "`ray attach`, `ray exec` or `ray job submit`"
        )
    return ""


def autoscaler_news() -> tuple[list[str], list[str]]:
    """The nodes that the autoscaler is starting, by type, and why some could not be lately.

    Both are empty where there is no autoscaler, or an earlier one than version 2.
    """
    try:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
    except RayError:  # the head is busy: that is no reason to end a search
        return [], []
    waiting = Counter(node.ray_node_type_name for node in status.pending_nodes)
    for launch in status.pending_launches:
        waiting[launch.ray_node_type_name] += launch.count
    starting = [f"{count} of type {name}" for name, count in waiting.items()]
    failures = [
        f"{launch.ray_node_type_name}: {' '.join((launch.details or 'no reason is given').split())}"
        for launch in sorted(status.failed_launches, key=lambda each: each.failed_ts_s or 0)
        if time.time() - (launch.failed_ts_s or 0) < RECENT_S
    ]
    return starting, failures


def draining_nodes() -> set[str]:
    """The ids of the nodes that will soon be gone, where nothing begins any more."""
    return set(ray._private.state.state.get_draining_nodes())


def node_of(trial: "Trial") -> str:
    """The id of the node that runs a trial of Tune; "" where none does yet."""
    if (actor := actor_of(trial)) is None:
        return ""
    found = ray._private.state.actors(actor._actor_id.hex())
    return str(found["Address"]["NodeID"]) if found else ""


def actor_of(trial: "Trial") -> ActorHandle[Any] | None:
    """The actor that runs a trial of Tune; None where the trial does not run."""
    actor: ActorHandle[Any] | None = trial.temporary_state.ray_actor
    return actor
