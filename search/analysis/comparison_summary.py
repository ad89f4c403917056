"""The result of each arm of a comparison: its measurements, and its difference to its reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from search.analysis.paired_statistics import PairedDifference, paired_difference
from search.core.comparison import Arm
from search.core.record import Record
from trainables.core.metrics import Metrics


@dataclass(frozen=True)
class ArmSummary:
    """What the trainings of an arm came to.

    `mious`, in [0,1], and `failures`, the reasons, are by seed. `difference` to the reference is in
    mIoU; None for a reference itself, and where no pair of trainings finished. `size_bytes` is None
    where none finished. `missing_most` has the metrics of the student that never predicts the most
    classes; None where their number is not known. `seconds` are the mean of what students trained,
    their start included.
    """

    arm: Arm
    mious: Mapping[int, float]
    failures: Mapping[int, str]
    difference: PairedDifference | None
    size_bytes: int | None
    missing_most: Metrics | None
    seconds: float | None

    @property
    def deviation(self) -> float | None:
        """The standard deviation of `mious`; None where there are fewer than two."""
        return stdev(self.mious.values()) if len(self.mious) > 1 else None

    @property
    def verdict(self) -> str:
        """The verdict on the difference, in words."""
        if self.arm.reference is None:
            return "reference"
        if self.difference is None:
            return "no pair finished"
        unit = "seed" if len(self.arm.configs) == 1 else "pair"
        return self.difference.verdict or f"one {unit}, no interval"


def summarize(arms: Sequence[Arm], records: Mapping[str, Record]) -> list[ArmSummary]:
    """The summary of each arm; `records` are by the digests of configurations."""
    mious = {arm.name: finished_mious(arm, records) for arm in arms}
    summaries = []
    for arm in arms:
        own = [records[config.digest()] for config in arm.configs if config.digest() in records]
        metrics = [record.metrics for record in own if record.metrics]
        difference = None
        if arm.reference:
            difference = paired_difference(mious[arm.name], mious[arm.reference.name])
        seconds = [each.device_seconds + each.start_seconds for each in metrics]
        failed = {r.config.seed: r.reason for r in own if r.config and r.state == "FAIL"}
        summaries.append(
            ArmSummary(
                arm=arm,
                mious=mious[arm.name],
                failures=failed,
                difference=difference,
                size_bytes=metrics[0].size_bytes if metrics else None,
                missing_most=max(
                    (each for each in metrics if each.classes_never_predicted is not None),
                    key=lambda each: each.classes_never_predicted or 0,
                    default=None,
                ),
                seconds=mean(seconds) if seconds else None,
            )
        )
    return summaries


def finished_mious(arm: Arm, records: Mapping[str, Record]) -> dict[int, float]:
    """The mIoU of the trainings that have finished, by seed."""
    found = {config.seed: records.get(config.digest()) for config in arm.configs}
    return {seed: r.metrics.miou for seed, r in found.items() if r is not None and r.metrics}


def summary_metrics(summaries: Sequence[ArmSummary]) -> dict[str, float]:
    """Numbers of a comparison by name: the mIoU of each arm, its difference and interval."""
    numbers: dict[str, float] = {}
    for summary in summaries:
        name = f"{summary.arm.student} {summary.arm.recipe}"
        if summary.mious:
            numbers[f"miou/{name}"] = mean(summary.mious.values())
        if summary.difference:
            numbers[f"difference/{name}"] = summary.difference.mean
        if summary.difference and summary.difference.interval:
            low, high = summary.difference.interval
            numbers |= {f"difference_low/{name}": low, f"difference_high/{name}": high}
    return numbers
