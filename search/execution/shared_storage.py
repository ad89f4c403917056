"""Checks that the nodes of a cluster share the storage and have this project."""

import math
import secrets
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.execution.cluster import kind_of, living_nodes
from search.execution.cluster_address import on_cluster
from search.execution.worker_failure import describe_worker_failure
from trainables.core.files import read_shared, replace_file
from trainables.core.mirror import delete, is_mirrored, shown

SEEN_WITHIN_S = 15.0
"""Seconds until a node must see a new file: network file systems may show it late."""
LOOK_EVERY_S = 2.0
"""Seconds between two looks at the nodes of a cluster."""
ANSWER_S = 90.0
"""Seconds until a node must have answered, the start of a process there included."""


class StorageNotShared(OSError):
    """A node does not see the storage, cannot write it, or cannot run this project."""


@lru_cache
def shared_storage(storage: Path) -> "SharedStorage":
    """The check of a storage, which asks each node once however many parts of the driver look."""
    return SharedStorage(storage)


class SharedStorage:
    """Has nodes read what this process wrote to the storage, and reads what they answer.

    A node is asked once, as soon as it has joined. The file is there until all have answered.
    """

    def __init__(self, storage: Path) -> None:
        self.storage, self.word = storage, secrets.token_hex(16)
        self.file = storage / f".shared-{self.word[:8]}"
        self.asked: dict[str, str] = {}
        """Places of nodes, for messages, by Ray's ids."""
        self.answers: dict[str, Any] = {}
        """Tasks of Ray that have not been read, by the ids of nodes."""
        self.looked = -math.inf

    def look(self) -> None:
        """Checks the nodes of a cluster every few seconds, however often it is called.

        Raises:
            StorageNotShared: a node gave another answer than it should.
        """
        if on_cluster() and time.monotonic() - self.looked >= LOOK_EVERY_S:
            self.looked = time.monotonic()
            self.check_nodes()

    def check_nodes(self) -> None:
        """Asks the nodes that have joined since the last call, and reads the answers so far.

        Raises:
            StorageNotShared: a node gave another answer than it should.
        """
        for node in living_nodes():
            node_id = node["NodeID"]
            if node_id not in self.asked and kind_of(node["Resources"]).cpus:
                name, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
                self.asked[node_id] = f"{name} ({address})"
                if not self.answers:
                    self.storage.mkdir(parents=True, exist_ok=True)
                    replace_file(self.file, self.word)
                here = NodeAffinitySchedulingStrategy(node_id, soft=False)
                task: Any = ray.remote(num_cpus=0, max_retries=0)(read_shared)
                self.answers[node_id] = task.options(scheduling_strategy=here).remote(
                    self.file, SEEN_WITHIN_S
                )
        for node_id, waiting in list(self.answers.items()):
            if ray.wait([waiting], timeout=0)[0]:
                del self.answers[node_id]
                try:
                    self._read(node_id, waiting)
                except StorageNotShared:
                    self.answers.clear()
                    raise
                finally:
                    if not self.answers:
                        self._delete_file()

    def check_all(self) -> None:
        """Waits for the answers of all nodes that there are.

        Raises:
            StorageNotShared: a node gave another answer than it should, or none.
        """
        deadline = time.monotonic() + ANSWER_S
        self.check_nodes()
        while self.answers:
            if time.monotonic() > deadline:
                self._delete_file()
                silent = ", ".join(self.asked[node_id] for node_id in self.answers)
                raise StorageNotShared(
                    f"every node must be able to run a task, but none ended on {silent} in "
                    f"{ANSWER_S:g} s"
                )
            time.sleep(0.1)
            self.check_nodes()

    def _delete_file(self) -> None:
        with suppress(OSError):  # an object store that does not answer: it does no harm
            delete(self.file)

    def _read(self, node_id: str, waiting: Any) -> None:
        node = self.asked[node_id]
        try:
            found = ray.get(waiting)
        except ray.exceptions.RayTaskError as error:
            raise StorageNotShared(
                f"every node must have this project installed, but a task on {node} failed: "
                f"{describe_worker_failure(error)}"
            ) from error
        except ray.exceptions.RayError:  # the process died, or the node is lost: asked again
            del self.asked[node_id]
            return
        if found != self.word:
            raise StorageNotShared(
                f"--storage must be a folder that all nodes share, at the same path, but node "
                f"{node} {found}: mount one file system at {self.storage} on every node"
                if not is_mirrored(self.storage)
                else f"--storage must be a bucket that all nodes reach, but node {node} {found}: "
                f"give it the address and the credentials of {shown(self.storage)}"
            )
