"""Graceful shutdown on Ctrl-C and SIGTERM, even while the main thread blocks in a library."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainables.core import terminal
from trainables.core.files import replace_file
from trainables.core.mirror import delete

GRACE_S = 7.0
"""Seconds for trainings to stop: a preempted node gives 30 s, and the report needs some."""
MAX_EXIT_S = 15.0
"""Seconds for the driver to leave a blocking call, after which it exits: Ray may not answer."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"
INTERRUPTED = 130
"""The exit status of a command that a signal ended."""


class GracefulShutdown:
    """Asks trainings to stop once it is `requested`.

    Trainings may run on other machines, so they are asked by a file. Python's own handlers run only
    in the main thread, between two of its instructions; here a thread reads the signals' numbers,
    which the handler in C writes at once. The second signal ends the process, and so does the first
    if the block of `graceful_shutdown` is not left in time.
    """

    def __init__(self, stop_file: Path, exit_message: Callable[[], str] = str) -> None:
        """The text of `exit_message` is printed on stderr where the process is ended."""
        self.stop_file, self.exit_message = stop_file, exit_message
        self.since: float | None = None
        self.closed = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether the study is to end."""
        return self.since is not None

    @property
    def grace_expired(self) -> bool:
        """Whether the grace period of trainings is over."""
        return self.since is not None and time.monotonic() - self.since > GRACE_S

    def install_handlers(self) -> None:
        """Installs the signal handlers, again after Ray has replaced them at its start."""
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)

    def on_signal(self) -> None:
        """Handles one signal."""
        if self.requested:
            self.exit_now()
        threading.Thread(target=self._wait, name="exit timeout", daemon=True).start()
        if self.stop_file.parent.is_dir():  # otherwise nothing runs yet
            with suppress(OSError):  # a full disk: then the process ends after the grace period
                replace_file(self.stop_file, "")
        self.since = time.monotonic()  # last: whoever sees it may remove the stop file

    def exit_now(self) -> None:
        """Ends the process; the state of the study is in its journal."""
        try:
            if (out := terminal.out()).isatty():
                out.write(SHOW_CURSOR)
                out.flush()
            if message := self.exit_message():
                terminal.print_error(message)
        finally:  # the reader of stderr may be gone
            os._exit(INTERRUPTED)

    def _wait(self) -> None:
        if not self.closed.wait(MAX_EXIT_S):
            self.exit_now()


@contextmanager
def graceful_shutdown(
    stop_file: Path, exit_message: Callable[[], str] = str
) -> Iterator[GracefulShutdown]:
    """Turns the first Ctrl-C or SIGTERM into a shutdown request; the second ends the process."""
    shutdown = GracefulShutdown(stop_file, exit_message)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours, handlers = socket.socketpair()
    handlers.setblocking(False)
    descriptor = signal.set_wakeup_fd(handlers.fileno(), warn_on_full_buffer=False)

    def read() -> None:
        while numbers := ours.recv(64):
            for number in numbers:
                if number in SIGNALS:
                    shutdown.on_signal()

    reader = threading.Thread(target=read, name="signals", daemon=True)
    reader.start()
    shutdown.install_handlers()
    try:
        yield shutdown
    finally:
        shutdown.closed.set()
        signal.set_wakeup_fd(descriptor)
        handlers.close()
        reader.join(1)  # else it may make the stop file after that was removed
        for number, handler in before.items():
            signal.signal(number, handler)
        with suppress(OSError):  # an object store that does not answer: the next driver deletes it
            delete(stop_file)
