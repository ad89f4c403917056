"""What the driver of a study says of where its trials run and what they wait for."""

from pathlib import Path

from search.storage.layout import DRIVER_STATUS
from trainables.core.config_base import FrozenConfig
from trainables.core.files import replace_file
from trainables.core.mirror import delete


class DriverStatus(FrozenConfig):
    """The state of the nodes while trials run; times in seconds, `written_at` since 1970."""

    written_at: float
    nodes: str
    """In words, such as "2 nodes of 8 CPUs and 1 L4 (up to 4)"."""
    used: dict[str, float]
    offered: dict[str, float]
    """CPUs and GPUs of all nodes, and what of them tasks have reserved, by Ray's names."""
    utilisation: float | None = None
    """The share of the GPUs' time, or without any of the CPUs', that was reserved so far."""
    num_waiting: int
    """Trials that wait for resources."""
    reason: str
    """What they wait for; "" where none waits."""
    left_s: float | None
    """What the search is expected to take from then on, if that is known."""


def write_driver_status(folder: Path, status: DriverStatus) -> None:
    """Replaces the status in the folder of a study."""
    replace_file(folder / DRIVER_STATUS, status.model_dump_json())


def read_driver_status(folder: Path) -> DriverStatus | None:
    """The status in the folder of a study; None where no trials run.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / DRIVER_STATUS
    return DriverStatus.read(path) if path.is_file() else None


def remove_driver_status(folder: Path) -> None:
    """Says that no trials run any more."""
    delete(folder / DRIVER_STATUS)
