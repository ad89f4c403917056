"""Progress reports of long tasks."""

import errno
import os
import time
from pathlib import Path

import pytest

from trainables.core import progress
from trainables.core.progress import (
    PROGRESS_FILE,
    SILENT_S,
    ProgressFiles,
    ProgressReporter,
    announce,
    announce_step,
    human_duration,
    progress_to,
    progress_to_file,
)
from trainables.core.terminal import track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as its only item."""
    now = [0.0]
    monkeypatch.setattr("trainables.core.progress.time.monotonic", lambda: now[0])
    return now


def work(clock: list[float], num_epochs: int, seconds: float) -> None:
    """Trains for so many epochs in two steps each."""
    reporter = ProgressReporter("training", "epoch", num_epochs)
    for step in range(1, 2 * num_epochs + 1):
        clock[0] += seconds / 2
        reporter.update(step / 2)


def test_a_line_names_the_unit_under_way_and_the_expected_end(clock: list[float]) -> None:
    lines: list[str] = []
    with progress_to(lines.append, every_s=0):
        work(clock, num_epochs=3, seconds=40)
    assert lines == [
        "training: epoch 1 of 3",
        "training: epoch 2 of 3, about 1 min left",
        "training: epoch 2 of 3, about 1 min left",
        "training: epoch 3 of 3, about 40 s left",
        "training: epoch 3 of 3, about 20 s left",
        "training: epoch 3 of 3, about 1 s left",
    ]


def test_what_comes_before_the_first_unit_is_no_part_of_the_rate(clock: list[float]) -> None:
    lines: list[str] = []
    reporter = ProgressReporter("training", "epoch", 4)
    with progress_to(lines.append, every_s=0):
        for seconds, done in ((0, 0), (500, 0), (500, 0), (10, 1)):
            clock[0] += seconds
            reporter.update(done)
    assert lines[-2:] == ["training: epoch 1 of 4", "training: epoch 2 of 4, about 30 s left"]


def test_a_line_comes_every_30_seconds_however_long_a_unit_is(clock: list[float]) -> None:
    for seconds, num_epochs in ((4, 30), (300, 1)):
        said: list[float] = []
        begin = clock[0]
        with progress_to(lambda line, said=said: said.append(clock[0])):  # type: ignore[misc]
            reporter = ProgressReporter("training", "epoch", num_epochs)
            for step in range(1, 100 * num_epochs + 1):
                clock[0] += seconds / 100
                reporter.update(step / 100)
        gaps = [later - sooner for sooner, later in zip([begin, *said], said, strict=False)]
        assert len(said) >= (clock[0] - begin) // 30 - 1
        assert all(30 <= gap < 30 + seconds / 50 for gap in gaps)


def test_the_beginning_of_work_is_said_however_soon(clock: list[float]) -> None:
    lines: list[str] = []
    announce("packing")
    with progress_to(lines.append):
        clock[0] += 29
        announce("packing")
        announce("measuring")
        clock[0] += 29
        ProgressReporter("measuring", "batch", 9).update(1)
    assert lines == ["packing", "measuring"]


def test_who_does_not_listen_is_told_nothing(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []
    with progress_to(lines.append, every_s=0):
        pass
    work(clock, 2, 40)
    assert lines == []
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.1, "1 s"),
        (59, "59 s"),
        (59.6, "1 min"),
        (480, "8 min"),
        (3599, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations_are_as_people_say_them(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words


def test_another_process_reads_each_line_once(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "CHECK_EVERY_S", 0)
    path, files = tmp_path / "checkpoints/0003/.progress", ProgressFiles(tmp_path, "*/*/.progress")
    assert list(files.new_lines()) == []
    with progress_to_file(path, every_s=0):
        work(clock, 1, 40)
        assert list(files.new_lines()) == [(path, "training: epoch 1 of 1, about 1 s left")]
        assert list(files.new_lines()) == []
        work(clock, 2, 40)
        assert [path for path, _ in files.new_lines()] == [path]
    assert list(files.new_lines()) == []
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_does_not_end_the_work(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with progress_to_file(tmp_path / ".progress", every_s=0):
        work(clock, 1, 40)


def test_what_has_a_bar_on_a_terminal_has_lines_elsewhere(clock: list[float]) -> None:
    lines: list[str] = []
    with progress_to(lines.append, every_s=0):
        for _ in track("abc", "packing", "image"):
            clock[0] += 10
    assert lines == [
        "packing: image 1 of 3",
        "packing: image 2 of 3, about 20 s left",
        "packing: image 3 of 3, about 10 s left",
    ]


def test_a_file_that_nobody_touches_is_of_a_process_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "CHECK_EVERY_S", 0)
    path, files = tmp_path / ".progress", ProgressFiles(tmp_path)

    def is_alive() -> bool:
        assert list(files.new_lines()) == []
        return files.is_alive

    assert not is_alive()
    path.touch()
    assert is_alive()
    now[0] = SILENT_S - 1
    assert is_alive()
    now[0] = SILENT_S
    assert not is_alive()
    os.utime(path, (1, 1))  # the clock of another machine, which may be wrong
    assert is_alive()
    path.unlink()
    assert not is_alive()


def test_a_process_touches_its_file_while_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "ALIVE_EVERY_S", 0.01)
    path = tmp_path / ".progress"
    with progress_to_file(path):
        assert path.read_text() == ""
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not path.exists()


def test_a_first_step_is_told_to_the_driver_and_to_nobody_else(tmp_path: Path) -> None:
    times: list[float] = []
    said: list[str] = []
    files = ProgressFiles(tmp_path, on_step=times.append)
    before = time.time()
    with progress_to(said.append, every_s=0), progress_to_file(tmp_path / PROGRESS_FILE):
        announce_step()
        assert list(files.new_lines()) == []
    (at,) = times
    assert before - 1 < at < time.time() + 1  # a file system may keep whole seconds
    assert said == []
