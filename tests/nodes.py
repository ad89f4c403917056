"""Nodes of a cluster on this machine that have file systems of their own."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drivers import SEVERAL_NODES

RAY = Path(sys.executable).with_name("ray")
UNSHARE = ["unshare", "--mount"]


def can_unshare() -> bool:
    """Whether a node can have file systems of its own here."""
    if shutil.which("unshare") is None:
        return False
    mount = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


@contextmanager
def node_without(folder: Path, address: str, log: Path) -> Iterator[None]:
    """A node of the cluster where this folder is empty."""
    start = f"{RAY} start --address {address} --num-cpus 1 --min-worker-port 0 --max-worker-port 0"
    again = f"until {start} --block; do sleep 1; done"  # on a busy machine a start may time out
    with log.open("w") as out:
        node = subprocess.Popen(
            [*UNSHARE, "sh", "-c", f"mount -t tmpfs none {folder} && {again}"],
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **SEVERAL_NODES},
        )
        try:
            yield
        except BaseException:
            print(log.read_text())
            raise
        finally:
            os.killpg(node.pid, signal.SIGTERM)
            node.wait(30)
