"""The Ray trainable: how the end of a trial reaches the driver, without a cluster."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.errors import DiskFull
from trainables.core.metrics import Metrics
from trainables.core.progress import PROGRESS_FILE, STEPPED, progress_to_file
from trainables.models.configs import UNetConfig
from trainables.recipes.configs import AdamW, Ptq, Qat, Supervised
from trainables.trainable import (
    EPOCH,
    FAILURE,
    HANG_REASON,
    METRICS,
    NO_ROOM,
    OTHER_STARTS,
    PAUSE,
    TRACE,
    StudentTrainable,
)
from trainables.training import checkpoints as checkpoint
from trainables.training.trial import Trial


@pytest.fixture
def wanted(blocks_run: ExecutionConfig, tmp_path: Path) -> dict[str, Any]:
    """What a searcher suggests."""
    trial = TrialConfig(
        student=UNetConfig(width=6, depth=2),
        recipe=Supervised(optimizer=AdamW(learning_rate=1e-2)),
        num_epochs=3,
    )
    return {
        "trial": trial.model_dump(mode="json"),
        "run": blocks_run.replace(checkpoint_every_s=0).model_dump(mode="json"),
        "out": str(tmp_path / "models/0000"),
        "checkpoints": str(tmp_path / "checkpoints/0000"),
    }


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
    checkpoint.stop_requested.clear()


def steps(trainable: StudentTrainable) -> list[dict[str, Any]]:
    """Its results until it is done."""
    results = [trainable.step()]
    while not results[-1]["done"]:
        results.append(trainable.step())
    return results


def test_a_restarted_trial_repeats_its_last_report(wanted: dict[str, Any]) -> None:
    whole = steps(StudentTrainable({**wanted, "checkpoints": wanted["checkpoints"] + "-other"}))
    first = StudentTrainable(wanted)
    before = [first.step(), first.step()]
    after = steps(StudentTrainable(wanted))  # the first one's process died
    assert [result[EPOCH] for result in before] == [1, 2]
    assert [result[EPOCH] for result in after] == [1, 2, 3]
    ours, theirs = (Metrics.model_validate_json(r[-1][METRICS]) for r in (after, whole))
    assert (ours.miou, ours.losses) == (theirs.miou, theirs.losses)


def test_sigterm_makes_it_stop_with_a_checkpoint(wanted: dict[str, Any]) -> None:
    trainable = StudentTrainable(wanted)
    trainable.step()
    os.kill(os.getpid(), signal.SIGTERM)
    assert trainable.step() == {PAUSE: "asked to leave", "done": True}
    assert not trainable.reset_config(wanted)  # Ray is not to use this process again
    checkpoint.stop_requested.clear()
    assert [result[EPOCH] for result in steps(StudentTrainable(wanted))][-1] == 3


def test_a_trial_says_how_far_it_is_and_the_student_that_it_starts_from(
    wanted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, Path] = {}

    def note(path: Path, line: str) -> None:
        said[line.split(",")[0]] = path

    monkeypatch.setattr("trainables.core.progress.replace_file", note)
    monkeypatch.setattr(
        "trainables.trainable.progress_to_file", partial(progress_to_file, every_s=0)
    )
    recipe = Qat(start=Supervised(optimizer=AdamW(learning_rate=1e-2)), start_epochs=3)
    wanted["trial"]["recipe"] = recipe.model_dump(mode="json")
    wanted["run"]["artifacts"] = str(tmp_path / "artifacts")
    steps(StudentTrainable(wanted))
    lines = [
        f"{task}: epoch {epoch} of 3"
        for task in ("training the full-precision student", "training")
        for epoch in (1, 2, 3)
    ]
    path = Path(wanted["checkpoints"]) / PROGRESS_FILE
    assert said.pop("") == path  # it has begun
    assert said.pop(STEPPED) == path  # for the driver alone
    assert said == dict.fromkeys([*lines, "measuring the student: batch 1 of 1"], path)


def test_a_trial_that_rounds_adaptively_names_the_layers_every_30_seconds(
    wanted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, lines = [0.0], list[str]()

    def slow(*arguments: object, **keywords: object) -> None:
        clock[0] += 20

    monkeypatch.setattr("trainables.core.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("trainables.quantization.adaround.round_layer", slow)
    monkeypatch.setattr(
        "trainables.core.progress.replace_file", lambda path, line: lines.append(line)
    )
    start = Supervised(optimizer=AdamW(learning_rate=1e-2))
    recipe = Ptq(start=start, start_epochs=3, calibration=("adaround",))
    wanted["trial"] |= {"recipe": recipe.model_dump(mode="json"), "num_epochs": 1}
    wanted["run"]["artifacts"] = str(tmp_path / "artifacts")
    results = steps(StudentTrainable(wanted))
    assert METRICS in results[-1], results
    assert lines.pop(0) == ""  # it has begun
    lines = [line for line in lines if line != STEPPED]  # which is for the driver alone
    assert len(lines) > 3
    assert all(line.startswith("learning the rounding of weights: layer ") for line in lines)


def test_progress_is_kept_from_the_first_epoch_to_the_last(
    wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("trainables.core.progress.time.monotonic", lambda: clock[0])
    path, trainable = Path(wanted["checkpoints"]) / PROGRESS_FILE, StudentTrainable(wanted)
    for line in (STEPPED, "training: epoch 2 of 3", None):  # it is deleted at the end
        trainable.step()
        assert (path.read_text().split(",")[0] if path.exists() else None) == line
        clock[0] += 35


def test_a_full_disk_pauses(wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise DiskFull(Path("models"), "model.safetensors")

    monkeypatch.setattr("trainables.training.trial.replace_file", full)
    last = steps(StudentTrainable(wanted))[-1]
    assert "the disk of models must have room for model.safetensors" in last[NO_ROOM]
    assert PAUSE in last


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("no more"), "MemoryError: no more"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
    ],
)
def test_an_unexpected_error_fails_one_trial(
    error: Exception, reason: str, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise error

    monkeypatch.setattr("trainables.data.arrow_table.ArrowTable.take", broken)
    trainable = StudentTrainable(wanted)
    result = trainable.step()
    assert (result[FAILURE], result["done"]) == (reason, True)
    assert "in broken" in result[TRACE]
    assert not trainable.reset_config(wanted)


HANGING = """
import json, sys, time
from trainables.data.arrow_table import ArrowTable
from trainables.trainable import StudentTrainable
ArrowTable.take = lambda *_: time.sleep(60)
StudentTrainable(json.load(sys.stdin)).step()
"""


FAULTY = """
import json, sys, torch
from trainables.data.arrow_table import ArrowTable
from trainables.trainable import StudentTrainable
def fail(*_):
    raise torch.AcceleratorError("CUDA error: unspecified launch failure")
