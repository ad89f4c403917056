"""The address of a Ray cluster, and checks that it accepts connections."""

import os
import socket
from collections.abc import Callable

CLUSTER_ADDRESS = "RAY_ADDRESS"
LOCAL = "local"
"""The address of Ray on this machine, the same as no address."""
CONNECT_S = 3.0
"""Timeout of a connection to the head of a cluster, in seconds."""


def cluster_address() -> str:
    """The address of the Ray cluster, or "" where Ray is to be started on this machine."""
    address = os.environ.get(CLUSTER_ADDRESS, "").strip()
    return "" if address == LOCAL else address


def on_cluster() -> bool:
    """Whether Ray's address is set: then the driver's own hardware says nothing about workers."""
    return cluster_address() != ""


def check_cluster(say: Callable[[str], None]) -> None:
    """Raises ValueError where the address of a cluster is set and accepts no connection.

    Ray itself would try for many minutes and would not react to Ctrl-C.
    """
    address = cluster_address()
    if address:
        say(f"looking for the cluster at {address}")
    try:
        if address == "auto":
            find_cluster()
        elif address:
            check_reachable(address)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{CLUSTER_ADDRESS} must be auto, or HOST:PORT of a cluster's head that can be "
            f"reached, but got {address} ({error}); unset it to run on this machine"
        ) from error


def check_reachable(address: str) -> None:
    """Opens a connection to HOST:PORT and closes it."""
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdigit():
        raise ValueError("it is no HOST:PORT; ray:// leads to no driver that can search")
    socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def find_cluster() -> None:
    """Connects to the cluster that Ray finds by itself."""
    from search.execution.ray_internals import find_cluster_address  # imports Ray

    check_reachable(find_cluster_address())
