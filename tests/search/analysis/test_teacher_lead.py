"""The warning of a teacher that does not lead."""

from comparison_factories import summaries
from factories import make_metrics

from search.analysis.teacher_lead import weak_teacher_of_students, weak_teacher_of_twins
from search.core.record import Record
from trainables.config import TrialConfig
from trainables.recipes.configs import Distill, QatDistill, Recipe, Supervised


def test_a_teacher_that_does_not_lead_clearly_is_named_with_both_numbers() -> None:
    def record(trial_id: str, recipe: Recipe, miou: float, state: str = "COMPLETE") -> Record:
        metrics = make_metrics(miou, 1000)
        return Record(trial_id, state, "", TrialConfig(recipe=recipe), metrics)  # type: ignore[arg-type]

    records = [
        record("0001", Distill(), 0.40),
        record("0002", QatDistill(), 0.45),
        record("0003", Supervised(), 0.60),  # learned nothing from it
        record("0004", Distill(), 0.70, "PRUNED"),
    ]
    warning = weak_teacher_of_students(0.46, records)
    assert warning
    assert "the teacher has 46.0 % mIoU and its student 0002 45.0 %" in warning
    assert weak_teacher_of_students(0.48, records) is None
    assert weak_teacher_of_students(0.1, [records[2]]) is None


def test_a_teacher_is_compared_with_the_twin_that_had_none() -> None:
    (warning,) = weak_teacher_of_twins(0.539, summaries())
    assert "the teacher has 53.9 % mIoU and unet 16, supervised 52.0 % without it" in warning
    assert weak_teacher_of_twins(0.541, summaries()) == []
