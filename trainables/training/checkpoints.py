"""Where a training stands, kept so that it goes on exactly there after its process is gone."""

import hashlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from trainables.config import ExecutionConfig
from trainables.core.errors import Interrupted
from trainables.core.files import replace_file

logger = logging.getLogger(__name__)

State = dict[str, Any]
"""Tensors, numbers and texts in dicts and lists."""
stop_requested = threading.Event()
"""Set, as by a signal, it asks the trainings of this process to leave."""
STOP_FILE_CHECK_S = 0.5
"""Seconds between looks for the file that asks so: on a network disk each takes milliseconds."""
COST_SHARE = 0.05
"""Of the time, that writing checkpoints may take."""
MAX_INTERVAL_FACTOR = 20
"""Times the wanted distance of checkpoints, for those that take long to write."""
NUM_KEPT = 2
"""The last one, and the one before in case that is damaged."""
SUFFIX = ".ckpt"
DIGEST_BYTES = 32


class Checkpoints:
    """The last states of one training in a folder of its own.

    A file is the SHA-256 of the rest and what `torch.save` makes of a state. `key` says what the
    training is: states of another one are not given back. `older_keys` say the same as earlier
    versions did.
    """

    def __init__(self, folder: Path, key: str, *older_keys: str) -> None:
        self.folder, self.key, self.older_keys = folder, key, older_keys

    def save(self, state: State) -> None:
        """Writes a state; until it is whole the ones before stay.

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
            old.unlink(missing_ok=True)

    def load(self) -> State | None:
        """The newest whole state of this training, or None."""
        for path in reversed(self._files()):
            state = read_checkpoint(path, self.key, *self.older_keys)
            if state is not None:
                return state
        return None

    def clear(self) -> None:
        """Deletes all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


class CheckpointManager:
    """Keeps a training's checkpoints: when one is due, and when the training is asked to leave.

    Writing takes a small share of the time: large ones are farther apart. A full disk does not
    end a training: until there is room again, it goes on without.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        run: ExecutionConfig,
        state: Callable[[], State | None],
    ) -> None:
        """`state` gives what is to be kept, or None while there is nothing."""
        self.checkpoints, self.run, self.state = checkpoints, run, state
        self.last, self.cost_s = time.monotonic(), 0.0
        self.looked = -math.inf

    def restore(self) -> State | None:
        """The last state of this training, if there is one."""
        return self.checkpoints.load() if self.checkpoints else None

    def clear(self) -> None:
        """Deletes all checkpoints."""
        if self.checkpoints:
            self.checkpoints.clear()

    def on_step_end(self) -> None:
        """To be called between two steps.

        Raises:
            Interrupted: the training was asked to leave, and where it stands is kept.
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
        if self.run.stop_file is None or now - self.looked < STOP_FILE_CHECK_S:
            return False
        self.looked = now
        return self.run.stop_file.exists()

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


def read_checkpoint(path: Path, *keys: str) -> State | None:
    """The state in a file; None where that is damaged, or of a training with none of `keys`."""
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
