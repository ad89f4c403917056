"""Files that bring up clusters: valid for Ray, and with properties that Ray does not check.

All of them install and start nodes by one script, which alone names versions.
"""

import os
import re
import signal
import socket
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from drivers import wait_until
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
START = ("head_start_ray_commands", "worker_start_ray_commands")
SETUP = ("initialization_commands", "head_setup_commands", "worker_setup_commands")
NODE = ROOT / "search" / "cloud" / "node.sh"
EXAMPLES = ROOT / "examples" / "clusters"
RAY_FILES = [ROOT / "cluster.yaml", ROOT / "cluster.local.yaml"]
UNATTENDED = [EXAMPLES / name for name in ("slurm.sh", "rayjob.yaml", "skypilot.yaml")]
FILES = [*RAY_FILES, *UNATTENDED, EXAMPLES / "Dockerfile"]


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The file for AWS as `ray up` reads it, completed by Ray's defaults."""
    return read_config(ROOT / "cluster.yaml")


def read_config(path: Path) -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(yaml.safe_load(path.read_text()))
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


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
def test_ray_accepts_the_file(path: Path) -> None:
    validate_config(read_config(path))


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


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("commands", START)
def test_nodes_are_started_by_the_script(path: Path, commands: str) -> None:
    kind = commands.removesuffix("_start_ray_commands")
    stop, start, *_ = read_config(path)[commands]
    assert stop == "bash ~/paretoseg/search/cloud/node.sh stop"
    assert f"node.sh {kind} " in start
    assert ("--autoscaling-config=" in start) == (kind == "head")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_script_alone_installs_and_names_versions(path: Path) -> None:
    text = path.read_text()
    assert "node.sh set-up" in text or "image: " in text
    assert not re.search(r"pip install|\w==\d|uv venv|\bray (start|stop)\b", code_of(text))


def code_of(text: str) -> str:
    """A file without its comments."""
    return re.sub(r"(?m)(^|\s)#.*$", "", text)


