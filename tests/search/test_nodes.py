"""What a driver makes of the nodes of a cluster: one line, before anything is written."""

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from drivers import Driver, cluster_of, cluster_of_two, tell, wait_until
from nodes import RAY, can_unshare, node_without

from search.core.record import Record
from search.storage.journal import read_journal
from search.storage.trials import read_record, trial_number

pytestmark = pytest.mark.slow

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64}
L4 = {"num_cpus": 2, "num_gpus": 1, "resources": {"accelerator_type:L4": 1}}


def test_resources_are_those_of_the_nodes(blocks_folder: Path, tmp_path: Path) -> None:
    """The driver has no GPU, and other cores and tokens than the nodes."""
    storage = tmp_path / "studies"
    argv = ["--space", "qat", "--data", str(blocks_folder), "--storage", str(storage)]

    with cluster_of(L4, {"num_cpus": 1}, **TOKEN) as (cluster, address):
        at = {"RAY_ADDRESS": address, **TOKEN}
        driver = Driver([*argv, "--cpus-per-trial", "4"], **at)
        has = "1 node of 2 CPUs and 1 L4, 1 node of 1 CPU"
        errors = driver.end(2)
        assert f"the cluster has {has}" in driver.said
        assert errors == (
            "error: --cpus-per-trial and --gpus-per-trial must fit a node of the cluster, but a "
            f"trial gets 4 CPUs and 1 GPU, and the cluster has {has}\n"
        )

        wrong = Driver(argv, **{**at, "RAY_AUTH_TOKEN": "b" * 64}).end(2)
        assert wrong.startswith(f"error: RAY_ADDRESS leads to the cluster at {address}, but it ")
        assert "refuses the token of this user" in wrong
        for _ in range(2):
            tell(cluster)
    assert not storage.exists()


def status_of(study: Path) -> str:
    """What a person is told of a study."""
    command = [sys.executable, "-m", "search.status", str(study)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def record_of(study: Path, trial_id: str) -> Record:
    """What the journal has of a trial."""
    trials = read_journal(study, study.name).get_trials(deepcopy=False)
    return read_record(trials[trial_number(trial_id)])


def drain_last_node(address: str) -> None:
    """Says that the node which joined last will soon be gone."""
    raylets = [
        process
        for process in psutil.process_iter(["name", "cmdline", "create_time"])
        if process.name() == "raylet" and f"--gcs-address={address}" in process.cmdline()
    ]
    last = max(raylets, key=psutil.Process.create_time).cmdline()
    (node_id,) = (part.split("=")[1] for part in last if part.startswith("--node_id="))
    subprocess.run(
        [
            *(RAY, "drain-node", f"--address={address}", f"--node-id={node_id}"),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "it will be gone"),
            *("--deadline-remaining-seconds", "600"),
        ],
        check=True,
        capture_output=True,
    )


@pytest.mark.skipif(not can_unshare(), reason="a node can have no file systems of its own here")
def test_nodes_that_leave_and_nodes_that_do_not_share_the_storage(
    blocks_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    storage = tmp_path / "studies"
    storage.mkdir()
    # trainings that wait for nothing that another one builds
    argv = ["--space", "supervised", "--data", str(blocks_folder), "--image-size", "32"]
    argv += ["--price-per-hour", "36", "--epochs", "200"]
    argv += ["--name", "hurt", "--storage", str(storage)]

    with cluster_of_two() as (cluster, address):
        driver = Driver(argv, RAY_ADDRESS=address)
        driver.wait_for("expected: ")
        wait_until(lambda: any(storage.glob("hurt/checkpoints/*")))
        wait_until(lambda: (storage / "hurt" / "status.json").is_file())
        in_use = "in use +[12] of 2 CPUs; [0-9]+% so far\n"
        wait_until(lambda: re.search(in_use, status_of(storage / "hurt")))
        shown = status_of(storage / "hurt")
        assert "hurt, running" in shown
        assert re.search("nodes +2 nodes of 1 CPU\n", shown)

        drain_last_node(address)
        driver.wait_for("trial [0-9]+ leaves its node, which will soon be gone")
        wait_until(lambda: re.search("nodes +1 node of 1 CPU\n", status_of(storage / "hurt")))
        (told,) = storage.glob("hurt/ray/leave/*")
        left = re.findall(r"trial (\d+) leaves its node", driver.said)[0]

        def has_left() -> bool:
            """It waits for room, or runs elsewhere, where Ray knows it by another id."""
            record = record_of(storage / "hurt", left)
            return record.state == "PAUSED" or str(record.ray_id) not in told.name

        wait_until(has_left)
        assert record_of(storage / "hurt", left).price_per_hour == 36
        assert "failed" not in status_of(storage / "hurt")
        with node_without(storage, address, tmp_path / "node.txt"):
            errors = driver.end(2)
            assert "error: --storage must be a folder that all nodes share" in errors
            assert "does not see what another has written there: mount one" in errors

            again = Driver(
                [*argv[:-4], "--storage", str(storage), "--name", "new"], RAY_ADDRESS=address
            )
            assert "error: --storage must be a folder that all" in again.end(2)
            assert not (storage / "new").exists()
        for _ in range(2):
            tell(cluster)
    assert not list(storage.glob(".shared-*"))
