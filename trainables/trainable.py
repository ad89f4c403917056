"""The Ray Tune trainable that runs a `Trial`."""

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from ray import tune

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.command_line import first_line
from trainables.core.errors import DiskFull, Interrupted, TrialFailed
from trainables.core.files import replace_file
from trainables.core.liveness import die
from trainables.core.metrics import Metrics
from trainables.core.mirror import download, drop_copy
from trainables.core.progress import PROGRESS_FILE, ProgressReporter, progress_to_file
from trainables.training.checkpoints import stop_requested
from trainables.training.trial import Trial, release_memory, save

METRICS, EPOCH = "metrics", "epoch"
"""Keys of a result: the epoch's Metrics as JSON, and the epoch."""
FAILURE, PAUSE, NO_ROOM = "failure", "pause", "no_room"
"""Keys of the reason why a trial failed, was paused, or was paused because a disk is full."""
TRACE = "trace"
"""Key of the traceback of an unexpected error, for the study's log."""
OTHER_STARTS = "other_starts"
"""Key, in a configuration, of the starts of other trials that it may train while it waits."""
HANG_REASON = "last-words.txt"
"""File beside a trial's checkpoints with the reason why the watchdog ended its process."""
GIVEN_OTHERS = "other-starts"
"""File beside a trial's checkpoints: a process of it was given the starts of other trials."""
TRAINING = "training"
"""The task in the progress lines of a trial's own epochs."""


class StudentTrainable(tune.Trainable):
    """Trains `config["trial"]` where `config["run"]` says and leaves its files in `config["out"]`.

    A failed trial reports its reason as its last result, since Ray passes no exception to a
    searcher. A trial whose process died continues from its last checkpoint in
    `config["checkpoints"]` when it is restarted, and repeats its last report. SIGTERM, as from a
    node that is preempted, or a stop file makes it write a checkpoint and stop; a process that was
    told so takes no further trial.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.epochs: Iterator[Metrics] | None = None
        self.progress = ExitStack()
        self.reusable = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: stop_requested.set())

    def step(self) -> dict[str, Any]:
        result = self._next_result()
        if result["done"]:
            self.progress.close()
            for name in ("checkpoints", "out"):
                drop_copy(Path(self.config[name]))
        return result

    def _next_result(self) -> dict[str, Any]:
        try:
            if self.epochs is None:
                path = Path(self.config["checkpoints"]) / PROGRESS_FILE
                self.progress.enter_context(progress_to_file(path))
                self.epochs = start(self.config)
            metrics = next(self.epochs)
        except TrialFailed as failure:
            return {FAILURE: str(failure), "done": True}
        except Interrupted as reason:
            self.reusable = False
            return {PAUSE: str(reason), "done": True}
        except DiskFull as error:
            return {PAUSE: str(error), NO_ROOM: str(error), "done": True}
        except Exception as error:
            if self.config["run"].get("mps") and isinstance(error, torch.AcceleratorError):
                # Another process's fault as likely; Ray starts this one again from its checkpoint
                die(f"the GPU fails, which processes share by MPS: {first_line(error)}")
            self.reusable = False  # a device may be unusable
            named = f"{type(error).__name__}: {error}"
            return {FAILURE: named, TRACE: traceback.format_exc(), "done": True}
        report = metrics.model_dump_json()
        return {METRICS: report, EPOCH: metrics.epoch, "done": metrics.finished}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.epochs = None
        release_memory()
        return self.reusable and not stop_requested.is_set()

    def cleanup(self) -> None:
        self.progress.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass  # a training writes its own checkpoints, between any two steps


def start(config: dict[str, Any]) -> Iterator[Metrics]:
    checkpoints = Path(config["checkpoints"])
    hang_reason = checkpoints / HANG_REASON
    download(hang_reason)
    if hang_reason.is_file():
        raise TrialFailed(hang_reason.read_text())

    def on_hang(reason: str) -> None:
        replace_file(hang_reason, reason)
        die(reason)

    trial = TrialConfig.model_validate(config["trial"])
    run = ExecutionConfig.model_validate(config["run"])
    others = [TrialConfig.model_validate(start) for start in config.get(OTHER_STARTS, ())]
    if (given := checkpoints / GIVEN_OTHERS).exists():
        others = []  # one of them may have ended the process
    elif others:
        replace_file(given, "")
    progress = ProgressReporter(TRAINING, "epoch", trial.num_epochs)
    return save(
        Trial(trial, run, checkpoints, on_hang, progress.update, others), Path(config["out"])
    )
