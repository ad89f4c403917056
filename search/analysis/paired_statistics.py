"""Statistics of paired measurements: the same seed with and without a change."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

CONFIDENCE = 0.95
"""Of the intervals, each by itself: one of twenty excludes 0 where nothing differs."""

Verdict = Literal["better", "worse", "within noise"]


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences, in the unit of the measurements.

    `deviation` is their standard deviation (with num_pairs - 1 in the denominator) and `interval`
    the confidence interval of the mean; both are None for a single pair.
    """

    num_pairs: int
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> Verdict | None:
        """Whether the interval excludes 0, and on which side; None where there is no interval."""
        if self.interval is None:
            return None
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "within noise"


def paired_difference(
    values: Mapping[int, float], reference: Mapping[int, float]
) -> PairedDifference | None:
    """The mean of `values` minus `reference` over the keys of both; None where they share none.

    The interval is that of Student's t with one degree of freedom less than there are pairs
    (Student 1908), which supposes that differences are normally distributed.
    """
    differences = [values[seed] - reference[seed] for seed in values.keys() & reference.keys()]
    if not differences:
        return None
    if len(differences) == 1:
        return PairedDifference(1, differences[0], None, None)
    from scipy.special import stdtrit  # takes a second

    center, deviation, count = mean(differences), stdev(differences), len(differences)
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    half = quantile * deviation / count**0.5
    return PairedDifference(count, center, deviation, (center - half, center + half))
