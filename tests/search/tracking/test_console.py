"""How the console says that a trial has ended."""

from factories import make_metrics

from search.core.record import Record
from search.tracking.console import describe_outcome


def test_a_finished_trial_that_never_predicts_a_class_says_so() -> None:
    metrics = make_metrics(0.5, 61_900, class_iou=(0.5, 0.0, None))
    ended = Record("0000", "COMPLETE", "", None, metrics)
    assert describe_outcome(ended) == "mIoU 50.0 %, 61.9 KB, 1 s, ! 1 of 2 classes never predicted"
    metrics = make_metrics(0.5, 61_900, class_iou=(0.5, 0.25, None))
    ended = Record("0000", "COMPLETE", "", None, metrics)
    assert describe_outcome(ended) == "mIoU 50.0 %, 61.9 KB, 1 s"
