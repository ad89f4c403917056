"""What a person is told of studies that run, or have ended."""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from front_factories import record

from search.core.record import Record, total_cost
from search.status import main
from search.storage.driver_status import (
    DriverStatus,
    read_driver_status,
    remove_driver_status,
    write_driver_status,
)
from search.storage.study_file import lock_study, read_study_file
from search.storage.trials import read_asked_records
from search.study import overview
from search.study.overview import (
    count_states,
    describe_front,
    describe_running,
    last_line,
    num_begun,
    read_records,
)
from trainables.core.units import human_cost

STORED = Path(__file__).parent / "study" / "stored_study" / "stored"
STATUS = DriverStatus(
    written_at=0,
    nodes="1 node of 8 CPUs and 1 L4 (up to 4)",
    used={"CPU": 6, "GPU": 0.75},
    offered={"CPU": 8, "GPU": 1},
    utilisation=0.934,
    num_waiting=2,
    reason="nodes are starting: 1 of type spot",
    left_s=3600,
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """An interrupted study, of which a trial had begun."""
    return Path(shutil.copytree(STORED, tmp_path / STORED.name))


@pytest.fixture
def running(study: Path) -> Iterator[Path]:
    """The same, held by a driver."""
    lock = lock_study(read_study_file(study).config)
    (study / "log.txt").write_text("the first step\nthe last step\n")
    yield study
    lock.release()


def lines_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What is said, by name."""
    assert main([str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    named = (line.split("  ", 1) for line in printed.out.splitlines())
    return {name: value.strip() for name, value in named}


def test_a_study_that_does_not_run(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_driver_status(study, STATUS)  # left by a driver that was killed
    found = lines_of(study, capsys)
    assert found.keys() == {"study", "trials", "front", "device time"}
    assert found["study"] == "stored, not running"
    assert found["trials"] == (
        "14 of 20 begun: 12 complete, 3 stopped or refused, 2 to be gone on with"
    )
    assert re.fullmatch(r"\d models, \d+.\d % at .* KB to \d+.\d % at .* KB", found["front"])


def test_what_a_study_has_cost(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def priced(journal: optuna.Study) -> list[Record]:
        return [replace(record, price_per_hour=0.5) for record in read_asked_records(journal)]

    monkeypatch.setattr(overview, "read_asked_records", priced)
    cost = total_cost(read_records(read_study_file(study)))
    assert cost
    assert (
        lines_of(study, capsys)["cost"] == f"{human_cost(cost)}, without the teacher and idle nodes"
    )


def test_a_study_that_runs(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines_of(running, capsys)
    assert found["study"] == "stored, running"
    assert found["last step"] == "the last step"
    assert "nodes" not in found
    write_driver_status(running, STATUS.replace(written_at=time.time()))
    found = lines_of(running, capsys)
    assert found["nodes"] == "1 node of 8 CPUs and 1 L4 (up to 4)"
    assert found["in use"] == "6 of 8 CPUs, 0.75 of 1 GPUs; 93% so far"
    assert found["waiting"] == "2 trials wait: nodes are starting: 1 of type spot"
    assert found["expected"].startswith("about 1 h 0 min left, until ")
    assert "note" not in found
    write_driver_status(running, STATUS.replace(written_at=time.time() - 600, num_waiting=0))
    found = lines_of(running, capsys)
    assert found["expected"].startswith("about 50 min left, until ")
    assert found["note"] == "the driver said nothing for 10 min"
    assert "waiting" not in found


def test_a_storage_has_a_line_for_each_study(
    running: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = running.parent / "new"
    new.mkdir()
    text = (running / "study.json").read_text()
    (new / "study.json").write_text(text.replace('"name": "stored"', '"name": "new"'))
    found = lines_of(running.parent, capsys)
    assert found["new"] == "not running, 0 of 20 trials, front: none yet"
    assert found["stored"].startswith("running, 14 of 20 trials, front: ")


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_other_folders_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / name)]) == 2
    assert capsys.readouterr().err == (
        f"error: STUDY must be a study, or a storage of studies, but {tmp_path / name} is neither\n"
    )


def test_a_damaged_status_is_one_line(running: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_driver_status(running, STATUS)
    file = next(running.glob("status.json"))
    file.write_text("{")
    assert main([str(running)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file} is damaged: ")
    remove_driver_status(running)
    assert read_driver_status(running) is None


def test_the_last_step_of_an_empty_log_is_nothing(tmp_path: Path) -> None:
    assert last_line(tmp_path / "none") == ""
    (tmp_path / "empty").touch()
    assert last_line(tmp_path / "empty") == ""


def test_trials_that_wait_do_not_run() -> None:
    trials = [record(name, 0.5, 1000) for name in ("0001", "0002", "0003")]
    running = [replace(each, state="RUNNING") for each in trials[1:]]
    assert count_states([trials[0], *running], 1) == ": 1 complete, 1 running, 1 waiting"
    assert count_states(running, 4) == ": 2 waiting"
    assert num_begun([replace(trials[0], ray_id="a"), trials[1]]) == 1


def test_it_is_said_how_far_a_trial_is() -> None:
    running = replace(record("0003", 0.25, 1000), state="RUNNING")
    assert describe_running(running) == "epoch 60 of 60, mIoU 25.0 %"
    assert describe_running(replace(running, metrics=None)) == "has not reported yet"
    assert describe_front([]) == "none yet"
    assert describe_front([running]) == "25.0 % at 1.00 KB"
