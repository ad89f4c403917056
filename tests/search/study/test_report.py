"""What the report says of a teacher."""

from search.study.report import teacher_numbers
from trainables.core.metrics import SplitMetrics, TeacherMetrics


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
