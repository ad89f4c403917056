"""Brings up `cluster.local.yaml` on three simulated machines, and breaks it.

    sudo python -m benchmarks.own_machines --out docs/own_machines.md

A machine is a network, process, mount and host name namespace with its own home folder, /tmp and
SSH server; all share /mnt/paretoseg and this Python environment, so that `set-up` is left out. Head
and two workers have a CPU each. Needs root, Linux, `ip`, `unshare`, `sshd`, `ssh` and `rsync`.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import yaml

from benchmarks.timing import describe_machine

ROOT = Path(__file__).parents[1]
NETWORK, BRIDGE = "10.77.0", "paretoseg"
NAMES = ("head", "worker1", "worker2")
SHARED = "/mnt/paretoseg"
OF_RAY = re.compile(r"\d{4}-\d\d-\d\d |\s*To ensure this mount|Shared connection")
"""Lines that `ray exec` adds to what a command says."""
STUDY = f"{SHARED}/studies/own"
SEARCH = (
    "RAY_ADDRESS=auto python -m search.run --space supervised --samples 8 --epochs 48 "
    f"--max-size 300KB --name own --storage {SHARED}/studies --cpus-per-trial 1"
)


class Machine:
    """One machine: its namespaces and its SSH server."""

    def __init__(self, number: int, folder: Path, shared: Path, key: Path) -> None:
        self.name, self.address = NAMES[number], f"{NETWORK}.{10 + number}"
        self.link, self.space = f"ps{number}", f"paretoseg-{self.name}"
        self.home = folder / self.name
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        shutil.copy(key.with_suffix(".pub"), self.home / ".ssh" / "authorized_keys")
        (self.home / "venv").symlink_to(sys.prefix)
        (self.home / ".bashrc").write_text(
            f"export VIRTUAL_ENV={sys.prefix} PATH={sys.prefix}/bin:$PATH RAY_AUTH_MODE=token "
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 # paretoseg\n"
        )
        self.users = folder / f"{self.name}.passwd"
        own = re.sub(r"(?m)^(root:.*):/root:", rf"\1:{self.home}:", Path("/etc/passwd").read_text())
        self.users.write_text(own)
        self.shared = shared

    @contextmanager
    def running(self) -> Iterator[None]:
        outside, inside = self.link, f"{self.link}i"
        run("ip", "netns", "add", self.space)
        run("ip", "link", "add", outside, "type", "veth", "peer", inside, "netns", self.space)
        run("ip", "link", "set", outside, "master", BRIDGE, "up")
        within = ("ip", "-n", self.space)
        run(*within, "addr", "add", f"{self.address}/24", "dev", inside)
        for device in (inside, "lo"):
            run(*within, "link", "set", device, "up")
        begin = (
            f"hostname {self.name}; mount --bind {self.users} /etc/passwd; "
            "mount -t tmpfs none /tmp; mount -t tmpfs none /dev/shm; mount -t tmpfs none /mnt; "
            f"mkdir {SHARED}; mount --bind {self.shared} {SHARED}; "
            "mount -t tmpfs none /run; mkdir -p /run/sshd; "
            "exec $(command -v sshd) -D -e -o PermitRootLogin=yes -o UsePAM=no"
        )
        namespaces = ("unshare", "--mount", "--pid", "--uts", "--fork", "--mount-proc")
        command = (
            "ip",
            "netns",
            "exec",
            self.space,
            *namespaces,
            "--kill-child",
            "sh",
            "-c",
            begin,
        )
        with (self.home / "sshd.txt").open("w") as log:
            self.process = subprocess.Popen(command, stderr=log)
        try:
            yield
        finally:
            self.process.kill()
            self.process.wait()
            run("ip", "link", "del", outside)  # else it lives as long as any process there
            run("ip", "netns", "del", self.space)

    def cut(self, is_cut: bool) -> None:
        run("ip", "link", "set", self.link, "down" if is_cut else "up")

    def processes(self, words: str) -> list[str]:
        """The process ids of processes of this machine with these words, as it sees them."""
        found = self.tell(f"pgrep -f '[{words[0]}]{words[1:]}' || true")  # not itself
        return found.split()

    def tell(self, command: str) -> str:
        """The output of a command on this machine, which needs no network."""
        child = next(iter(Path(f"/proc/{self.process.pid}/task").iterdir())) / "children"
        (first,) = child.read_text().split()
        entered = ("nsenter", "--target", first, "--mount", "--pid", "--net", "--uts")
        return run(*entered, "env", f"HOME={self.home}", "bash", "-c", command)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def bridge() -> Iterator[None]:
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        yield
    finally:
        run("ip", "link", "del", BRIDGE)


class Log:
    """What happened, with seconds since the beginning."""

    def __init__(self) -> None:
        self.begin, self.lines = time.monotonic(), list[str]()

    def __call__(self, text: str) -> None:
        for line in text.strip().splitlines():
            self.lines.append(f"{time.monotonic() - self.begin:6.0f} s  {line}")
            print(self.lines[-1], flush=True)

    def wait_for(self, what: str, is_so: Callable[[], object], seconds: float = 300) -> None:
        begin = time.monotonic()
        while not is_so():
            if time.monotonic() - begin > seconds:
                raise RuntimeError(f"not within {seconds:g} s: {what}")
            time.sleep(1)
        self(f"{what}, after {time.monotonic() - begin:.0f} s")


def cluster_file(machines: list[Machine], key: Path, path: Path) -> Path:
    """The file of the project with the addresses of these machines, and without `set-up`."""
    head, *workers = machines
    text = (ROOT / "cluster.local.yaml").read_text()
    written = yaml.safe_load(text.replace("HEAD-EDIT", head.address))
    written["provider"]["worker_ips"] = [worker.address for worker in workers]
    written["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    written["setup_commands"] = []
    written["file_mounts"] = {
        remote: local if local.startswith("~") else str(ROOT / local)
        for remote, local in written["file_mounts"].items()
    }
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        written[commands] = [
            re.sub(r"(node.sh (?:head|worker|keep)(?: \S+:\d+)?)", r"\1 --num-cpus=1", command)
            for command in written[commands]
        ]
    path.write_text(yaml.safe_dump(written, sort_keys=False))
    return path


class Laptop:
    """Where `ray up` is typed."""

    def __init__(self, home: Path, file: Path) -> None:
        self.file = file
        self.environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token"}
        self.environment.pop("RAY_ADDRESS", None)
        self.ray_program = str(Path(sys.prefix, "bin", "ray"))
        self.search_log = home / "search.txt"

    def ray(self, action: str, *arguments: str) -> str:
        yes = ["--yes"] if action in ("up", "down") else []
        command = [self.ray_program, action, *yes, str(self.file), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment, check=False
        )
        if done.returncode:
            raise RuntimeError(f"ray {action}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        return "".join(line for line in done.stdout.splitlines(True) if not OF_RAY.match(line))

    def start_search(self) -> subprocess.Popen[bytes]:
        command = [self.ray_program, "exec", str(self.file), SEARCH]
        with self.search_log.open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)

    def said(self, words: str) -> str:
        """The first line of the search's output with these words."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.search_log.read_text(errors="replace"))
        return next((line.strip() for line in text.splitlines() if words in line), "")

    def status(self) -> str:
        return self.ray("exec", f"python -m search.status {STUDY}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="gets what happened")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with the clean-up
    log = Log()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        (shared := folder / "shared").mkdir()
        (home := folder / "laptop").mkdir()
        key = home / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        stack.enter_context(bridge())
        machines = [Machine(number, folder, shared, key) for number in range(len(NAMES))]
        for machine in machines:
            stack.enter_context(machine.running())
        laptop = Laptop(home, cluster_file(machines, key, folder / "cluster.yaml"))
        environment = laptop.environment
        subprocess.run(
            [laptop.ray_program, "get-auth-token", "--generate"],
            env=environment,
            check=True,
            capture_output=True,
        )
        try:
            play(log, laptop, machines)
        except RuntimeError:
            print(laptop.search_log.read_text() if laptop.search_log.exists() else "")
            raise
    about = (
        "# A cluster of own machines, from `ray up` to `ray down`\n\n"
        "What `python -m benchmarks.own_machines` saw: `cluster.local.yaml` on three simulated "
        f"machines with {os.cpu_count()} cores in all, {describe_machine(torch.device('cpu'))}. "
        "Times are seconds since the beginning.\n\n"
    )
    arguments.out.write_text(about + "".join(f"    {line}\n" for line in log.lines))


def play(log: Log, laptop: Laptop, machines: list[Machine]) -> None:
    """The life of a cluster, from `ray up` to `ray down`."""
    head, first, second = machines
    raylet = "raylet/raylet"
    laptop.ray("up")
    log("ray up has ended")
    log.wait_for("both workers have joined", lambda: all(m.processes(raylet) for m in machines))
    search = laptop.start_search()
    log.wait_for("the search has trials", lambda: " complete" in safe_status(laptop), 600)
    log(laptop.said("the cluster has"))
    log(laptop.status())

    first.cut(True)
    log(f"the link of {first.name} is cut")
    log.wait_for("its trial goes on elsewhere", lambda: laptop.said("goes on from its checkpoint"))
    log(laptop.said("goes on from its checkpoint"))
    first.cut(False)
    log("the link is healed")
    log.wait_for("it has joined again", lambda: "3 nodes of 1 CPU" in safe_status(laptop))

    second.tell(f"pkill -KILL -f {raylet}")
    log(f"Ray is killed on {second.name}")
    log.wait_for("it has joined again", lambda: second.processes(raylet))
    log.wait_for("the search has ended", lambda: search.poll() is not None, 900)
    log(f"exit status of the search: {search.returncode}")
    log(laptop.status())
    log(laptop.ray("exec", f"python -m search.check {STUDY}"))
    laptop.ray("down")
    log("ray down has ended")
    log.wait_for(
        "no Ray runs on any machine", lambda: not any(m.processes(raylet) for m in machines)
    )
    keep = "node.sh keep"
    log.wait_for("none tries to join", lambda: not any(m.processes(keep) for m in machines))
    log(first.tell("tail -n 1 ~/.paretoseg-keeper.log"))
    log.wait_for("no process of the search is left", lambda: not head.processes("search.run"))


def safe_status(laptop: Laptop) -> str:
    """What `search.status` says; "" where there is no study yet."""
    try:
        return laptop.status()
    except RuntimeError:
        return ""


if __name__ == "__main__":
    main()
