"""A training continues exactly from its checkpoint, whatever happens to the files."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from drivers import wait_until
from hypothesis import given
from hypothesis import strategies as st

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import Artifact, ArtifactStore, locked
from trainables.core.errors import Interrupted
from trainables.core.metrics import Metrics
from trainables.data.configs import Augmentation
from trainables.models.configs import UNetConfig
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import AdamW, Distill, Qat, QatDistill, Recipe, Supervised
from trainables.teachers.output_cache import cache_outputs
from trainables.train import main
from trainables.training import checkpoints as checkpoint
from trainables.training.checkpoints import CheckpointManager, Checkpoints, read_checkpoint
from trainables.training.identity import ARTIFACT_KIND, artifact_key, older_training_key
from trainables.training.task import TrialTask
from trainables.training.trial import Trial, train_or_find

BITS = Lsq(weight_bits=4, activation_bits=4)
START = Supervised(optimizer=AdamW(learning_rate=1e-2))
RECIPES: list[Recipe] = [
    START,
    Distill(optimizer=AdamW(learning_rate=1e-2)),
    Qat(start=START, quantizer=BITS),
    QatDistill(start=START, quantizer=BITS, self_study=0.25, co_study=0.5),
]


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def run(blocks_run: ExecutionConfig, teacher_file: Path) -> ExecutionConfig:
    return blocks_run.replace(teacher=teacher_file, checkpoint_every_s=0)


def config(recipe: Recipe) -> TrialConfig:
    return TrialConfig(
        student=UNetConfig(width=4, depth=2),
        recipe=recipe,
        augmentation=Augmentation(),
        num_epochs=4,
        batch_size=8,
    )


Reports = list[tuple[int, float, dict[str, float]]]


def train(trial: Trial) -> Reports:
    return [(m.epoch, m.miou, m.losses) for m in trial]


def killed_after(trial: Trial, num_steps: int) -> Reports:
    """What a training reports until its process is killed after so many steps.

    Its last two checkpoints are those of the last two steps.
    """
    save, reports = trial.checkpoint_manager.on_step_end, []
    left = num_steps

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 2:
            save()
        if not left:
            raise Killed

    trial.checkpoint_manager.on_step_end = count  # type: ignore[method-assign]
    with suppress(Killed):
        for metrics in trial:
            reports.append((metrics.epoch, metrics.miou, metrics.losses))
    assert left == 0
    return reports


Train = Callable[[Recipe, ExecutionConfig], tuple[Reports, bytes | None]]


@pytest.fixture(scope="module")
def train_whole() -> Train:
    """Trains without an interruption, each recipe and teacher once."""
    known: dict[tuple[str, Path | None], tuple[Reports, bytes | None]] = {}

    def train_once(recipe: Recipe, run: ExecutionConfig) -> tuple[Reports, bytes | None]:
        key = recipe.model_dump_json(), run.teacher_outputs
        if key not in known:
            trial = Trial(config(recipe), run)
            known[key] = train(trial), trial.model_bytes
        return known[key]

    return train_once


@pytest.mark.parametrize("num_steps", [7, pytest.param(17, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("recipe", "cached"),
    [*((recipe, False) for recipe in RECIPES), (RECIPES[3].replace(co_study=0), True)],
    ids=lambda value: getattr(value, "name", "cached" if value else "live"),
)
def test_a_killed_training_ends_as_if_nothing_had_happened(
    recipe: Recipe,
    num_steps: int,
    cached: bool,
    run: ExecutionConfig,
    train_whole: Train,
    tmp_path: Path,
) -> None:
    if cached:
        run = run.replace(teacher_outputs=cache_outputs(run, "maps", Augmentation()))
    expected, model = train_whole(recipe, run)
    before = killed_after(Trial(config(recipe), run, tmp_path), num_steps)
    again = Trial(config(recipe), run.replace(checkpoint_every_s=1000), tmp_path)
    after = train(again)
    assert again.model_bytes == model
    assert before == expected[: len(before)]
    assert after == expected[max(0, len(before) - 1) :]  # the last report is repeated
    assert [report.epoch for report in again.reports] == [1, 2, 3, 4]


@pytest.mark.parametrize("num_steps", [2, 7, 10])
def test_a_start_is_evaluated_where_it_is_judged_and_trained_the_same(
    num_steps: int,
    run: ExecutionConfig,
    train_whole: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also from a checkpoint of an epoch after which it was not evaluated."""
    monkeypatch.setattr("trainables.training.trial.grace_epochs", lambda config, num_steps: 2)
    expected, model = train_whole(START, run)
    trials = [Trial(config(START), run, tmp_path, each_epoch=False) for _ in range(2)]
    before = killed_after(trials[0], num_steps)
    after = train(trials[1])
    assert trials[1].model_bytes == model
    assert [epoch for epoch, *_ in before] == [2] * (num_steps == 10)
    assert after == [expected[1], expected[3]]
    assert trials[1].losses == [losses for _, _, losses in expected]


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_the_same(
    run: ExecutionConfig, train_whole: Train, tmp_path: Path
) -> None:
    expected, model = train_whole(RECIPES[3], run)
    for _ in range(6):
        killed_after(Trial(config(RECIPES[3]), run, tmp_path), 3)
    again = Trial(config(RECIPES[3]), run, tmp_path)
    assert train(again)[-1] == expected[-1]
    assert again.model_bytes == model


