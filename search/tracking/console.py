"""Console output of a study: progress while it runs, and the front when it has ended."""

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from search.analysis.tables import front_table
from search.analysis.teacher_lead import weak_teacher_of_students
from search.core.config import StudyConfig
from search.core.objectives import named_objectives
from search.core.parameter_names import written_params
from search.core.pareto import mious_within, pareto_front
from search.core.record import Record
from search.core.tracking_uri import default_tracking_uri
from search.storage.layout import (
    DIAGNOSTICS_PLOT,
    FRONT_PAGE,
    FRONT_PLOT,
    FRONT_TABLE,
    LOG,
    MODELS,
    TRIALS_TABLE,
)
from search.tracking.remaining_time import RemainingTime, write_left
from trainables.core import terminal
from trainables.core.metrics import Metrics
from trainables.core.progress import human_duration
from trainables.core.units import human_size
from trainables.data.configs import LabelSize

BARS, SPARKS = "▁▂▃▄▅▆▇█", 12
"""Bars of a sparkline, and the number of values that it shows."""
LEFT_WIDTH, SPARK_WIDTH, LONG_WIDTH, BAR_WIDTH = 60, 75, 95, 120
"""Characters of a terminal from which it shows what is left, sparklines, more words, and bars."""


class ConsoleProgress:
    """A `Callback`: progress bars and the current front on a terminal, plain lines in a log."""

    def __init__(
        self,
        config: StudyConfig,
        records: Sequence[Record],
        num_left: int,
        label_size: LabelSize = "own",
    ) -> None:
        self.config, self.label_size = config, label_size
        self.objectives = named_objectives(config.objectives)
        self.records = {record.trial_id: record for record in records}
        self.num_done = self.num_refused = 0
        self.teacher_miou: float | None = None
        """Of the teacher, once it is known and as long as no student has come near it."""
        self.console = Console(file=terminal.out(), highlight=False, width=terminal.out_width())
        self.live: Live | None = None
        self.begin = time.monotonic()
        self.remaining = RemainingTime(num_left, config.time_budget_s)
        self.bars = Bars(*bar_columns(self.console.width), console=self.console)
        self.trials = self.bars.add_task("trials", total=num_left, left="")
        self.epochs: dict[str, TaskID] = {}
        self.begun = set[str]()
        """The trials that this driver has begun, or gone on with."""

    def say(self, line: str) -> None:
        """Prints one line, with the elapsed time, on a terminal or in a log, if that is wanted."""
        if terminal.is_wanted(line):
            self._print(f"{elapsed_since(self.begin)} {line}")

    def record(self, line: str) -> None:
        """The same, and also writes the line to the study's log."""
        self.say(line)
        terminal.write_log(line)

    def __enter__(self) -> Self:
        self.remaining.start()
        if self.console.is_terminal and terminal.verbosity != "quiet":
            # Output of libraries belongs in the log, not above the progress bars
            self.live = Live(
                self._view(),
                console=self.console,
                refresh_per_second=4,
                transient=True,  # what it shows is said again at the end
                redirect_stdout=False,
                redirect_stderr=False,
            )
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
        if record.trial_id not in self.begun:
            self.remaining.trained_before += share_of(record)
            self.begun.add(record.trial_id)
        if self.live:
            assert record.config
            total, name = record.config.num_epochs, f"  trial {record.trial_id}"
            done = record.metrics.epoch if record.metrics else 0
            task = self.bars.add_task(name, total=total, completed=done)
            self.epochs[record.trial_id] = task
        if terminal.verbosity == "verbose":
            asked = ", ".join(f"{k} {v}" for k, v in written_params(record.params).items())
            self.say(f"trial {record.trial_id} begins: {asked or 'nothing is sampled'}")
        self._refresh()

    def reported(self, record: Record) -> None:
        self.records[record.trial_id] = record
        if record.metrics and record.trial_id in self.epochs:
            mious = [metrics.miou for metrics in record.history] or [record.metrics.miou]
            curve = f" {sparkline(mious)}" if self.console.width >= SPARK_WIDTH else ""
            self.bars.update(
                self.epochs[record.trial_id],
                completed=record.metrics.epoch,
                description=f"  trial {record.trial_id} mIoU {100 * mious[-1]:.1f} %{curve}",
            )
            self._update_study()
        if record.metrics and record.config and terminal.verbosity == "verbose":
            epoch = describe_epoch(record.metrics, record.config.num_epochs)
            self.say(f"trial {record.trial_id} {epoch}")
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
        self._update_study()
        left = write_left(self.seconds_left())
        count = f"{self.num_done} of {self.remaining.num_trials}{left and ', '}{left}"
        self.say(f"trial {record.trial_id} {describe_outcome(record)} ({count})")
        if self.teacher_miou is not None and (
            warning := weak_teacher_of_students(self.teacher_miou, [record])
        ):
            self.record(warning)
            self.teacher_miou = None
        self._refresh()

    def conclude(self, records: Sequence[Record], page: str, interrupted: bool) -> None:
        """Prints the front, the paths of the results, and the next commands."""
        config = self.config
        folder = config.folder
        if self.num_refused:
            self._print(f"{self.num_refused} suggestions were refused before any training")
        self.console.print(self._table(records))
        if within := mious_within(records):
            best = ", ".join(f"{kb} KB {100 * miou:.1f} %" for kb, miou in within.items())
            self._print(f"best mIoU within {best}")
        for name in (
            FRONT_PLOT,
            FRONT_PAGE,
            DIAGNOSTICS_PLOT,
            FRONT_TABLE,
            TRIALS_TABLE,
            MODELS,
            LOG,
        ):
            if (folder / name).exists():
                self._print(f"{name:15} {folder / name}")
        if front := pareto_front(records, self.objectives):
            self._say_export(max(front, key=lambda r: r.metrics.miou if r.metrics else 0).trial_id)
        for line in say_runs(config.tracking_uri, config.storage, page):
            self._print(line)
        if interrupted:
            command = [*launcher().split(), "python", *config.resume_arguments]
            self._print(f"interrupted; go on with: {shlex.join(command)}")

    def _update_study(self) -> None:
        """Shows on the bar of the study the device seconds so far, and what is left."""
        seconds = sum(r.metrics.device_seconds for r in self.records.values() if r.metrics)
        self.bars.update(
            self.trials,
            completed=self.num_done,
            description=f"trials, {seconds:,.0f} device s",
            left=write_left(self.seconds_left(), short=self.console.width < LONG_WIDTH),
        )

    def seconds_left(self) -> float | None:
        """Seconds until all trials have ended, 0 after the last one."""
        running = sum(share_of(r) for r in self.records.values() if r.state == "RUNNING")
        return self.remaining.seconds(self.num_done, running)

    def _say_export(self, trial_id: str) -> None:
        """Prints the commands that export a point and use the exported file."""
        folder, python = self.config.folder, [*launcher().split(), "python", "-m"]
        export = ["search.export", str(folder), "--trial", trial_id, "--out", "exported"]
        model = f"exported/{folder.name}-{trial_id}.safetensors"
        predict = ["search.predict", model, "IMAGES", "--out", "masks"]
        self._print(f"export a point: {shlex.join([*python, *export])}")
        self._print(f"and use it:     {shlex.join([*python, *predict])}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, soft_wrap=True)

    def _view(self) -> Group:
        return Group(self._table(list(self.records.values())), self.bars)

    def _table(self, records: Sequence[Record]) -> Table:
        return front_table(records, self.objectives, self.console.width, self.label_size)

    def _refresh(self) -> None:
        if self.live:
            self.live.update(self._view())


def elapsed_since(begin: float) -> str:
    """Minutes and seconds since a time of the monotonic clock, such as [  1:05]."""
    elapsed = int(time.monotonic() - begin)
    return f"[{elapsed // 60:3d}:{elapsed % 60:02d}]"


def say_runs(tracking_uri: str, storage: Path, page: str) -> list[str]:
    """Lines that say where MLflow shows the runs."""
    if tracking_uri.startswith("http"):
        return [f"compare runs:   {tracking_uri}/{page}"]
    if tracking_uri == default_tracking_uri(storage):
        command = [*launcher().split(), "python", "-m", "search.ui", str(storage)]
        return [f"compare runs:   {shlex.join(command)}"]
    store = shlex.quote(tracking_uri)
    return [
        f"compare runs:   {launcher()}mlflow ui --backend-store-uri {store}",
        f"                and open http://127.0.0.1:5000/{page}",
    ]


def bar_columns(width: int) -> list[ProgressColumn]:
    """The columns of a progress bar that a terminal of this width has room for."""
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), MofNCompleteColumn()]
    if width >= LEFT_WIDTH:
        columns.append(LeftColumn())
    if width >= BAR_WIDTH:
        columns.insert(1, BarColumn())
    return columns


