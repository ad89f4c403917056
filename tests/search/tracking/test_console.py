"""How the console says that a trial has ended."""

from pathlib import Path

import pytest
from factories import make_config, make_metrics

from search.core.record import Record
from search.tracking.console import ConsoleProgress, describe_outcome
from trainables.config import TrialConfig
from trainables.recipes.configs import Distill


def test_a_finished_trial_that_never_predicts_a_class_says_so() -> None:
    metrics = make_metrics(0.5, 61_900, class_iou=(0.5, 0.0, None))
    ended = Record("0000", "COMPLETE", "", None, metrics)
    assert describe_outcome(ended) == "mIoU 50.0 %, 61.9 KB, 1 s, ! 1 of 2 classes never predicted"
    metrics = make_metrics(0.5, 61_900, class_iou=(0.5, 0.25, None))
    ended = Record("0000", "COMPLETE", "", None, metrics)
    assert describe_outcome(ended) == "mIoU 50.0 %, 61.9 KB, 1 s"


def test_the_first_student_near_its_teacher_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = ConsoleProgress(make_config(tmp_path, "shapes"), [], num_left=3)
    progress.teacher_miou = 0.5
    for trial_id, miou in (("0000", 0.47), ("0001", 0.49), ("0002", 0.495)):
        config = TrialConfig(recipe=Distill())
        record = Record(trial_id, "COMPLETE", "", config, make_metrics(miou, 1000))
        progress.started(record)
        progress.ended(record)
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "the teacher has 50.0 % mIoU and its student 0001 49.0 %" in warnings[0]
