"""The private names of Ray, and the reasons that it gives for dead processes, in a real Ray."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # a Ray of its own is started
SCRIPT = """
import json, os, sys
from search.execution.environment import prepare_environment
prepare_environment()
import ray
from pyarrow.fs import LocalFileSystem
from ray import tune
from ray.tune.experiment import Trial
from search.execution.ray_internals import (
    actor_of, draining_nodes, find_cluster_address, local_node, node_of, processes_in_own_group,
    trials_in_idle_workers
)
from search.execution.worker_failure import describe_worker_failure, failure_reason

with processes_in_own_group():
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
is_imported = ray.remote(lambda: "trainables.trainable" in sys.modules)
seen = {"imported before use": ray.get(is_imported.remote())}
node = local_node()
seen["alive"] = [name for name, _ in node.live_processes()]
seen["dead"] = [name for name, _ in node.dead_processes()]
seen["groups"] = [os.getpgid(process.pid) for _, process in node.live_processes()]
seen["own group"] = os.getpgid(0)
seen["address"] = find_cluster_address()

def die():
    os._exit(3)

def fail():
    raise ValueError("of the task\\nand more")

class Actor:
    def die(self): die()
    def fail(self): fail()
    def wait(self): pass

def reason(ref):
    try:
        ray.get(ref)
    except ray.exceptions.RayError as error:
        return describe_worker_failure(error)

actors = [ray.remote(Actor).remote() for _ in range(3)]
killed = actors[2]
ray.get(killed.wait.remote())
ray.kill(killed)
seen["reasons"] = {
    "task died": reason(ray.remote(max_retries=0)(die).remote()),
    "task failed": reason(ray.remote(max_retries=0)(fail).remote()),
    "actor died": reason(actors[0].die.remote()),
    "actor failed": reason(actors[1].fail.remote()),
    "actor killed": reason(killed.wait.remote()),
}
ray.kill(actors[1])

class Reasons(tune.Callback):
    def on_trial_start(self, iteration, trials, trial, **info):
        seen["is an actor"] = isinstance(actor_of(trial), ray.actor.ActorHandle)
        seen["its node"] = node_of(trial)
    def on_trial_recover(self, iteration, trials, trial, **info):
        seen["first death of a trial"] = failure_reason(trial)
    def on_trial_error(self, iteration, trials, trial, **info):
        seen["second death of a trial"] = failure_reason(trial)

seen["actor before it starts"] = actor_of(Trial("any", stub=True))
seen["node before it starts"] = node_of(Trial("any", stub=True))
seen["nodes"] = [node["NodeID"] for node in ray.nodes()]
seen["draining"] = list(draining_nodes())

class Dying(tune.Trainable):
    def step(self): die()

tune.Tuner(Dying, run_config=tune.RunConfig(
    storage_path=sys.argv[1], storage_filesystem=LocalFileSystem(), verbose=0,
    callbacks=[Reasons()], failure_config=tune.FailureConfig(max_failures=1),
)).fit()

class Fresh(tune.Trainable):
    def step(self): return {"variable": os.environ.get("PL_DISABLE_FORK"), "done": True}

with trials_in_idle_workers():
    result, = tune.Tuner(Fresh, run_config=tune.RunConfig(
        storage_path=sys.argv[1], storage_filesystem=LocalFileSystem(), verbose=0,
    )).fit()
seen["environment of a trial"] = result.metrics["variable"]

raylet = dict(node.live_processes())["raylet"]
raylet.kill()
raylet.wait()
seen["dead at last"] = [name for name, _ in node.dead_processes()]
print(json.dumps(seen), file=open(sys.argv[2], "w"))
os._exit(0)  # Ray waits for a raylet that is gone
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("ray")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "tune"), str(folder / "seen.json")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return seen


def test_ray_starts_its_processes_outside_the_group_of_the_driver(seen: dict[str, Any]) -> None:
    assert seen["groups"]
    assert seen["own group"] not in seen["groups"]


def test_a_trial_begins_in_a_worker_that_has_imported_pytorch(seen: dict[str, Any]) -> None:
    assert seen["imported before use"]
    assert seen["environment of a trial"] is None  # workers with one of their own start anew


def test_ray_starts_no_process_that_one_machine_does_not_need(seen: dict[str, Any]) -> None:
    assert not {"monitor", "log_monitor"} & {*seen["alive"]}


def test_the_processes_of_the_local_node_are_known_alive_and_dead(seen: dict[str, Any]) -> None:
    assert {"raylet", "gcs_server"} <= set(seen["alive"])
    assert seen["dead"] == []
    assert seen["dead at last"] == ["raylet"]


def test_a_cluster_on_this_machine_is_found(seen: dict[str, Any]) -> None:
    host, _, port = seen["address"].rpartition(":")
    assert host
    assert port.isdigit()


def test_the_node_of_a_trial_is_known(seen: dict[str, Any]) -> None:
    assert seen["node before it starts"] == ""
    assert seen["nodes"] == [seen["its node"]]
    assert seen["draining"] == []


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("task died", "worker died"),
        ("task failed", "ValueError: of the task"),
        ("actor died", "worker process has died"),
        ("actor failed", "ValueError: of the task"),
        ("actor killed", "ray.kill"),
    ],
)
def test_the_reason_of_a_dead_process_is_one_informative_line(
    case: str, words: str, seen: dict[str, Any]
) -> None:
    reason = seen["reasons"][case]
    assert words in reason
    assert "\n" not in reason
    assert "actor_id" not in reason


@pytest.mark.parametrize("death", ["first", "second"])
def test_the_reason_of_a_dead_trial_is_known(death: str, seen: dict[str, Any]) -> None:
    reason = seen[f"{death} death of a trial"]
    assert "worker process has died" in reason
    assert "\n" not in reason


def test_the_process_of_a_trial_of_tune_is_known(seen: dict[str, Any]) -> None:
    assert seen["is an actor"]
    assert seen["actor before it starts"] is None
