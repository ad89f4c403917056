"""What the report says of a teacher."""

from factories import make_metrics

from search.core.record import Record
from search.study.report import teacher_numbers, weak_teacher_warning
from trainables.config import TrialConfig
from trainables.core.metrics import SplitMetrics, TeacherMetrics
from trainables.recipes.configs import Distill, QatDistill, Recipe, Supervised


def test_the_numbers_of_a_teacher_have_names() -> None:
    train = SplitMetrics(miou=0.75, class_iou=(0.75, 0.75), never_predicted=())
    val = SplitMetrics(miou=0.0, class_iou=(0.0, None), never_predicted=(0,))
    numbers = teacher_numbers(TeacherMetrics(train=train, val=val), ["iou.sky", "iou.tree"])
    assert numbers == {
        "teacher.miou": 0.0,
        "teacher.classes_never_predicted": 1,
        "teacher.iou.sky": 0.0,
        "teacher.train.miou": 0.75,
        "teacher.train.classes_never_predicted": 0,
        "teacher.train.iou.sky": 0.75,
        "teacher.train.iou.tree": 0.75,
    }


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
    warning = weak_teacher_warning(0.46, records)
    assert warning
    assert "the teacher has 46.0 % mIoU and its student 0002 45.0 %" in warning
    assert weak_teacher_warning(0.48, records) is None
    assert weak_teacher_warning(0.1, [records[2]]) is None
