"""A journal that was cut off or damaged."""

import errno
import time
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.core.objectives import MIOU_AND_SIZE
from search.storage.journal import open_journal, read_journal, repair
from search.storage.layout import JOURNAL
from trainables.core.errors import DiskFull


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The journal of three finished trials."""
    folder = tmp_path_factory.mktemp("study")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = open_journal(folder, "three", MIOU_AND_SIZE)
    for number in range(3):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, [0.1 * number, 1.0])
    return (folder / JOURNAL).read_bytes()


@settings(max_examples=40)
@given(place=st.floats(0, 1))
def test_wherever_a_driver_was_killed_its_journal_goes_on(
    content: bytes, place: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cut = round(place * len(content))
    folder = tmp_path_factory.mktemp("cut")
    (folder / JOURNAL).write_bytes(content[:cut])
    study = open_journal(folder, "three", MIOU_AND_SIZE)
    before = len(study.get_trials())
    assert before <= 3
    study.tell(study.ask(), [0.5, 1.0])
    again = read_journal(folder, "three").get_trials()
    assert len(again) == before + 1
    assert (folder / JOURNAL).read_bytes().startswith(content[: content[:cut].rfind(b"\n") + 1])


def test_damage_elsewhere_is_named_and_left_alone(content: bytes, tmp_path: Path) -> None:
    lines = content.splitlines(keepends=True)
    lines[2] = b'{"op_code": 4, \n'
    damaged = b"".join(lines)
    (tmp_path / JOURNAL).write_bytes(damaged)
    with pytest.raises(ValueError, match=r"line 3 of .*journal.log is damaged"):
        open_journal(tmp_path, "three", MIOU_AND_SIZE)
    assert (tmp_path / JOURNAL).read_bytes() == damaged


def test_a_whole_journal_is_not_touched(content: bytes, tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    repair(tmp_path / JOURNAL)
    assert (tmp_path / JOURNAL).read_bytes() == content
    with pytest.raises(ValueError, match="must hold study other, but does not"):
        read_journal(tmp_path, "other")


def test_a_full_disk_leaves_no_partial_line(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    study = open_journal(tmp_path, "three", MIOU_AND_SIZE)
    before = (tmp_path / JOURNAL).read_bytes()

    def fail(file: int) -> None:  # what was written before it is on the disk in part
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("os.fsync", fail)
        with pytest.raises(DiskFull, match="must have room for journal"):
            study.ask()
    assert (tmp_path / JOURNAL).read_bytes() == before
    study.tell(study.ask(), [0.5, 1.0])
    assert len(read_journal(tmp_path, "three").get_trials()) == 4


@pytest.mark.parametrize("left", ["", "0f-9a.rename"])
def test_the_lock_of_a_killed_driver_keeps_nobody_waiting(
    left: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    lock = tmp_path / f"{JOURNAL}.lock{left}"
    lock.symlink_to(tmp_path / JOURNAL)
    begin = time.monotonic()
    study = open_journal(tmp_path, "three", MIOU_AND_SIZE)
    study.tell(study.ask(), [0.5, 1.0])
    assert time.monotonic() - begin < 20  # Optuna takes a lock away after 30
    assert [path.name for path in tmp_path.iterdir()] == [JOURNAL]
    assert len(study.get_trials()) == 4