def test_a_start_goes_on_where_it_was(run: ExecutionConfig, tmp_path: Path) -> None:
    """Its seconds count from the beginning, its checkpoints go when it is there."""
    start = Supervised(optimizer=AdamW(learning_rate=1.1e-2))
    calls = []

    class Counting(CheckpointManager):
        def on_step_end(self) -> None:
            super().on_step_end()
            calls.append(1)
            if len(calls) == 12:
                raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainables.training.trial.CheckpointManager", Counting)
        with pytest.raises(Killed):
            train(Trial(config(Qat(start=start, quantizer=BITS)), run, tmp_path))
    (kept,) = run.artifacts.glob(".student-*-checkpoints")
    assert len(list(kept.iterdir())) == 2
    train(Trial(config(Qat(start=start, quantizer=BITS)), run, tmp_path))
    assert not kept.exists()


def test_a_checkpoint_is_never_that_of_another_training(
    run: ExecutionConfig, tmp_path: Path
) -> None:
    killed_after(Trial(config(START), run, tmp_path), 12)
    other = config(START).replace(seed=2)
    assert train(Trial(other, run, tmp_path)) == train(Trial(other, run))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    run: ExecutionConfig, train_whole: Train, tmp_path: Path
) -> None:
    expected, _ = train_whole(START, run)
    killed_after(Trial(config(START), run, tmp_path), 7)
    before, last = sorted(tmp_path.iterdir())
    last.write_bytes(last.read_bytes()[:-1])
    trial = Trial(config(START), run, tmp_path)
    state = trial.checkpoint_manager.restore()
    assert state is not None
    assert state["done"] == 1
    before.write_bytes(b"")
    assert train(Trial(config(START), run, tmp_path)) == expected


def test_a_checkpoint_names_its_parts_as_version_0_2_did(
    run: ExecutionConfig, tmp_path: Path
) -> None:
    killed_after(Trial(config(START), run, tmp_path), 12)
    state = Trial(config(START), run, tmp_path).checkpoint_manager.restore()
    assert state is not None
    assert set(state["recipe"]) == {"student", "stepper"}


