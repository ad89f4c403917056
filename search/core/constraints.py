"""Hard limits, checked before any training is paid for."""

import math

from trainables.core.config_base import FrozenConfig


class OverBudget(ValueError):
    """No student of the space meets the budget; the message says what the cheapest costs."""


class Costs(FrozenConfig):
    """What a configuration will cost on the device, known before it is trained."""

    size_bytes: int
    macs: int
    latency_ms: float | None = None


class Budget(FrozenConfig):
    """The most that a student may cost; None: no limit."""

    size_bytes: int | None = None
    macs: int | None = None
    latency_ms: float | None = None

    def excess(self, costs: Costs) -> dict[str, float]:
        """Of each limit, the logarithm of cost by limit: positive where it is broken."""
        limits = {name: limit for name, limit in self if limit is not None}
        return {name: math.log(getattr(costs, name) / limit) for name, limit in limits.items()}

    def describe_violations(self, costs: Costs) -> str:
        """What is over the budget, in words; empty where nothing is."""
        broken = [name for name, excess in self.excess(costs).items() if excess > 0]
        return ", ".join(
            f"{name} {getattr(costs, name):,.6g}, the limit is {getattr(self, name):,.6g}"
            for name in broken
        )
