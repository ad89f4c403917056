"""Reports of this version and of older ones."""

from factories import make_metrics

from trainables.core.metrics import Metrics


def test_a_report_of_an_older_version_has_no_classes() -> None:
    report = make_metrics(0.5, 1000).model_dump(exclude={"class_iou", "classes_never_predicted"})
    old = Metrics.model_validate(report)
    assert (old.class_iou, old.classes_never_predicted) == (None, None)
    assert old.share_never_predicted == ""


def test_the_share_of_classes_that_are_never_predicted_is_of_those_in_the_labels() -> None:
    metrics = make_metrics(0.5, 1000, class_iou=(0.5, 0.0, None, 0.25))
    assert metrics.share_never_predicted == "1 of 3"
    assert Metrics.model_validate_json(metrics.model_dump_json()) == metrics
