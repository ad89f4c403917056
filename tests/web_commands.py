"""Commands that serve web pages until they are interrupted."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def serving(
    module: str, *arguments: str, number: signal.Signals = signal.SIGINT, **variables: str
) -> Iterator[list[str]]:
    """The lines that `python -m MODULE` prints until it serves; ends it by a signal.

    `variables` are further environment variables.
    """
    command, environment = [sys.executable, "-m", module, *arguments], {**os.environ, **variables}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        lines = list[str]()
        assert process.stdout
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C"):
                break
        try:
            yield lines
        finally:
            process.send_signal(number)
            try:
                status = process.wait(30)
            finally:
                process.kill()
    assert status == 0
