"""What the journal keeps of a study besides its trials."""

from pathlib import Path

from search.core.objectives import MIOU_AND_SIZE
from search.core.phase import TEACHER, TRIALS, Phase, PhaseTimes
from search.storage.journal import open_journal, read_journal, read_lines
from search.storage.trials import (
    add_device_time,
    read_phases,
    read_teacher_metrics,
    read_utilisation,
    store_phases,
    store_teacher_metrics,
)
from trainables.core.metrics import SplitMetrics, TeacherMetrics


def test_the_metrics_of_a_teacher_are_kept_once(tmp_path: Path) -> None:
    study = open_journal(tmp_path, "study", MIOU_AND_SIZE)
    assert read_teacher_metrics(study) is None
    split = SplitMetrics(miou=0.25, class_iou=(0.5, 0.0, None), never_predicted=(1,))
    metrics = TeacherMetrics(train=split, val=split.replace(miou=0.125))
    store_teacher_metrics(study, metrics)
    num_lines = len(read_lines(tmp_path))
    store_teacher_metrics(study, metrics)
    assert len(read_lines(tmp_path)) == num_lines
    assert read_teacher_metrics(read_journal(tmp_path, "study")) == metrics


def test_the_use_of_devices_is_added_up_over_drivers(tmp_path: Path) -> None:
    study = open_journal(tmp_path, "study", MIOU_AND_SIZE)
    assert read_utilisation(study) is None
    add_device_time(study, 30, 40)
    add_device_time(study, 10, 60)
    assert read_utilisation(read_journal(tmp_path, "study")) == 0.4


def test_phases_are_added_up_over_drivers_and_the_last_first_step_counts(tmp_path: Path) -> None:
    study = open_journal(tmp_path, "study", MIOU_AND_SIZE)
    assert read_phases(study) == PhaseTimes({})
    first = PhaseTimes({TEACHER: Phase(20, 10, 9), TRIALS: Phase(60, 30, 15)}, 12.0)
    store_phases(study, PhaseTimes({}), PhaseTimes({TEACHER: Phase(20, 10, 9)}))
    store_phases(study, PhaseTimes({}), first)  # the same driver, later
    store_phases(study, first, PhaseTimes({TRIALS: Phase(40, 20, 20)}, 8.0))
    kept = read_phases(read_journal(tmp_path, "study"))
    assert kept == PhaseTimes({TEACHER: Phase(20, 10, 9), TRIALS: Phase(100, 50, 35)}, 8.0)
    assert dict(kept.numbers()) == {
        "seconds_to_first_step": 8.0,
        "phase.teacher.seconds": 20,
        "phase.teacher.utilization": 0.9,
        "phase.trials.seconds": 100,
        "phase.trials.utilization": 0.7,
    }
    assert str(kept) == (
        "first training step after 8 s; teacher 20 s (devices 90% busy), "
        "trials 2 min (devices 70% busy)"
    )
