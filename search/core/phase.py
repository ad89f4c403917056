"""The phases of a search: how long each took, and how busy the devices were."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from trainables.core.progress import human_duration

STARTING, TEACHER, OUTPUTS, SENSITIVITIES, SHARING, TRIALS, AGAIN = (
    "starting",
    "teacher",
    "teacher_outputs",
    "sensitivities",
    "sharing",
    "trials",
    "front_again",
)


class Phase(NamedTuple):
    """The seconds of a phase, those in which devices were looked at, and those of busy devices."""

    seconds: float = 0.0
    sampled_s: float = 0.0
    busy_s: float = 0.0

    def plus(self, other: "Phase") -> "Phase":
        """Both together."""
        return Phase(*(mine + others for mine, others in zip(self, other, strict=True)))

    @property
    def utilization(self) -> float | None:
        """The mean share of the devices that was busy, 0 to 1; None where none was looked at."""
        return self.busy_s / self.sampled_s if self.sampled_s else None


class PhaseTimes(NamedTuple):
    """The phases of all drivers of a study, and of the last one the seconds to the first step.

    These count from the start of the command to the first training step of the teacher, of a
    full-precision start or of a trial; None where it made none.
    """

    phases: Mapping[str, Phase]
    first_step_s: float | None = None

    def numbers(self) -> Iterator[tuple[str, float]]:
        """All as metrics of MLflow."""
        if self.first_step_s is not None:
            yield "seconds_to_first_step", self.first_step_s
        for name, phase in self.phases.items():
            yield f"phase.{name}.seconds", phase.seconds
            if phase.utilization is not None:
                yield f"phase.{name}.utilization", phase.utilization

    def __str__(self) -> str:
        """As "first step after 11 s; starting 9 s, teacher 2 min (devices 93 % busy)"."""
        parts = []
        for name, phase in self.phases.items():
            busy = "" if phase.utilization is None else f" (devices {phase.utilization:.0%} busy)"
            if phase.seconds >= 1:
                parts.append(f"{name.replace('_', ' ')} {human_duration(phase.seconds)}{busy}")
        first = self.first_step_s
        before = "" if first is None else f"first training step after {human_duration(first)}; "
        return before + ", ".join(parts)