def share_of(record: Record) -> float:
    """The share of a trial's epochs that it has reported."""
    if record.config is None or record.metrics is None:
        return 0.0
    return record.metrics.epoch / record.config.num_epochs


class LeftColumn(ProgressColumn):
    """The time that is left: of the study as the task says, of a trial by its rate so far."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        if left is None:
            seconds = task.time_remaining
            left = f"{human_duration(seconds)} left" if seconds and not task.finished else ""
        return Text(left, no_wrap=True)


def sparkline(values: Sequence[float]) -> str:
    """The last of some values as a line of bars, from the least to the greatest."""
    shown = values[-SPARKS:]
    low, high = min(shown), max(shown)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0
    return "".join(BARS[round((value - low) * scale)] for value in shown)


def launcher() -> str:
    """The prefix of commands: under `uv run`, this environment's programs are not on the path."""
    return "uv run " if "UV" in os.environ else ""


def describe_epoch(metrics: Metrics, num_epochs: int) -> str:
    """What a trial reports after an epoch, in words."""
    losses = [f"{name} {value:.3g}" for name, value in metrics.losses.items()]
    miou, seconds = f"mIoU {100 * metrics.miou:.1f} %", f"{metrics.device_seconds:.0f} s"
    return f"epoch {metrics.epoch} of {num_epochs}: {', '.join([miou, seconds, *losses])}"


def describe_outcome(record: Record) -> str:
    """How a trial ended, in words."""
    metrics = record.metrics
    if record.state == "COMPLETE" and metrics and metrics.size_bytes:
        size = human_size(metrics.size_bytes)
        halved = " (out of memory at first: batches in two parts)" if metrics.parts > 1 else ""
        missed = ""
        if metrics.classes_never_predicted:
            missed = f", ! {metrics.share_never_predicted} classes never predicted"
        seconds = f"{metrics.device_seconds:.0f} s"
        return f"mIoU {100 * metrics.miou:.1f} %, {size}, {seconds}{missed}{halved}"
    return f"{record.state}: {record.reason}"
