"""`cluster.yaml` is valid for Ray, and has properties that Ray's validation does not check."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
START = ("head_start_ray_commands", "worker_start_ray_commands")
SETUP = ("initialization_commands", "head_setup_commands", "worker_setup_commands")


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The file as `ray up` reads it, completed by Ray's AWS defaults."""
    written: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    prepared: dict[str, Any] = prepare_config(written)
    return prepared


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def head(config: dict[str, Any]) -> dict[str, Any]:
    node_type: dict[str, Any] = config["available_node_types"][config["head_node_type"]]
    return node_type


def workers(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Every node type but the head's; never empty."""
    found = [
        node_type
        for name, node_type in config["available_node_types"].items()
        if name != config["head_node_type"]
    ]
    assert found
    return found


def has_gpu(node_type: dict[str, Any]) -> bool:
    """Whether AWS calls the instance type accelerated (g5, p4d, trn1, inf2, ...)."""
    instance = node_type["node_config"]["InstanceType"]
    accelerated = re.match(r"(g|gr|p|trn|inf|dl)\d", instance) is not None
    return accelerated or node_type["resources"].get("GPU", 0) > 0


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    validate_config(config)


def test_head_is_a_cpu_node_on_demand(config: dict[str, Any]) -> None:
    assert not has_gpu(head(config))
    assert "InstanceMarketOptions" not in head(config)["node_config"]
    assert head(config)["max_workers"] == 0


def test_workers_are_autoscaled_gpu_nodes(config: dict[str, Any]) -> None:
    assert config["max_workers"] > 0
    for worker in workers(config):
        assert has_gpu(worker)
        assert worker["min_workers"] == 0
        assert worker["max_workers"] > 0


def test_spot_nodes_come_first_and_one_on_demand_last(config: dict[str, Any]) -> None:
    """All offer the same: Ray asks first for what fits best, then for what could be started."""
    by_priority = sorted(workers(config), key=lambda worker: -int(worker["priority"]))
    options = [worker["node_config"].get("InstanceMarketOptions") for worker in by_priority]
    assert options == [{"MarketType": "spot"}, {"MarketType": "spot"}, None]
    assert len({worker["priority"] for worker in by_priority}) == len(by_priority)
    assert by_priority[-1]["max_workers"] == 1
    assert [worker["resources"] for worker in by_priority] == [{"CPU": 8, "GPU": 1}] * 3


def test_the_head_runs_no_trials_and_is_narrow(config: dict[str, Any]) -> None:
    assert head(config)["resources"]["CPU"] == 0
    assert head(config)["node_config"]["IamInstanceProfile"]
    assert not any("IamInstanceProfile" in worker["node_config"] for worker in workers(config))


def test_disks_are_encrypted_and_credentials_need_a_session(config: dict[str, Any]) -> None:
    for node_type in [head(config), *workers(config)]:
        for disk in node_type["node_config"]["BlockDeviceMappings"]:
            assert disk["Ebs"]["Encrypted"]
            assert disk["Ebs"]["DeleteOnTermination"]
        assert node_type["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert node_type["node_config"]["SubnetIds"]


def test_only_ssh_is_let_in(config: dict[str, Any]) -> None:
    """Every node has its own security groups; otherwise Ray creates one open to the internet."""
    for node_type in [head(config), *workers(config)]:
        assert node_type["node_config"]["SecurityGroupIds"]
        assert "NetworkInterfaces" not in node_type["node_config"]
    group = config["provider"].get("security_group", {})
    for rule in group.get("IpPermissions", []):
        assert (rule["FromPort"], rule["ToPort"]) == (22, 22)


@pytest.mark.parametrize("commands", START)
def test_dashboard_listens_on_loopback(config: dict[str, Any], commands: str) -> None:
    starts = [command for command in config[commands] if "ray start" in command]
    assert starts
    for command in starts:
        assert re.findall(r"--dashboard-host[= ](\S+)", command) == ["127.0.0.1"]
        assert "ulimit -n" in command
    assert ("--autoscaling-config=" in starts[0]) == commands.startswith("head")


@pytest.mark.parametrize("commands", SETUP[1:])
def test_every_node_asks_for_the_token(config: dict[str, Any], commands: str) -> None:
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    exports = [line for line in config[commands] if "export " in line]
    assert any("RAY_AUTH_MODE=token" in line for line in exports)
    assert any("RAY_ENABLE_UV_RUN_RUNTIME_ENV=0" in line for line in exports)


@pytest.mark.parametrize("commands", SETUP[1:])
def test_nodes_install_pinned_versions(
    config: dict[str, Any], project: dict[str, Any], commands: str
) -> None:
    requirements = map(Requirement, project["project"]["dependencies"])
    allowed = next(each.specifier for each in requirements if each.name == "ray")
    script = "\n".join(config[commands])
    (ray_version,) = re.findall(r"ray\[default\]==([\d.]+)", script)
    (python_version,) = re.findall(r"--python (\d+\.\d+\.\d+)", script)
    assert allowed.contains(ray_version)
    assert python_version in SpecifierSet(project["project"]["requires-python"])
    assert re.search(r"--exclude-newer \d{4}-\d{2}-\d{2} --editable ~/paretoseg", script)
    assert re.search(r"pip install (--\S+ )*uv==[\d.]+$", script, re.MULTILINE)
    (boto3_version,) = re.findall(r"boto3==([\d.]+)", script)
    assert "--constraints ~/paretoseg/constraints.txt" in script
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert {f"ray=={ray_version}", f"boto3=={boto3_version}"} <= set(pinned)


@pytest.mark.parametrize("commands", SETUP + START)
def test_nothing_floats(config: dict[str, Any], commands: str) -> None:
    for command in config[commands]:
        assert not re.search(r"nightly|latest|\.whl|\.dev|>=", command, re.IGNORECASE)


def test_all_nodes_are_alike(config: dict[str, Any]) -> None:
    """Same installation, image and groups: a trial may land on any of them."""
    assert config["head_setup_commands"] == config["worker_setup_commands"]
    for worker in workers(config):
        for key in ("ImageId", "SecurityGroupIds"):
            assert worker["node_config"][key] == head(config)["node_config"][key]


def test_nodes_get_the_code_and_nothing_else(
    config: dict[str, Any], project: dict[str, Any]
) -> None:
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {*packages, "pyproject.toml", "constraints.txt", project["project"]["readme"]}
    mounts = {
        remote: local
        for remote, local in config["file_mounts"].items()
        if not remote.startswith("~/.ray/")
    }
    assert mounts == {f"~/paretoseg/{name}": name for name in needed}
    assert all((ROOT / name).exists() for name in needed)
    assert {".git", ".venv", "studies"} <= set(config["rsync_exclude"])