def test_a_checkpoint_of_version_0_2_is_known_by_the_folder_of_its_teacher(
    run: ExecutionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distill = config(RECIPES[1])
    with monkeypatch.context() as patch:
        patch.setattr("trainables.training.trial.training_key", older_training_key)
        killed_after(Trial(distill, run, tmp_path), 12)
    assert Trial(distill, run, tmp_path).checkpoint_manager.restore() is not None
    assert run.teacher is not None
    elsewhere = tmp_path / "teacher-2" / "teacher.safetensors"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(run.teacher.read_bytes() + b" ")
    other = Trial(distill, run.replace(teacher=elsewhere), tmp_path)
    assert other.checkpoint_manager.restore() is None


def test_a_part_that_an_older_checkpoint_lacks_starts_fresh(run: ExecutionConfig) -> None:
    class Counter:
        count = 7

        def state_dict(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    older = TrialTask(config(START), run)
    old = Counter()
    next(older.epochs(student=old))
    state = older.state_dict()
    assert state is not None
    task = TrialTask(config(START), run)
    task.load_state_dict(state, epoch=2)
    known, new = Counter(), Counter()
    known.count = new.count = 0
    next(task.epochs(student=known, term=new))
    assert (known.count, new.count) == (7, 0)


def test_files_beside_it_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "notes.ckpt").write_text("mine")
    checkpoints = Checkpoints(tmp_path, "a")
    for number in range(5):
        checkpoints.save({"number": number})
    assert checkpoints.load() == {"number": 4}
    assert len(list(tmp_path.iterdir())) == 3
    checkpoints.clear()
    assert checkpoints.load() is None


@given(st.data())
def test_an_altered_checkpoint_is_none(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    Checkpoints(folder, "a").save({"x": torch.arange(3), "n": 1})
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    path.write_bytes(bytes(content))
    assert read_checkpoint(path, "a") is None


@given(st.binary(max_size=200))
def test_bytes_that_are_no_checkpoint_are_none(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("checkpoints") / "0.ckpt"
    path.write_bytes(content)
    assert read_checkpoint(path, "a") is None


def test_a_full_disk_does_not_end_a_training(
    run: ExecutionConfig,
    train_whole: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, _ = train_whole(START, run)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert train(Trial(config(START), run, tmp_path)) == expected
    assert "no checkpoint: the disk of" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_stop_file_makes_a_training_leave(
    run: ExecutionConfig, train_whole: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "STOP_FILE_CHECK_S", 0)
    expected, _ = train_whole(START, run)
    stop = tmp_path / "stop"
    run = run.replace(stop_files=(stop,), checkpoint_every_s=1000)
    reports = iter(Trial(config(START), run, tmp_path / "kept"))
    first = next(reports)
    stop.touch()
    with pytest.raises(Interrupted):
        next(reports)
    assert len(list((tmp_path / "kept").iterdir())) == 1
    stop.unlink()
    after = train(Trial(config(START), run, tmp_path / "kept"))
    assert [(first.epoch, first.miou, first.losses), *after[1:]] == expected


@pytest.fixture
def asked() -> Iterator[None]:
    checkpoint.stop_requested.set()
    yield
    checkpoint.stop_requested.clear()


@pytest.mark.usefixtures("asked")
def test_a_process_that_was_asked_to_stop_does(run: ExecutionConfig, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(Trial(config(START), run.replace(checkpoint_every_s=1000), tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def test_writing_takes_a_small_share_of_the_time(run: ExecutionConfig, tmp_path: Path) -> None:
    checkpoint_manager = CheckpointManager(
        Checkpoints(tmp_path, "a"), run.replace(checkpoint_every_s=0.01), lambda: {"a": 1}
    )
    time.sleep(0.02)
    checkpoint_manager.on_step_end()
    checkpoint_manager.cost_s = 1000.0
    time.sleep(0.02)
    checkpoint_manager.on_step_end()
    assert len(list(tmp_path.iterdir())) == 1
    time.sleep(0.2)  # but not even those are put off for ever
    checkpoint_manager.on_step_end()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_training_that_hangs_is_ended(
    run: ExecutionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    trial = Trial(config(START), run.replace(timeout_s=1.0), on_hang=heard.append)
    reports = iter(trial)
    next(reports)
    time.sleep(1.5)  # whoever takes the reports may take their time
    next(reports)
    assert heard == []

    def hang(*_: object) -> float:
        wait_until(lambda: heard)
        return 1 / 0

    monkeypatch.setattr(trial.task.transform, "labels", hang)
    with pytest.raises(ZeroDivisionError):
        next(reports)
    assert heard == ["hung: no progress for 1 s"]


@pytest.mark.slow
def test_a_killed_command_goes_on_when_it_is_given_again(
    blocks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And so ends with the file of one that was left alone."""
    file = tmp_path / "config.json"
    file.write_text(config(START).replace(num_epochs=12).model_dump_json())
    common = [str(file), "--data", str(blocks_folder), "--image-size", "32"]
    common += ["--checkpoint-every", "1ms", "--out"]

    def epochs(lines: Iterable[str]) -> Iterator[str]:
        return (line.rstrip() for line in lines if line.startswith("epoch"))

    process = subprocess.Popen(
        [sys.executable, "-m", "trainables.train", *common, str(tmp_path / "killed")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in epochs(process.stdout):
        if line.startswith("epoch 3:"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    printed = {}
    for name in ("killed", "whole"):
        assert main([*common, str(tmp_path / name)]) == 0
        printed[name] = list(epochs(capsys.readouterr().out.splitlines()))
    assert int(printed["killed"][0].split()[1].strip(":")) >= 2
    assert printed["killed"] == printed["whole"][-len(printed["killed"]) :]
    models = [tmp_path / name / "model.safetensors" for name in printed]
    assert models[0].read_bytes() == models[1].read_bytes()
    history = json.loads((tmp_path / "killed" / "metrics.json").read_text())
    assert [Metrics.model_validate(m).epoch for m in history] == list(range(1, 13))
    assert not list((tmp_path / "killed").glob(".*"))


def test_a_trial_that_waits_for_the_start_of_another_leaves_when_it_is_asked(
    blocks_run: ExecutionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a node that will soon be gone, or after Ctrl-C."""
    monkeypatch.setattr("trainables.core.artifacts.LOOK_EVERY_S", 0.05)
    stop_file = tmp_path / ".stop"
    run = blocks_run.replace(artifacts=tmp_path, stop_files=(stop_file,))
    config = TrialConfig(student=UNetConfig(width=2, depth=2), recipe=Supervised())
    store = ArtifactStore(tmp_path)
    path = store.path(ARTIFACT_KIND, artifact_key(config, run, store))
    with locked(path):
        waiting = ThreadPoolExecutor(1).submit(train_or_find, config, run)
        assert not wait([waiting], 0.5).done
        stop_file.touch()
        with pytest.raises(Interrupted):
            waiting.result(20)


def test_a_trial_that_waits_for_its_start_trains_one_of_another_trial(
    blocks_run: ExecutionConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But none that another process trains, and none that fails; then it goes on with its own.

    Nor does an unexpected error of such a start fail it.
    """
    monkeypatch.setattr("trainables.core.artifacts.LOOK_EVERY_S", 0.05)
    run, store = blocks_run.replace(artifacts=tmp_path), ArtifactStore(tmp_path)
    bits = Lsq(weight_bits=8, activation_bits=8)
    trial = config(Qat(start=START, quantizer=bits))
    own = trial.start
    assert own
    taken, failing, broken, other, unneeded = (own.replace(seed=seed) for seed in range(1, 6))
    failing = failing.with_recipe(optimizer=AdamW(learning_rate=1e9))

    def path(start: TrialConfig) -> Path:
        return store.path(ARTIFACT_KIND, artifact_key(start, run, store))

    def train_or_break(start: TrialConfig, *given: object, **named: Any) -> Artifact:
        if start == broken:
            raise RuntimeError("no memory\nof some kind")
        return train_or_find(start, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("trainables.training.trial.train_or_find", train_or_break)
    others = [taken, failing, broken, other, unneeded]
    with ThreadPoolExecutor(1) as pool, locked(path(taken)):
        with locked(path(own)):
            reports = iter(Trial(trial, run, other_starts=others))
            waiting = pool.submit(next, reports)
            wait_until(lambda: path(other).is_dir())
            assert not waiting.done()
            assert not path(own).is_dir()
            unneeded_is_left = not path(unneeded).is_dir()
        assert waiting.result(60).epoch == 1
    assert unneeded_is_left
    assert path(own).is_dir()
    assert not path(taken).is_dir()
    assert not path(failing).is_dir()