ArrowTable.take = fail
print(StudentTrainable(json.load(sys.stdin)).step())
"""


@pytest.mark.parametrize("shares", [True, False])
def test_a_fault_of_a_gpu_that_processes_share_by_mps_ends_the_process(
    shares: bool, wanted: dict[str, Any], tmp_path: Path
) -> None:
    """It may be another trial's fault, and Ray starts the process again."""
    wanted["run"]["mps"] = str(tmp_path / "mps") if shares else None
    program = [sys.executable, "-c", FAULTY]
    ended = subprocess.run(
        program, input=json.dumps(wanted), text=True, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == int(shares)
    said = ended.stderr if shares else ended.stdout
    assert "CUDA error: unspecified launch failure" in said
    assert ("by MPS" in said) == shares


def test_a_trial_is_given_the_starts_of_others_once(
    wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may have ended its first process, as for lack of memory."""
    given: list[int] = []

    class Noted(Trial):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            given.append(len(self.other_starts))

    monkeypatch.setattr("trainables.trainable.Trial", Noted)
    wanted[OTHER_STARTS] = [wanted["trial"], wanted["trial"]]
    StudentTrainable(wanted).step()
    StudentTrainable(wanted).step()
    assert given == [2, 0]


def test_a_read_that_hangs_fails_its_trial_with_a_reason(wanted: dict[str, Any]) -> None:
    wanted["run"]["timeout_s"] = 1.0
    program = [sys.executable, "-c", HANGING]
    ended = subprocess.run(
        program, input=json.dumps(wanted), text=True, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "hung: no progress for 1 s" in ended.stderr
    assert (Path(wanted["checkpoints"]) / HANG_REASON).is_file()
    again = StudentTrainable(wanted)  # as Ray starts it after its process died
    assert again.step() == {FAILURE: "hung: no progress for 1 s", "done": True}
