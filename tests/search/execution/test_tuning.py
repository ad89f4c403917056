"""The end of a time budget, and how many trials a cluster has room for."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from search.execution import stopping
from search.execution.shutdown import GRACE_S, GracefulShutdown
from search.execution.stopping import NEARLY_DONE, OVERTIME, Deadline, StopAll
from search.execution.tuning import MAX_RETRIES, TrialProgress, WorkerFailureCallback
from trainables.core.progress import PROGRESS_FILE


def test_only_what_is_nearly_done_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    deadline = Deadline(60, num_epochs=10)
    now[0] = 150.0
    deadline.start()
    now[0] = 209.0
    assert not deadline.is_over
    assert not deadline("a", {"epoch": 1})
    now[0] = 210.0
    assert deadline.is_over
    last = math.ceil(10 * NEARLY_DONE)
    assert deadline("a", {"epoch": last - 1})
    assert not deadline("b", {"epoch": last})
    assert deadline.last_s == pytest.approx(60 * (1 + OVERTIME))


def test_without_a_budget_there_is_no_end() -> None:
    deadline = Deadline(None, num_epochs=10)
    assert not deadline.is_over
    assert deadline.last_s is None
    assert not deadline("a", {"epoch": 1})


def test_trainings_that_do_not_leave_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(stopping.ray, "kill", killed.append)
    interruption = GracefulShutdown(tmp_path / ".stop")
    stop_all = StopAll(interruption)
    trials = [SimpleNamespace(temporary_state=SimpleNamespace(ray_actor=a)) for a in ("a", None)]
    stop_all.trials = trials
    assert not stop_all.stop_all()
    interruption.since = time.monotonic()
    assert not stop_all.stop_all()
    interruption.since -= GRACE_S + 1
    assert stop_all.stop_all()
    assert killed == ["a"]


def test_a_trial_that_tune_ended_without_notice_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log: list[str] = []
    asked = {"a", "b"}
    searcher = SimpleNamespace(
        asked=asked,
        name_of=lambda trial_id: f"000{trial_id}",
        requeue=lambda trial_id: log.append(f"requeue {trial_id}"),
        on_worker_lost=lambda trial_id, reason: log.append(f"lost {trial_id}: {reason}"),
    )
    stop_all = StopAll(GracefulShutdown(tmp_path / ".stop"))
    watch = WorkerFailureCallback(cast(Any, searcher), stop_all, log.append)
    trials = [trial("a", finished=False), trial("b", finished=False), trial("c", finished=True)]
    watch.on_step_begin(1, trials)
    assert log == []
    assert stop_all.trials is trials
    trials[1] = trial("b", finished=True)
    for step in range(2 * MAX_RETRIES):  # given to processes that were to end, before it began
        watch.on_step_begin(2 + step, trials)
    assert log.count("requeue b") == 2 * MAX_RETRIES
    log.clear()
    watch.on_trial_start(9, trials, SimpleNamespace(trial_id="b"))
    watch.on_step_begin(10, trials)
    assert log == ["trial 000b is asked again: Ray Tune ended it without notice", "requeue b"]
    for step in range(MAX_RETRIES):
        trials[1] = trial("b", finished=True)
        watch.on_step_begin(11 + step, trials)
    assert log[-1] == f"lost b: Ray Tune ended it {MAX_RETRIES + 1} times without notice"
    log.clear()
    watch.on_step_begin(20, trials[1:])  # that Tune does not know of at all
    assert "requeue a" in log


def trial(trial_id: str, finished: bool) -> SimpleNamespace:
    """One of Ray's."""
    return SimpleNamespace(trial_id=trial_id, is_finished=lambda: finished)


SILENT = """
import time
from search.execution import session
session.ANSWER_S = 0.2
with session.exit_if_silent():
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SILENT],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAY_ADDRESS": "10.0.0.1:8265"},
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: RAY_ADDRESS must be the address of a cluster's head, but nothing that Ray "
        "understands came from 10.0.0.1:8265 in 0.2 s\n"
    )


GROWING = """
import os, time
os.environ["RAY_ADDRESS"] = "of the cluster"
import ray
from ray.cluster_utils import Cluster
from search.execution.places import TrialPlaces, WAITING_ON_CLUSTER
from search.execution.resources import TrialResources
from search.execution.cluster import offered_nodes
from collections import Counter

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
ray.init(address=nodes.address, log_to_driver=False)

ONE = TrialResources(cpus=1, gpus=0)
places = TrialPlaces(offered_nodes, lambda nodes: [ONE])

def wait_for(capacity):
    for _ in range(120):
        if places.capacity() == capacity:
            assert places.next(Counter({ONE: capacity + WAITING_ON_CLUSTER - 1})) == ONE
            assert places.next(Counter({ONE: capacity + WAITING_ON_CLUSTER})) is None
            return
        time.sleep(0.5)
    raise SystemExit(f"there is no room for {capacity}")

wait_for(2)
node = nodes.add_node(num_cpus=4)
wait_for(6)
nodes.remove_node(node)
wait_for(2)
"""


@pytest.mark.slow
def test_pending_trials_follow_a_cluster_that_grows_and_shrinks() -> None:
    subprocess.run([sys.executable, "-c", GROWING], check=True, timeout=300, capture_output=True)


@pytest.mark.parametrize("has_bars", [True, False])
def test_it_is_said_how_far_trials_are(has_bars: bool, tmp_path: Path) -> None:
    lines: list[str] = []
    for trial in ("0001", "0003", "0004", "0005"):
        (tmp_path / "checkpoints" / trial).mkdir(parents=True)
    start = "training the full-precision student: epoch 2 of 3, about 40 s left"
    epochs, batches = "training: epoch 5 of 9", "measuring the student: batch 2 of 7"
    (tmp_path / "checkpoints/0001" / PROGRESS_FILE).write_text("what a killed process left")
    progress = TrialProgress(tmp_path, lines.append, has_bars)
    progress.files.checked = -math.inf
    (tmp_path / "checkpoints/0003" / PROGRESS_FILE).write_text(start)
    (tmp_path / "checkpoints/0004" / PROGRESS_FILE).write_text(epochs)
    (tmp_path / "checkpoints/0005" / PROGRESS_FILE).write_text(batches)
    for _ in range(2):
        progress.on_step_begin(0, [])
    said = [f"trial 0003 is {start}", f"trial 0004 is {epochs}", f"trial 0005 is {batches}"]
    assert lines == (said[:1] if has_bars else said)
