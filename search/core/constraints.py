"""Hard limits on the costs of a student, checked before training."""

import math
from collections.abc import Callable

from trainables.core.config_base import FrozenConfig

WRITTEN: dict[str, tuple[str, Callable[[float], str]]] = {
    "size_bytes": ("a size", "{:,} bytes".format),
    "macs": ("a work", "{:,} multiply-adds".format),
    "latency_ms": ("a latency", "{:.3g} ms".format),
    "ram_bytes": ("activations", "{:,} bytes".format),
}
"""How each cost is named, and how an amount of it is written."""


class OverBudget(ValueError):
    """No student of the space meets the budget; the message says what the cheapest costs."""


class Costs(FrozenConfig):
    """The predicted costs of a configuration on the device; None: not predicted."""

    size_bytes: int
    macs: int
    latency_ms: float | None = None
    latency_disturbed: bool = False
    """Whether it was measured beside other work."""
    ram_bytes: int | None = None


class Budget(FrozenConfig):
    """The upper limits of a student's costs; None: no limit."""

    size_bytes: int | None = None
    macs: int | None = None
    latency_ms: float | None = None
    ram_bytes: int | None = None

    def excess(self, costs: Costs) -> dict[str, float]:
        """By limit, the logarithm of cost divided by limit: positive where it is exceeded."""
        limits = {name: limit for name, limit in self if limit is not None}
        return {name: math.log(getattr(costs, name) / limit) for name, limit in limits.items()}

    def describe_violations(self, costs: Costs) -> str:
        """A text that names each limit that is exceeded; empty where none is."""
        broken = [field for field, excess in self.excess(costs).items() if excess > 0]
        return ", ".join(
            f"{name} of {amount(getattr(costs, field))}, "
            f"the limit is {amount(getattr(self, field))}"
            for field in broken
            for name, amount in [WRITTEN[field]]
        )
