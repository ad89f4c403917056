"""What the person at the terminal sees while a study runs and when it has ended."""

import os
import shlex
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from search.objectives import named_objectives
from search.plots import human_size
from search.record import Record
from search.report import front_table
from search.study_config import StudyConfig

LOG_WIDTH = 120


class Progress:
    """An Observer: live bars and the current front on a terminal, plain lines in a log."""

    def __init__(self, config: StudyConfig, records: Sequence[Record], num_left: int) -> None:
        self.config = config
        self.objectives = named_objectives(config.objectives)
        self.records = {record.trial_id: record for record in records}
        self.num_done = self.num_refused = 0
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
        self.live: Live | None = None
        self.begin = time.monotonic()
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
        )
        self.trials = self.bars.add_task("trials", total=num_left)
        self.epochs: dict[str, TaskID] = {}

    def say(self, line: str) -> None:
        """One line for both kinds of reader."""
        elapsed = int(time.monotonic() - self.begin)
        self._print(f"[{elapsed // 60:3d}:{elapsed % 60:02d}] {line}")

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live = Live(self._view(), console=self.console, refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.stop()
            self.live = None

    def started(self, record: Record) -> None:
        self.records[record.trial_id] = record
        if self.live:
            assert record.config
            total, name = record.config.num_epochs, f"  trial {record.trial_id}"
            done = record.metrics.epoch if record.metrics else 0
            task = self.bars.add_task(name, total=total, completed=done)
            self.epochs[record.trial_id] = task
        self._refresh()

    def reported(self, record: Record) -> None:
        self.records[record.trial_id] = record
        if record.metrics and record.trial_id in self.epochs:
            task, miou = self.epochs[record.trial_id], record.metrics.miou
            self.bars.update(
                task,
                completed=record.metrics.epoch,
                description=f"  trial {record.trial_id} mIoU {100 * miou:.1f} %",
            )
        self._refresh()

    def ended(self, record: Record) -> None:
        refused = record.trial_id not in self.records  # ended without having started
        self.records[record.trial_id] = record
        if refused:
            self.num_refused += 1
            return
        if record.trial_id in self.epochs:
            self.bars.remove_task(self.epochs.pop(record.trial_id))
        if record.state == "PAUSED":
            epochs = record.metrics.epoch if record.metrics else 0
            self.say(f"trial {record.trial_id} paused after {epochs} epochs")
            return
        self.num_done += 1
        self.bars.update(self.trials, completed=self.num_done)
        self.say(f"trial {record.trial_id} {describe(record)}")
        self._refresh()

    def conclude(self, front: Table, page: str, interrupted: bool) -> None:
        """The front, where everything lies, and what to type next."""
        config = self.config
        folder = config.folder
        if self.num_refused:
            self._print(f"{self.num_refused} suggestions were refused before any training")
        self.console.print(front)
        for name in (
            "front.png",
            "front.html",
            "search.png",
            "front.parquet",
            "trials.parquet",
            "models",
        ):
            self._print(f"{name:15} {folder / name}")
        if config.tracking_uri.startswith("http"):
            self._print(f"compare runs:   {config.tracking_uri}/{page}")
        else:
            store = shlex.quote(config.tracking_uri)
            self._print(f"compare runs:   {launcher()}mlflow ui --backend-store-uri {store}")
            self._print(f"                and open http://127.0.0.1:5000/{page}")
        if interrupted:
            command = [*launcher().split(), "python", *config.resume_arguments]
            self._print(f"interrupted; go on with: {shlex.join(command)}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def _view(self) -> Group:
        return Group(front_table(list(self.records.values()), self.objectives), self.bars)

    def _refresh(self) -> None:
        if self.live:
            self.live.update(self._view())


def launcher() -> str:
    """What to put before commands: under `uv run` nothing of this environment is on the path."""
    return "uv run " if "UV" in os.environ else ""


def describe(record: Record) -> str:
    """How a trial ended, in words."""
    metrics = record.metrics
    if record.state == "COMPLETE" and metrics and metrics.size_bytes:
        size = human_size(metrics.size_bytes)
        halved = " (out of memory at first: batches in two parts)" if metrics.parts > 1 else ""
        return f"mIoU {100 * metrics.miou:.1f} %, {size}, {metrics.device_seconds:.0f} s{halved}"
    return f"{record.state}: {record.reason}"
