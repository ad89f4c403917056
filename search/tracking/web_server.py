"""Serves MLflow's pages, or those of Optuna Dashboard, on this machine alone."""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import urlopen
from wsgiref.simple_server import WSGIRequestHandler, make_server

from optuna.storages import BaseStorage

from trainables.core.command_line import write_output

HOST = "127.0.0.1"
MLFLOW_PORT = 5000
NUM_PORTS = 20
"""Ports that are tried where none is named."""
START_S = 120.0
"""Seconds in which MLflow must answer; a busy machine needs tens of seconds."""


class NotStarted(Exception):
    """A server did not start."""


def end_by_any_signal() -> None:
    """Has all signals act as Ctrl-C, also where a shell ignores it: no server is left behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def wait_for_signal() -> None:
    """Waits for Ctrl-C, or for what acts as it."""
    write_output("Ctrl-C ends it\n")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def port_number(text: str) -> int:
    """A port.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be from 1 to 65535, but got {text!r}")
    return int(text)


def choose_port(wanted: int | None, first: int) -> int:
    """The wanted port, or the first free one from `first` on.

    Raises:
        ValueError: it is in use.
    """
    if wanted is not None:
        if not is_free(wanted):
            raise ValueError(f"--port must be free, but {wanted} is in use on {HOST}")
        return wanted
    for port in range(first, first + NUM_PORTS):
        if is_free(port):
            return port
    raise ValueError(f"--port must name a free port: {first} to {first + NUM_PORTS - 1} are in use")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


@contextmanager
def mlflow_server(
    uri: str, artifacts: Path, port: int, *arguments: str, **variables: str
) -> Iterator[str]:
    """MLflow's pages of a store, with one worker; gives their address once they answer.

    `arguments` and environment `variables` are further ones of `mlflow server`.

    Raises:
        NotStarted: MLflow ended at its start, or does not answer in time.
    """
    address = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--artifacts-destination", artifacts.resolve().as_uri(), "--workers", "1"]
    command += ["--host", HOST, "--port", str(port), *arguments]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **variables}
    # Python imports modules of its working folder first, and a storage may hold any files
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            command,
            env=environment,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
        try:
            wait_for_answer(server, f"{address}/health", log)
            yield address
        finally:
            stop(server)


def wait_for_answer(server: subprocess.Popen[bytes], url: str, log: IO[str]) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < START_S:
        if server.poll() is not None:
            raise NotStarted(f"MLflow ended with status {server.returncode}: {last_line(log)}")
        with suppress(URLError, OSError), urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise NotStarted(f"MLflow did not answer within {START_S:.0f} s: {last_line(log)}")


def last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1] if lines else "it said nothing"


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ends a server and its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)
            return


class Quiet(WSGIRequestHandler):
    """Serves without a line for each request."""

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def optuna_dashboard(storage: BaseStorage, port: int) -> Iterator[str]:
    """Optuna Dashboard's pages of the studies in a storage; gives their address."""
    from optuna_dashboard import wsgi  # an extra

    with make_server(HOST, port, wsgi(storage), handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever, name="dashboard", daemon=True).start()
        yield f"http://{HOST}:{port}"
        server.shutdown()
