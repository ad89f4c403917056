"""Whether a teacher leads its students, without which it cannot help them."""

from collections.abc import Iterable, Sequence
from statistics import mean

from search.analysis.comparison_summary import ArmSummary
from search.core.record import Record
from trainables.teachers.lead import leads, weak_teacher_warning


def weak_teacher_of_students(teacher_miou: float, records: Iterable[Record]) -> str | None:
    """A warning where the teacher is not clearly better than the best student that had it."""
    taught = [
        (record.metrics.miou, record.trial_id)
        for record in records
        if record.state == "COMPLETE"
        and record.metrics
        and record.config
        and record.config.needs_teacher
    ]
    best, trial_id = max(taught, default=(0.0, ""))
    if not taught or leads(teacher_miou, best):
        return None
    warning = weak_teacher_warning(teacher_miou, f"its student {trial_id} {100 * best:.1f} %")
    return f"{warning}, or train it longer with --teacher-epochs"


def weak_teacher_of_twins(teacher_miou: float, summaries: Sequence[ArmSummary]) -> list[str]:
    """A warning for each student that without the teacher is nearly as good as the teacher.

    Its twin is the recipe that others are compared with, where that has no teacher.
    """
    twins = {
        summary.arm.reference.name
        for summary in summaries
        if summary.arm.reference and summary.arm.configs[0].needs_teacher
    }
    mious = {
        summary.arm.name: mean(summary.mious.values())
        for summary in summaries
        if summary.arm.name in twins and summary.mious and not summary.arm.configs[0].needs_teacher
    }
    return [
        weak_teacher_warning(teacher_miou, f"{name} {100 * miou:.1f} % without it")
        for name, miou in mious.items()
        if not leads(teacher_miou, miou)
    ]
