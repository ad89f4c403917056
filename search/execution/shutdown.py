"""Ctrl-C and SIGTERM: an orderly end, heard even while the main thread waits inside a library."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainables.core import terminal

GRACE_S = 7.0
"""For trainings to leave: a node that is taken away gives 30 s, of which the report needs some."""
MAX_EXIT_S = 15.0
"""For the driver to leave what it waits for, after which it ends: Ray may never answer."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"
INTERRUPTED = 130
"""The exit status of a command that a signal ended."""


class GracefulShutdown:
    """Asks trainings to leave once it is `requested`.

    A file is what asks them, since they may run on other machines. Python's own handlers run in the
    main thread alone, between two of its instructions; here a thread reads the signals' numbers,
    which the handler in C writes at once. The second signal ends the process, and so does the first
    if the block of `interruptible` is not left in time.
    """

    def __init__(self, stop_file: Path, exit_message: Callable[[], str] = str) -> None:
        """What `exit_message` gives is said on stderr where the process is ended."""
        self.stop_file, self.exit_message = stop_file, exit_message
        self.since: float | None = None
        self.closed = threading.Event()

    @property
    def requested(self) -> bool:
        """Whether the study is to end."""
        return self.since is not None

    @property
    def grace_expired(self) -> bool:
        """Whether trainings have had the time to leave."""
        return self.since is not None and time.monotonic() - self.since > GRACE_S

    def install_handlers(self) -> None:
        """Takes the signals, also from Ray, which takes them when it starts."""
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)

    def on_signal(self) -> None:
        """A signal has come."""
        if self.requested:
            self.exit_now()
        self.since = time.monotonic()
        with suppress(OSError):  # a full disk: then the patience ends it
            self.stop_file.touch()
        threading.Thread(target=self._wait, name="last moment", daemon=True).start()

    def exit_now(self) -> None:
        """Ends the process; what the study is stays in its journal."""
        try:
            if (out := terminal.out()).isatty():
                out.write(SHOW_CURSOR)
                out.flush()
            if message := self.exit_message():
                terminal.print_error(message)
        finally:  # whoever listened may be gone
            os._exit(INTERRUPTED)

    def _wait(self) -> None:
        if not self.closed.wait(MAX_EXIT_S):
            self.exit_now()


@contextmanager
def graceful_shutdown(
    stop_file: Path, exit_message: Callable[[], str] = str
) -> Iterator[GracefulShutdown]:
    """Turns the first Ctrl-C or SIGTERM into an orderly end; with the second the process goes."""
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

    threading.Thread(target=read, name="signals", daemon=True).start()
    shutdown.install_handlers()
    try:
        yield shutdown
    finally:
        shutdown.closed.set()
        signal.set_wakeup_fd(descriptor)
        handlers.close()
        for number, handler in before.items():
            signal.signal(number, handler)
        stop_file.unlink(missing_ok=True)
