"""Hard limits on the costs of a student, checked before training."""

import math

from trainables.core.config_base import FrozenConfig


class OverBudget(ValueError):
    """No student of the space meets the budget; the message says what the cheapest costs."""


class Costs(FrozenConfig):
    """The predicted costs of a configuration on the device; None: not predicted."""

    size_bytes: int
    macs: int
    latency_ms: float | None = None
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
        broken = [name for name, excess in self.excess(costs).items() if excess > 0]
        return ", ".join(
            f"{name} {getattr(costs, name):,.6g}, the limit is {getattr(self, name):,.6g}"
            for name in broken
        )
