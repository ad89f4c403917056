"""How the console says that a trial has ended."""

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from factories import make_config, make_metrics
from rich.console import Console

from search.core.record import Record
from search.tracking.console import SPARKS, ConsoleProgress, describe_outcome, sparkline
from trainables.config import TrialConfig
from trainables.core import terminal
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


def test_a_terminal_shows_running_trials_and_device_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = StringIO()
    monkeypatch.setattr(terminal, "out", lambda: shown)
    progress = ConsoleProgress(make_config(tmp_path, "shapes"), [], num_left=3)
    progress.console = Console(file=shown, force_terminal=True, width=100, height=40)
    with progress:
        config = TrialConfig(recipe=Distill(), num_epochs=4)
        reports = {n: make_metrics(0.1 * n, None, n, 12.0) for n in (1, 2, 3)}
        record = Record("0007", "RUNNING", "", config, reports[3], reports=reports)
        progress.started(replace(record, metrics=None, reports={}))
        progress.reported(record)
        view = Console(file=StringIO(), width=100)
        view.print(progress._view())
        text = view.file.getvalue()  # type: ignore[attr-defined]
    assert "trial 0007 mIoU 30.0 % ▁▄█" in text
    assert "3/4" in text
    assert "trials, 12 device s" in text


def run_a_trial(tmp_path: Path) -> None:
    """Tells the console of a study of two trials that one has begun, reported and ended."""
    progress = ConsoleProgress(make_config(tmp_path, "shapes"), [], num_left=2)
    with progress:
        config = TrialConfig(recipe=Distill(), num_epochs=1)
        begun = Record("0000", "RUNNING", "", config, None, params={"student.width": 8})
        metrics = make_metrics(0.5, 1000)
        progress.started(begun)
        progress.reported(replace(begun, metrics=metrics, reports={1: metrics}))
        progress.ended(replace(begun, state="COMPLETE", metrics=metrics, reports={1: metrics}))
        progress.conclude([], "", interrupted=False)


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines about trials."""
    return [line for line in capsys.readouterr().out.splitlines() if " trial 0" in line]


def test_each_trial_is_a_line_with_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_a_trial(tmp_path)
    (line,) = said(capsys)
    assert re.search(
        r"trial 0000 mIoU 50\.0 %, 1\.00 KB, 1 s \(1 of 2, about 1 s left, until", line
    )


def test_only_what_an_earlier_driver_trained_counts_as_before(tmp_path: Path) -> None:
    progress = ConsoleProgress(make_config(tmp_path, "shapes"), [], num_left=2)
    config = TrialConfig(recipe=Distill(), num_epochs=4)
    half = Record("0000", "RUNNING", "", config, make_metrics(0.2, None, 2))
    for record in (half, replace(half, metrics=make_metrics(0.2, None, 3))):
        progress.started(record)  # the second time since its process was lost
    progress.started(replace(half, trial_id="0001", metrics=None))
    assert progress.remaining.trained_before == 0.5


def test_a_quiet_console_says_the_results_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "verbosity", "quiet")
    run_a_trial(tmp_path)
    out = capsys.readouterr().out
    assert "trial 0000" not in out
    assert "compare runs:" in out


def test_a_verbose_console_says_each_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "verbosity", "verbose")
    run_a_trial(tmp_path)
    first, second, _ = said(capsys)
    assert first.endswith("trial 0000 begins: width 8")
    assert second.endswith("trial 0000 epoch 1 of 1: mIoU 50.0 %, 1 s, cross_entropy 1")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_each_bar_is_a_line_of_its_own(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = StringIO()
    monkeypatch.setattr(terminal, "out", lambda: shown)
    console = Console(file=shown, force_terminal=True, width=width, height=40)
    monkeypatch.setattr("search.tracking.console.Console", lambda **options: console)
    progress = ConsoleProgress(make_config(tmp_path, "shapes"), [], num_left=16)
    progress.remaining.expected_s = 3600
    with progress:
        config = TrialConfig(recipe=Distill(), num_epochs=60)
        reports = {n: make_metrics(0.01 * n, None, n, 12_345.0) for n in range(1, 21)}
        record = Record("0007", "RUNNING", "", config, reports[20], reports=reports)
        progress.started(replace(record, metrics=None, reports={}))
        progress.reported(record)
        view = Console(file=StringIO(), width=width)
        view.print(progress.bars)
        lines = view.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert "0/16" in lines[0]
    assert re.search(r"trial 0007 mIoU 20\.0 %", lines[1])
    assert "20/60" in lines[1]
    assert ("until" in lines[0]) == (width >= 60)
    assert ("min left, until" in lines[0]) == (width >= 100)
    assert ("█" in lines[1]) == (width >= 80)


def test_a_sparkline_shows_the_last_values() -> None:
    assert sparkline([0.1, 0.2, 0.45]) == "▁▃█"
    assert sparkline([0.3]) == "▁"
    assert sparkline([0.3, 0.3]) == "▁▁"
    assert len(sparkline([n / 100 for n in range(100)])) == SPARKS
