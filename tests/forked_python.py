"""Stands for Python where Ray starts processes: has the fork server run Ray's Python programs.

The arguments are the path of Python, that of this program's shell script, and those for Python.
Whoever starts and ends this process starts and ends the forked one, whose number is the name of
this one.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from select import select
from typing import NoReturn

FORKED = (
    "agent.py",
    "dashboard.py",
    "default_worker.py",
    "log_monitor.py",
    "main.py",
    "monitor.py",
    "setup_worker.py",
)
"""Programs of Ray that do not mind who their parent is: the agents, as `ForkServer` has them."""
FLAGS = ("-u", "-s", "-S")
"""Flags of Python that make no difference to a forked program; Ray hands them on, too."""


def main() -> NoReturn:
    parent = os.getppid()  # before anything that takes time: a raylet may end at any moment
    python, here, *argv = sys.argv[1:]
    program = [each for each in argv if each not in FLAGS]
    if "/ray/" not in program[0] or os.path.basename(program[0]) not in FORKED:
        os.execv(python, [python, *argv])
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(os.environ["FORK_SERVER"])
    # of a worker with variables of its own, which a process of Ray without this program prepares
    ours, theirs = (f'"py_executable": {json.dumps(path)}' for path in (here, python))
    request = {
        "argv": [each.replace(theirs, ours) for each in program],
        "python": here,
        "own_group": True,  # Ray ends the group of a process with it
        "cores": sorted(os.sched_getaffinity(0)),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    pid = int(connection.recv(64))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: relay(pid, number))
    with open("/proc/self/comm", "w") as name:
        name.write(f"fork {pid}")
    while not select([connection], [], [], 5)[0]:
        if os.getppid() != parent:
            sys.exit()  # the system ends a suspended process, too, whose parent has ended
    status = int(connection.recv(64) or -signal.SIGKILL)
    if status < 0:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def relay(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


main()
