"""A lock for processes of one machine or of several, which the storage that they share holds."""

import atexit
import logging
import math
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from trainables.core.mirror import Remote, cache_of, remote_of

log = logging.getLogger(__name__)
RENEWED_EVERY_S = 20.0
"""Seconds after which the holder of a lock of an object store writes its claim again."""
STALE_S = 90.0
"""Seconds after which a claim that was not renewed is that of a process that is gone."""


class SharedLock(Protocol):
    """What is used of a `FileLock`."""

    @property
    def is_locked(self) -> bool: ...

    def acquire(self, timeout: float | None = None) -> Any:
        """Raises `filelock.Timeout` where another holds it for so many seconds."""

    def release(self) -> None: ...


def shared_lock(path: Path, on_lost: Callable[[], None] = lambda: None) -> SharedLock:
    """A lock at a path, which is not acquired; in a mirror it is one of the object store.

    `on_lost` is called from another thread where another machine has taken the lock, as after this
    one was suspended for minutes.

    Raises:
        OSError: the object store does not answer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remote = remote_of(path)
    if remote is None:
        return FileLock(path)
    if remote.is_shared_folder:
        Path(remote.key).parent.mkdir(parents=True, exist_ok=True)
        return FileLock(remote.key)
    return ClaimLock(path, remote, on_lost)


class ClaimLock:
    """A lock that a claim in an object store holds, one among all machines.

    On this machine it is a file lock. Its holder writes a claim, an object with a name of its own,
    and holds the lock if it then sees no other claim; otherwise it takes the claim back and tries
    again. As each write is seen by all later listings, of two that claim at once at least one sees
    the other. Claims are renewed, and those that are not are those of lost machines. Their age is
    the difference of two times of the object store.

    There is a claim for each cache: who holds the lock of its file knows that none of it lives.
    """

    def __init__(
        self, path: Path, claims: Remote, on_lost: Callable[[], None] = lambda: None
    ) -> None:
        self.file, self.claims, self.claim = FileLock(path), claims, identity_of(cache_of(path))
        self.on_lost = on_lost
        self.claimed = -math.inf
        """When it was tried last, by the clock of this process."""
        self.renewal: tuple[threading.Event, threading.Thread] | None = None

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock."""
        return self.renewal is not None

    def acquire(self, timeout: float | None = None) -> None:
        """Waits for the lock, at most `timeout` seconds.

        Raises:
            Timeout: another holds it.
            OSError: the object store does not answer.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        self.file.acquire(timeout)
        try:
            while True:
                # Who waits only looks, but for now and then: many that claim keep one another out
                is_due = time.monotonic() - self.claimed > RENEWED_EVERY_S
                if is_due or not self.claims.files():
                    self.claimed = time.monotonic()
                    if self._is_mine():
                        break
                if (left := end - time.monotonic()) <= 0:
                    raise Timeout(self.claims.key)
                time.sleep(min(left, random.uniform(0.5, 1.5)))
        except BaseException:
            self.file.release()
            raise
        released = threading.Event()
        thread = threading.Thread(target=self._renew, args=(released,), daemon=True)
        thread.start()
        self.renewal = released, thread
        atexit.register(self.release)

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self.renewal is not None:
            released, thread = self.renewal
            self.renewal = None
            released.set()
            thread.join()  # else it may write the claim again
            atexit.unregister(self.release)
            try:
                self._withdraw()
            finally:
                self.file.release()

    def _is_mine(self) -> bool:
        self._write()
        written = {name: info.mtime_ns for name, info in self.claims.files().items()}
        mine = written.pop(self.claim, None)
        if mine is None:  # another took it for that of a lost machine
            return False
        stale = [name for name, time_ns in written.items() if (mine - time_ns) / 1e9 > STALE_S]
        if len(stale) < len(written):
            self._withdraw()
            return False
        for name in stale:
            self.claims.child(name).delete()
        return True

    def _renew(self, released: threading.Event) -> None:
        while not released.wait(RENEWED_EVERY_S):
            with suppress(OSError):
                if self.claim not in self.claims.files():
                    self.on_lost()
                    return
                self._write()

    def _write(self) -> None:
        self.claims.child(self.claim).write(b"claimed")

    def _withdraw(self) -> None:
        try:
            self.claims.child(self.claim).delete()
        except OSError as error:
            log.warning("the claim %s is left: %s", self.claims.key, error)


def is_held(path: Path) -> bool:
    """Whether a claim for the lock of a mirror was lately renewed, by the clock of this machine."""
    remote = remote_of(path)
    assert remote is not None
    return any(time.time() - info.mtime_ns / 1e9 < STALE_S for info in remote.files().values())


def identity_of(cache: Path) -> str:
    """A random name of a cache on this machine, which stays the same."""
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / f".identity-{socket.gethostname()}"
    with FileLock(file.with_suffix(".lock")):
        if not (file.is_file() and file.read_text()):
            file.write_text(uuid.uuid4().hex)
        return file.read_text()
