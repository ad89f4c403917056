"""When a driver is killed: at a moment recognised by its files and output, or at random."""

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from search.storage.journal import read_journal
from search.storage.layout import (
    DIAGNOSTICS_PLOT,
    JOURNAL,
    STUDY_FILE,
    TRIALS_TABLE,
    artifact_folder,
    checkpoint_folder,
)
from search.storage.trials import trial_name

RANDOM = "any moment"
POLL_S = 0.001
PATIENCE_S = 300.0


class Watched:
    """A driver's process, its output so far, and the content of its folders."""

    def __init__(self, argv: list[str], folder: Path, resumed: bool) -> None:
        self.folder, self.resumed, self.begin = folder, resumed, time.time()
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.readers = [
            threading.Thread(target=lambda pipe=pipe, kept=kept: kept.extend(pipe), daemon=True)
            for pipe, kept in (
                (self.process.stdout, self.lines),
                (self.process.stderr, self.errors),
            )
        ]
        for reader in self.readers:
            reader.start()

    def kill_at(self, wanted: str, delay_s: float) -> str | None:
        """Kills it at a moment, or at random after `delay_s` or after the timeout.

        Gives the moment at which it was, None where it had ended before.
        """
        moment = RANDOM
        deadline = time.time() + (delay_s if wanted == RANDOM else PATIENCE_S)
        while self.process.poll() is None and time.time() < deadline:
            if wanted != RANDOM and IS_NOW[wanted](self):
                moment = wanted
                break
            time.sleep(POLL_S)
        if self.process.poll() is not None:
            self.finish()
            return None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return moment

    def finish(self) -> None:
        """Waits for its end."""
        self.process.wait()
        for reader in self.readers:
            reader.join()

    def problems(self) -> list[str]:
        """The problems of how it ended."""
        if self.process.returncode == 0:
            return []
        return [f"exit status {self.process.returncode}: {''.join(self.errors).strip()}"]

    def said(self, words: str) -> bool:
        return any(words in line for line in list(self.lines))

    def holds(self, pattern: str) -> bool:
        """Whether a file of this name is in the storage now."""
        return any(True for _ in self.folder.parent.glob(pattern))

    def is_new(self, name: str) -> bool:
        """Whether this driver has written a file of the study."""
        try:
            return (self.folder / name).stat().st_mtime > self.begin
        except OSError:
            return False


IS_NOW: dict[str, Callable[[Watched], bool]] = {
    "start-up": lambda driver: driver.folder.exists() and time.time() - driver.begin > 5,
    "packing": lambda driver: driver.holds("artifacts/.data-*-*"),
    "the teacher's training": lambda driver: driver.holds("artifacts/.student-*-checkpoints/*"),
    "a trial's first epochs": lambda driver: driver.said("trial 0000"),
    "a checkpoint": lambda driver: driver.holds(f"{driver.folder.name}/checkpoints/*/.*"),
    "the journal": lambda driver: os.path.lexists(driver.folder / f"{JOURNAL}.lock"),
    "the final report": lambda driver: driver.is_new(TRIALS_TABLE),
    "the last delivery to MLflow": lambda driver: driver.is_new(DIAGNOSTICS_PLOT),
    "a resume": lambda driver: driver.resumed and driver.said("data:"),
}
"""Each within milliseconds of being true."""
LATE = {"the final report", "the last delivery to MLflow"}
MOMENTS = [*IS_NOW, RANDOM]
WEIGHTS = {RANDOM: 3}
"""Kills at a moment for one at any other."""


def rarest(kills: Counter[str], folder: Path, is_late: bool) -> str:
    """Of the moments that may still come, the one with the fewest kills so far."""
    barred = {"start-up"} if (folder / STUDY_FILE).exists() else {"a resume"}
    if any(folder.parent.glob("artifacts/data-*")):
        barred |= {"packing"}
    if any(folder.parent.glob("artifacts/student-*")):
        barred |= {"the teacher's training"}
    possible = [m for m in MOMENTS if m not in barred and (is_late or m not in LATE)]
    return min(possible, key=lambda moment: kills[moment] / WEIGHTS.get(moment, 1))


@dataclass(frozen=True)
class Loss:
    """What a kill costs.

    `seconds` have passed, in all, since each training was last kept; `num_unkept` trainings were
    asked for and not kept yet in their driver's life: they wait for a process or for their start,
    or have run for less than a checkpoint's time.
    """

    seconds: float
    num_unkept: int


def loss(folder: Path, begin: float, now: float) -> Loss:
    """What is lost when a driver that began then is killed now."""
    unfinished = [newest(p) for p in artifact_folder(folder.parent).glob(".student-*-checkpoints")]
    trials: list[FrozenTrial] = []
    with suppress(ValueError):  # killed before there was a trial
        trials = read_journal(folder, folder.name).get_trials(states=(TrialState.RUNNING,))
    own = [newest(checkpoint_folder(folder, trial_name(trial.number))) for trial in trials]
    kept = [time for time in (*unfinished, *own) if time > begin]
    seconds = sum(max(0.0, now - time) for time in kept)  # a training outlives its driver a moment
    return Loss(seconds, sum(time <= begin for time in own))


def newest(folder: Path) -> float:
    """When the last checkpoint in a folder was written; 0 where there is none."""
    times = [0.0]
    for path in folder.glob("*.ckpt"):
        with suppress(FileNotFoundError):  # the third newest is deleted
            times.append(path.stat().st_mtime)
    return max(times)
