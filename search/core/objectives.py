"""The objectives of a search, declared once for searcher, front, tracking and plots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ObjectiveName = Literal["miou", "size", "latency", "macs", "ram"]


@dataclass(frozen=True)
class Objective:
    """A metric of a finished trial and the direction in which it is better."""

    metric: str
    direction: Literal["maximize", "minimize"]

    @property
    def sign(self) -> int:
        """Multiplies a value so that less is better."""
        return 1 if self.direction == "minimize" else -1


MIOU = Objective("miou", "maximize")
SIZE = Objective("size_bytes", "minimize")
LATENCY = Objective("latency_ms", "minimize")
OBJECTIVES: dict[ObjectiveName, Objective] = {
    "miou": MIOU,
    "size": SIZE,
    "latency": LATENCY,
    "macs": Objective("macs", "minimize"),
    "ram": Objective("ram_bytes", "minimize"),
}
MIOU_AND_SIZE = (MIOU, SIZE)


def named_objectives(names: Sequence[ObjectiveName]) -> tuple[Objective, ...]:
    """The objectives of these names."""
    return tuple(OBJECTIVES[name] for name in names)