def test_the_script_asks_for_the_token_and_listens_on_loopback() -> None:
    script = NODE.read_text()
    assert "RAY_AUTH_MODE=token" in script
    assert "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0" in script
    assert re.findall(r"ray start (\S+)", code_of(script)) == ["--dashboard-host=127.0.0.1"]
    for path in RAY_FILES:
        assert read_config(path)["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_a_spot_node_is_left_when_aws_says_so(tmp_path: Path) -> None:
    raylet = tmp_path / "raylet" / "raylet"
    for path, script in (
        (raylet, "sleep 100"),
        (tmp_path / "bin" / "ray", 'echo "ray $*" >> said'),
        (tmp_path / "bin" / "curl", '[[ -f notice || "$*" == *token ]] && echo "curl $*" >> said'),
        (tmp_path / "bin" / "sleep", "exec /bin/sleep 0.1"),
    ):
        write_program(path, script)
    here = {**os.environ, **environment_in(tmp_path)}
    node = subprocess.Popen([raylet, "--node_id=abc1", "--gcs-address=10.0.0.1:6379", "x"])
    command = ["bash", str(NODE), "watch-spot", "10.0.0.1:6379"]
    watcher = subprocess.Popen(command, cwd=tmp_path, env=here)
    try:
        wait_until(lambda: said(tmp_path).count("token") > 1, 20)
        assert "ray" not in said(tmp_path)
        (tmp_path / "notice").touch()
        assert watcher.wait(20) == 0
    finally:
        node.kill()
        watcher.kill()
    assert "spot/instance-action" in said(tmp_path)
    *_, last = said(tmp_path).splitlines()
    assert last.startswith("ray drain-node --address=10.0.0.1:6379 --node-id=abc1 ")
    assert "PREEMPTION" in last


def test_a_node_joins_again_until_its_head_has_ended(tmp_path: Path) -> None:
    """Its Ray dies twice; then the head refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        raylet = f"--node_id=abc1 --gcs-address={address} x < /dev/null > /dev/null 2>&1 &"
        write_program(tmp_path / "raylet" / "raylet", 'exec -a "$0 $*" /bin/sleep 0.5')
        start = f"[[ $1 == start ]] && {tmp_path}/raylet/raylet {raylet}"
        write_program(tmp_path / "bin" / "ray", f'echo "ray $*" >> said; {start}')
        write_program(tmp_path / "bin" / "sleep", "exec /bin/sleep 0.1")
        here = {**os.environ, **environment_in(tmp_path)}
        command = ["bash", str(NODE), "keep", address, "--num-cpus=3"]
        keeper = subprocess.Popen(command, cwd=tmp_path, env=here, stdout=subprocess.PIPE)
        wait_until(lambda: said(tmp_path).count("ray start") == 3, 30)
        leaving = tmp_path / f".paretoseg-leaving-{os.uname().nodename}"
        leaving.write_text(str(int(time.time()) + 1000))
        time.sleep(1.5)
        assert said(tmp_path).count("ray start") == 3
        leaving.unlink()
        wait_until(lambda: said(tmp_path).count("ray start") == 4, 30)
    try:
        assert keeper.wait(30) == 0
        assert keeper.stdout
        assert f"the head at {address} has ended" in keeper.stdout.read().decode()
    finally:
        keeper.kill()
    assert f"--address={address} --num-cpus=3" in said(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: node.sh"),
        (["keep"], "usage: node.sh"),
        (["leave", "10.0.0.1:6379"], "usage: node.sh"),
        (["leave", "10.0.0.1:6379", "soon"], "usage: node.sh"),
        (
            ["leave", "10.0.0.1:6379", "9"],
            "error: no node of the cluster at 10.0.0.1:6379 runs here",
        ),
    ],
)
def test_bad_arguments_of_the_script_are_one_line(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    here = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", str(NODE), *arguments], capture_output=True, text=True, check=False, env=here
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(words)


def environment_in(folder: Path) -> dict[str, str]:
    """Has the script find its programs and the home folder there."""
    return {"PARETOSEG_ENVIRONMENT": str(folder), "HOME": str(folder)}


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


def test_the_script_installs_pinned_versions(project: dict[str, Any]) -> None:
    script = NODE.read_text()
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    pinned = {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}
    requirements = map(Requirement, project["project"]["dependencies"])
    allowed = next(each.specifier for each in requirements if each.name == "ray")
    assert allowed.contains(pinned["ray"])
    (python_version,) = re.findall(r"python_version=(\d+\.\d+\.\d+)", script)
    assert python_version in SpecifierSet(project["project"]["requires-python"])
    assert re.search(r"uv_version=[\d.]+ .*day=\d{4}-\d{2}-\d{2}$", script, re.MULTILINE)
    assert '--constraints "$checkout/constraints.txt" --exclude-newer $day' in script
    (job,) = (each for each in documents(EXAMPLES / "rayjob.yaml") if each["kind"] == "RayJob")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"]
    assert "boto3" in pinned


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", UNATTENDED, ids=lambda path: path.name)
def test_a_job_that_begins_again_goes_on_with_its_study(path: Path) -> None:
    assert "search.run" in path.read_text()
    assert "--or-resume" in code_of(path.read_text())


def test_pods_ask_for_the_token_and_share_the_storage() -> None:
    claim, job = documents(EXAMPLES / "rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    head, worker = cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert worker["minReplicas"] == 0
    for group in (head, worker):
        (volume,) = group["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = group["template"]["spec"]["containers"]
        (mount,) = container["volumeMounts"]
        assert f"--storage {mount['mountPath']}/studies" in job["spec"]["entrypoint"]


@pytest.mark.parametrize("path", [*FILES, NODE], ids=lambda path: path.name)
def test_nothing_floats(path: Path) -> None:
    assert not re.search(r"nightly|[:=@]latest|\.whl|\.dev\b|>=", code_of(path.read_text()))


def test_all_nodes_are_alike(config: dict[str, Any]) -> None:
    """Same installation, image and groups: a trial may land on any of them."""
    assert config["head_setup_commands"] == config["worker_setup_commands"]
    for worker in workers(config):
        for key in ("ImageId", "SecurityGroupIds"):
            assert worker["node_config"][key] == head(config)["node_config"][key]


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
def test_nodes_get_the_code_and_nothing_else(path: Path, project: dict[str, Any]) -> None:
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {*packages, "pyproject.toml", "constraints.txt", project["project"]["readme"]}
    config = read_config(path)
    mounts = {
        remote: local
        for remote, local in config["file_mounts"].items()
        if not remote.startswith("~/.ray/")
    }
    assert mounts == {f"~/paretoseg/{name}": name for name in needed}
    assert all((ROOT / name).exists() for name in needed)
    assert {".git", ".venv", "studies"} <= set(config["rsync_exclude"])
    copied = (EXAMPLES / "Dockerfile").read_text()
    assert all(f"{name} " in copied for name in needed)


PROGRAMS = {
    "python": """trap 'echo search got TERM >> said; exit ${STATUS:-130}' TERM
echo "search $* at ${RAY_ADDRESS:-this machine}" >> said
for i in $(seq 100); do sleep 0.1; done; exit 0""",
    "ray": 'echo "ray $*" >> said',
    "srun": 'echo "srun $*" >> said',
    "scontrol": 'echo "scontrol $*" >> said',
}
"""Stand-ins that write down what they are told."""


@pytest.fixture
def slurm_job(tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts the Slurm script where Slurm, Ray and the search are stand-ins."""
    programs = tmp_path / "bin"
    for name, script in PROGRAMS.items():
        write_program(programs / name, script)

    def start(num_nodes: int, **environment: str) -> subprocess.Popen[bytes]:
        slurm = {
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": str(num_nodes),
            "SLURM_CPUS_PER_TASK": "8",
            "SLURMD_NODENAME": "localhost",
            **environment_in(tmp_path),
            "PATH": f"{programs}:{os.environ['PATH']}",
        }
        command = ["bash", str(EXAMPLES / "slurm.sh"), "--space", "qkd", "--name", "mine"]
        job = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **slurm, **environment})
        wait_until(lambda: "search -m search.run" in said(tmp_path), 20)
        return job

    return start


