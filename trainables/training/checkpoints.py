"""Checkpoints, from which a training continues exactly after its process has ended."""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from trainables.config import ExecutionConfig
from trainables.core.errors import Interrupted
from trainables.core.files import replace_file
from trainables.core.mirror import delete, download_folder, exists, is_mirrored, wait_until_visible

logger = logging.getLogger(__name__)

State = dict[str, Any]
"""Tensors, numbers and strings in dicts and lists."""
stop_requested = threading.Event()
"""When it is set, as by a signal, the trainings of this process stop."""
STOP_FILE_CHECK_S = 0.5
"""Seconds between checks for stop files: on a network disk each takes milliseconds."""
REMOTE_CHECK_S = 2.0
"""The same for an object store, where each takes tens of milliseconds and costs money."""
COST_SHARE = 0.05
"""Maximum share of the time that is spent on writing checkpoints."""
MAX_INTERVAL_FACTOR = 20
"""Maximum interval of checkpoints that take long to write, as a multiple of the requested one."""
NUM_KEPT = 2
"""The number of checkpoints kept: the last, and the one before in case it is damaged."""
SUFFIX = ".ckpt"
DIGEST_BYTES = 32


class Checkpoints:
    """The checkpoints of one training, in its own folder.

    A file is a SHA-256 of the rest, followed by a state in the format of `torch.save`. `key`
    identifies the training: states of another training are not loaded. `older_keys` are the keys
    of the same training in earlier versions.
    """

    def __init__(self, folder: Path, key: str, *older_keys: str) -> None:
        self.folder, self.key, self.older_keys = folder, key, older_keys

    def save(self, state: State) -> None:
        """Writes a state; earlier states are deleted once it is complete.

        Raises:
            OSError: it cannot be written, as on a full disk.
        """
        buffer = BytesIO()
        torch.save({"key": self.key, "state": state}, buffer)
        content = buffer.getvalue()
        files = self._files()
        number = 1 + int(files[-1].stem) if files else 0
        path = self.folder / f"{number:08d}{SUFFIX}"
        replace_file(path, hashlib.sha256(content).digest() + content)
        for old in [*files, path][:-NUM_KEPT]:
            delete(old)

    def load(self) -> State | None:
        """The newest intact state of this training, or None.

        Raises:
            OSError: the object store with the checkpoints does not answer.
        """
        wait_until_visible(self.folder)
        download_folder(self.folder, is_checkpoint, recursive=False)
        for path in reversed(self._files()):
            state = read_checkpoint(path, self.key, *self.older_keys)
            if state is not None:
                return state
        return None

    def clear(self) -> None:
        """Deletes all states."""
        with suppress(OSError):  # of an object store that does not answer
            delete(self.folder)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*") if is_checkpoint(path.name))


def is_checkpoint(name: str) -> bool:
    """Whether a file's name is that of a checkpoint."""
    return name.endswith(SUFFIX) and name.removesuffix(SUFFIX).isdigit()


class CheckpointManager:
    """Writes a training's checkpoints at intervals, and when the training is asked to stop.

    Writing takes a limited share of the time, so that the interval grows with the size. A full disk
    does not end a training, which continues without checkpoints until there is space.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        run: ExecutionConfig,
        state: Callable[[], State | None],
    ) -> None:
        """`state` gives the state for a checkpoint, or None while there is none."""
        self.checkpoints, self.run, self.state = checkpoints, run, state
        self.last, self.cost_s = time.monotonic(), 0.0
        self.looked = -math.inf
        self.found: Future[bool] | None = None
        """Whether there is a stop file, as soon as the object store has answered."""

    def restore(self) -> State | None:
        """The last state of this training, if there is one."""
        return self.checkpoints.load() if self.checkpoints else None

    def clear(self) -> None:
        """Deletes all checkpoints."""
        if self.checkpoints:
            self.checkpoints.clear()

    def on_step_end(self) -> None:
        """Must be called between two steps; writes a checkpoint if one is due.

        Raises:
            Interrupted: the training was asked to stop, and a checkpoint was written.
        """
        now = time.monotonic()
        if self._is_stop_requested(now):
            self._save()
            raise Interrupted("asked to leave")
        every_s = self.run.checkpoint_every_s
        if now - self.last >= max(
            every_s, min(self.cost_s / COST_SHARE, MAX_INTERVAL_FACTOR * every_s)
        ):
            self._save()

    def _is_stop_requested(self, now: float) -> bool:
        if stop_requested.is_set():
            return True
        files = self.run.stop_files
        every_s = REMOTE_CHECK_S if any(map(is_mirrored, files)) else STOP_FILE_CHECK_S
        if now - self.looked < every_s:
            return False
        self.looked = now
        if every_s == STOP_FILE_CHECK_S:
            return any(map(exists, files))
        # Requests take tens of milliseconds, or a minute without answers: training does not wait
        if self.found is not None and self.found.done():
            if self.found.result():
                return True
            self.found = None
        if self.found is None:
            self.found = look(files)
        return False

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        begin = time.monotonic()
        if (state := self.state()) is None:
            return
        try:
            self.checkpoints.save(state)
        except OSError as error:
            logger.warning("no checkpoint: %s", error)
        self.last = time.monotonic()
        self.cost_s = self.last - begin


def leave_if_asked(run: ExecutionConfig) -> None:
    """Raises Interrupted where the trainings of `run` are asked to stop."""
    if stop_requested.is_set() or any(map(exists, run.stop_files)):
        raise Interrupted("asked to leave")


def look(files: Sequence[Path]) -> Future[bool]:
    """Has another thread look whether one of these files is there."""
    answer: Future[bool] = Future()

    def work() -> None:
        answer.set_result(any(map(exists, files)))

    threading.Thread(target=work, name="stop files", daemon=True).start()
    return answer


def read_checkpoint(path: Path, *keys: str) -> State | None:
    """The state in a file; None where the file is damaged or its key is none of `keys`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, rest = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(rest).digest() != digest:
        return None
    kept = torch.load(BytesIO(rest), map_location="cpu", weights_only=True)
    state: State | None = kept["state"] if kept["key"] in keys else None
    return state
