"""What studies are compared by: their fronts, the best mIoU within sizes, hypervolume, costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.core.config import HOW, WHAT
from search.core.objectives import MIOU_AND_SIZE
from search.core.pareto import best_within, hypervolume, pareto_front, shared_span
from search.core.record import Record, total_cost
from search.storage.study_file import StudyFile
from trainables.core.flags import written_values
from trainables.core.metrics import Metrics

SAME = ("data", "image_size")
"""Settings that compared studies have in common, or that say where data lie."""


@dataclass(frozen=True)
class StudySummary:
    """One of the studies that are compared.

    `hypervolume` counts on ranges of mIoU and size that are the same for all studies of the data.
    """

    name: str
    num_trials: int
    num_finished: int
    front: Sequence[Record]
    within: Mapping[int, tuple[str, Metrics]]
    hypervolume: float
    device_seconds: float
    cost: float | None
    settings: Mapping[str, str]

    @property
    def best_miou(self) -> float | None:
        """The best mIoU of its front; None where no trial has finished."""
        mious = [record.metrics.miou for record in self.front if record.metrics]
        return max(mious, default=None)

    def best(self, kilobytes: int) -> str:
        """The best mIoU within a size and the trial that has it, such as "51.4 (0007)"."""
        if kilobytes not in self.within:
            return ""
        trial_id, metrics = self.within[kilobytes]
        return f"{100 * metrics.miou:.1f} ({trial_id})"


def summarize_study(
    file: StudyFile, records: Sequence[Record], commonest_miou: float
) -> StudySummary:
    """The summary of a study, whose hypervolume counts from `commonest_miou`."""
    return StudySummary(
        name=file.config.name,
        num_trials=len(records),
        num_finished=sum(record.state == "COMPLETE" for record in records),
        front=pareto_front(records),
        within=best_within(records),
        hypervolume=hypervolume(records, shared_span(MIOU_AND_SIZE), MIOU_AND_SIZE, commonest_miou),
        device_seconds=sum(r.metrics.device_seconds for r in records if r.metrics),
        cost=total_cost(records),
        settings=written_values(file.config, (WHAT, HOW)),
    )


def differing_settings(summaries: Sequence[StudySummary]) -> dict[str, list[str]]:
    """By name, the settings in which studies differ; "" where one is not set."""
    names = dict.fromkeys(name for summary in summaries for name in summary.settings)
    values = {
        name: [summary.settings.get(name, "") for summary in summaries]
        for name in names
        if name not in SAME
    }
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def check_comparable(files: Sequence[StudyFile]) -> None:
    """Checks that studies can be compared.

    Raises:
        ValueError: their data differ, or their mIoU is measured in different ways.
    """
    first = files[0]
    for other in files[1:]:
        if other.data_digest != first.data_digest:
            raise ValueError(
                f"compared studies must be of the same data, but {first.config.name} is of "
                f"{first.data_digest} and {other.config.name} of {other.data_digest}"
            )
        if other.label_size != first.label_size:
            raise ValueError(
                f"compared studies must measure mIoU alike, but {first.config.name} measures it on "
                f"labels of size {first.label_size!r} and {other.config.name} on "
                f"{other.label_size!r}"
            )
