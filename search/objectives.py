"""What the search optimises, declared once for searcher, front, tracking and plots."""

from dataclasses import dataclass
from typing import Literal


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
OBJECTIVES = (MIOU, SIZE)