def said(folder: Path) -> str:
    path = folder / "said"
    return path.read_text() if path.exists() else ""


def test_a_slurm_job_goes_back_to_the_queue_before_its_limit(
    slurm_job: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    job = slurm_job(1)
    time.sleep(0.3)  # the script waits by now
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 0
    assert said(tmp_path).splitlines() == [
        "search -m search.run --or-resume --space qkd --name mine at this machine",
        "search got TERM",
        "scontrol requeue 7",
    ]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, "130"), (signal.SIGUSR1, "2")], ids=["scancel", "error"]
)
def test_a_slurm_job_that_is_cancelled_or_fails_is_not_queued_again(
    slurm_job: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
    number: signal.Signals,
    status: str,
) -> None:
    job = slurm_job(1, STATUS=status)
    time.sleep(0.3)
    job.send_signal(number)
    assert job.wait(20) == int(status)
    assert "scontrol" not in said(tmp_path)


def test_a_slurm_job_of_several_nodes_is_a_cluster(
    slurm_job: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    job = slurm_job(3)
    lines = said(tmp_path)
    start = "ray start --dashboard-host=127.0.0.1 --head --node-ip-address=127.0.0.1 --port=20007"
    assert start in lines
    exclude = "--nodes=2 --ntasks=2 --cpus-per-task=8 --exclude=localhost"
    assert re.search(f"srun {exclude} .*node.sh keep 127.0.0.1:20007 --num-cpus=8", lines)
    assert "--name mine at 127.0.0.1:20007" in lines
    job.terminate()
    assert job.wait(20) == 130
