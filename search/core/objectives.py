"""The objectives of a search, declared once for searcher, front, tracking and plots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainables.core.units import human_size

ObjectiveName = Literal["miou", "size", "latency", "macs", "ram"]


@dataclass(frozen=True)
class Objective:
    """A metric of a finished trial and the direction in which it is better."""

    metric: str
    direction: Literal["maximize", "minimize"]
    span: tuple[float, float] = (0, 1)
    """The values between which hypervolumes of different studies are compared."""
    write: Callable[[Any], str] = str
    """A value in words."""

    @property
    def sign(self) -> int:
        """Multiplies a value so that less is better."""
        return 1 if self.direction == "minimize" else -1


MIOU = Objective("miou", "maximize")
SIZE = Objective("size_bytes", "minimize", (10_000, 100_000_000), human_size)
LATENCY = Objective("latency_ms", "minimize", (0.1, 1e4), "{:g} ms".format)
OBJECTIVES: dict[ObjectiveName, Objective] = {
    "miou": MIOU,
    "size": SIZE,
    "latency": LATENCY,
    "macs": Objective("macs", "minimize", (1e6, 1e12), "{:.0e} MACs".format),
    "ram": Objective("ram_bytes", "minimize", (10_000, 1_000_000_000), human_size),
}
MIOU_AND_SIZE = (MIOU, SIZE)


def named_objectives(names: Sequence[ObjectiveName]) -> tuple[Objective, ...]:
    """The objectives of these names."""
    return tuple(OBJECTIVES[name] for name in names)
