"""A study in an object store survives the loss of nodes and of the driver's machine."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_server import Command
from drivers import Driver, cluster_of, tell, wait_until
from nodes import can_unshare, node_without
from object_store import ObjectStore

from search.storage.layout import SEGMENTS
from trainables.core.mirror import mirror_folder

pytestmark = pytest.mark.slow
CPU = {"num_cpus": 1}


@pytest.mark.skipif(not can_unshare(), reason="a node can have no file systems of its own here")
def test_a_node_and_then_the_driver_s_machine_are_lost(
    blocks_folder: Path,
    tmp_path: Path,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two of four nodes are lost at once.

    One of the others has a cache of its own, and so has the machine that goes on.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (cache := tmp_path / "cache").mkdir()
    argv = ["--space", "qat", "--data", str(blocks_folder), "--image-size", "32", "--name", "hurt"]
    argv += ["--storage", object_store.uri, "--scheduler", "none", "--checkpoint-every", "200ms"]
    argv += ["--epochs", "12", "--max-size", "100KB", "--samples", "5", "--cache", str(cache)]

    nodes = {"RAY_AUTH_MODE": "disabled", **object_store.environment}
    with (
        cluster_of(CPU, CPU, CPU, **nodes) as (cluster, address),
        node_without(cache, address, tmp_path / "node.txt"),
    ):
        wait_until(lambda: num_nodes(address) == 5)
        driver = Driver(argv, RAY_ADDRESS=address, **nodes)
        driver.wait_for("expected: ")
        wait_until(lambda: len(with_checkpoints(object_store)) >= 2)
        tell(cluster)
        driver.wait_for("goes on from its checkpoint")

        driver.send_signal(signal.SIGKILL)
        driver.wait()
        tell(cluster)

    reported = [key for key in object_store.names() if key.startswith(f"hurt/{SEGMENTS}/")]
    assert reported
    resume = ["--resume", "hurt", "--storage", object_store.uri]
    elsewhere = {**object_store.environment, "XDG_CACHE_HOME": str(tmp_path / "other")}
    early = Driver(resume, **elsewhere).end(2)
    assert "hurt is running, or its machine was lost within 90 s" in early
    object_store.delete_matching(".hurt.lock/")  # which others do after that time
    object_store.delete_matching(".lock/")
    driver = Driver(resume, **elsewhere)
    driver.end(0)
    keys = object_store.names()
    assert not [key for key in keys if "checkpoints" in key or "/." in f"/{key}"]

    third = {**object_store.environment, "XDG_CACHE_HOME": str(tmp_path / "third")}
    study = f"{object_store.uri}/hurt"
    checked = run("search.check", study, **third)
    assert "MLflow was not asked" in checked
    assert f"{study} is whole" in checked
    assert "5 of 5 begun: 5 complete" in run("search.status", study, **third)
    exported = run("search.export", study, "--all", "--out", str(tmp_path / "out"), **third)
    models = [key for key in keys if re.fullmatch(r"hurt/models/\d+/model.safetensors", key)]
    for key in models:
        trial = key.split("/")[2]
        file = tmp_path / "out" / f"hurt-{trial}.safetensors"
        assert file.read_bytes() == object_store.read(key)
    assert exported.count("0 of ") >= len(models)
    record = json.loads(object_store.read("hurt/study.json"))
    assert record["config"]["name"] == "hurt"
    assert mirror_folder(study, tmp_path / "third" / "paretoseg").is_dir()


def with_checkpoints(store: ObjectStore) -> set[str]:
    """The trainings that have a checkpoint in the object store."""
    return {key.rsplit("/", 1)[0] for key in store.names() if key.endswith(".ckpt")}


def num_nodes(address: str) -> int:
    """The living nodes of a cluster, as Ray's own command says."""
    code = (
        f"import ray; ray.init('{address}', logging_level='CRITICAL'); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout.strip() or 0)


def run(*argv: str, **environment: str) -> str:
    """What a command prints that succeeds."""
    command = Command(*argv, **environment)
    assert command.wait(240) == 0, command.said + command.errors
    return command.said
