"""Forks processes that have imported large packages already.

A process imports PyTorch, MLflow and the like for longer than it computes in most tests. The server
imports them once, then forks a process for each request: a command of the project, or a program of
Ray. A request comes over a connection of its own, on which the server answers with the number of
the process and, once it has ended, with its exit status. Closing the connection ends the process.
"""

import atexit
import gc
import json
import os
import random
import runpy
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from select import select
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
IMPORTED = (
    "aiohttp",
    "jsonschema",
    "mlflow.store.tracking.sqlalchemy_store",
    "onnx",
    "optuna",
    "pandas",
    "pyarrow.fs",
    "pyarrow.parquet",
    "rich.console",
    "scipy.stats",
    "search.analysis.report",
    "torchvision",
    "trainables.training.teacher",
)
"""All that takes long but Ray, which reads the variables of a process when it is imported."""


def serve(server: socket.socket) -> dict[str, Any] | None:
    """Forks a process for each request, in which it returns the request; None at the end.

    The end is that of the process which holds the other end of the standard input.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchers
    while server in select([server, 0], [], [])[0]:
        connection = server.accept()[0]
        if os.fork() == 0:
            server.close()
            return watch(connection)
        connection.close()
    return None


def watch(connection: socket.socket) -> dict[str, Any]:
    """Forks the process of a request, in which it returns the request, and says how that ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    pid = os.fork()
    if pid == 0:
        # the background jobs of shells ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        connection.close()
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        return dict(json.loads(message))
    for file in files:
        os.close(file)
    with suppress(ConnectionError):
        connection.send(str(pid).encode())
    threading.Thread(target=end_with, args=[connection, pid], daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(ConnectionError):
        connection.send(str(status).encode())
    os._exit(0)


def end_with(connection: socket.socket, pid: int) -> None:
    """Ends a process once nobody waits for it any more."""
    select([connection], [], [])
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def run(request: dict[str, Any]) -> object:
    """Becomes the process of a request, whose arguments are those of Python; what it exits with."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.sched_setaffinity(0, request["cores"])
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    if request["own_group"]:
        os.setsid()
    random.seed()  # else all processes would have the same
    import_module("numpy.random").seed()
    sys.executable = request["python"]
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    first, *rest = request["argv"]
    try:
        if first == "-m":
            sys.path[:1] = [request["folder"], *filter(None, path)]
            module, *sys.argv[1:] = rest
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.path[:1] = [str(Path(first).parent), *filter(None, path)]
            sys.argv[:] = request["argv"]
            runpy.run_path(first, run_name="__main__")
    except SystemExit as exit:
        return exit.code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(code: object) -> NoReturn:
    """Ends the process after its threads and exit functions, without finalizing Python.

    The system takes the memory of all imports faster than Python would.
    """
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def main() -> None:
    """Serves on the socket whose file descriptor is the argument."""
    sys.path[0] = str(ROOT)
    for name in IMPORTED:
        import_module(name)
    assert "ray" not in sys.modules
    gc.freeze()  # else the first collection in each process copies the memory of all imports
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        leave(run(request))


if __name__ == "__main__":
    main()
