"""Runs a comparison from its first training to its report."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from search.analysis.comparison_plot import draw_comparison
from search.analysis.comparison_summary import ArmSummary, summarize, summary_metrics
from search.analysis.comparison_table import (
    comparison_markdown,
    comparison_table,
    describe_failures,
    warn_of_missing_classes,
    write_trainings,
)
from search.analysis.teacher_lead import weak_teacher_of_twins
from search.comparison.preparation import Comparison
from search.core.comparison import OWN_FIELDS, plan_trainings, varying_leaves
from search.core.comparison_config import COMPARE
from search.core.config import HOW
from search.core.networks import named_teachers, teacher_source, weight_sources
from search.core.record import Record
from search.execution.card_shares import CardShares
from search.execution.parallel import ParallelTraining
from search.execution.places import TrialPlaces, places_of
from search.execution.restart import is_stop_requested
from search.execution.session import RemoteRunner, connect
from search.execution.shutdown import INTERRUPTED, GracefulShutdown, graceful_shutdown
from search.storage.layout import (
    COMPARISON_FILE,
    COMPARISON_PLOTS,
    COMPARISON_TABLE,
    COMPARISON_TEXT,
    STOP_FILE,
    mlflow_artifact_folder,
)
from search.storage.mirrored_studies import upload_log
from search.study.prerequisites import by_memory, execution_config
from search.study.report import teacher_numbers, tracking_timeout_s
from search.tracking.callbacks import AsyncCallback, run_with_timeout
from search.tracking.console import describe_outcome, elapsed_since, say_runs
from search.tracking.mlflow import MlflowTracker, class_metrics, data_tags, experiment_name
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core import terminal
from trainables.core.artifacts import Artifact, present
from trainables.core.config_base import flatten_tree
from trainables.core.errors import TrialFailed
from trainables.core.files import replace_file
from trainables.core.flags import written_values
from trainables.core.metrics import Metrics
from trainables.models.model_file import METRICS_FILE
from trainables.teachers.averaging import choose_averaging
from trainables.training.setup import (
    OutputMode,
    output_mode,
    say_data,
    say_unlabelled,
    set_up_teacher,
    set_up_teacher_outputs,
    set_up_weights,
)
from trainables.training.teacher import Teacher
from trainables.training.teacher_metrics import describe_teacher_metrics
from trainables.training.trial import train_or_find

CONTINUATION = "interrupted; the same command goes on where it stood"


class ComparisonSession:
    """One driver's work on a comparison; `records` are by the digests of configurations."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison, self.config = comparison, comparison.config
        self.records: dict[str, Record] = {}
        self.begin = time.monotonic()
        self.teacher: Teacher | None = None
        self.teacher_outputs: OutputMode = "live"
        """Both once they are prepared."""
        self.tracking = MlflowTracker(
            self.config.tracking_uri,
            experiment=experiment_name(self.config.data, comparison.data),
            study_name=self.config.name,
            study_id=comparison.file.id,
            artifact_root=mlflow_artifact_folder(self.config.storage),
            tags={"kind": "comparison", **data_tags(comparison.unlabelled)},
            class_names=comparison.data.class_names,
            settings={
                **written_values(self.config, (COMPARE, HOW)),
                **{f"version.{name}": v for name, v in comparison.file.versions.items()},
            },
        )

    def run(self, resume_arguments: Sequence[str]) -> int:
        """Trains what is left, reports, and gives the exit status of the command.

        Raises:
            OSError: a disk is full, or Ray does not start.
            TrialFailed: the teacher learned nothing.
        """
        try:
            return self._run(resume_arguments)
        finally:
            with suppress(OSError):
                upload_log(self.config.folder)

    def _run(self, resume_arguments: Sequence[str]) -> int:
        comparison, interrupted = self.comparison, is_stop_requested()
        say_data(comparison.data, comparison.was_packed, comparison.notes, self.say)
        say_unlabelled(comparison.unlabelled, self.say)
        if not interrupted:
            stop_file = self.config.folder / STOP_FILE
            try:
                with (
                    graceful_shutdown(stop_file, lambda: CONTINUATION) as shutdown,
                    connect(resume_arguments, shutdown),
                ):
                    self.train(shutdown)
            except KeyboardInterrupt:
                interrupted = True
        if interrupted:
            self.tell_end([], {}, "", interrupted=True)
            terminal.print_error(CONTINUATION)
            return INTERRUPTED
        return 0 if any(summary.difference for summary in self.report()) else 1

    def say(self, line: str) -> None:
        """Prints one line with the elapsed time."""
        terminal.print_line(f"{elapsed_since(self.begin)} {line}")

    def train(self, shutdown: GracefulShutdown) -> None:
        """Trains full-precision students, then those that start from them."""
        run, places = self.prepare(shutdown)
        trainings = plan_trainings(self.comparison.arms)
        configs = [config for arm in self.comparison.arms for config in arm.configs]
        compared, varying = {config.digest() for config in configs}, varying_leaves(configs)
        train = ParallelTraining(
            partial(train_or_find, each_epoch=True),
            run,
            places,
            shutdown,
            self.config.folder,
            self.say,
        )
        callback = AsyncCallback(self.tracking)

        def on_end(name: str, outcome: Artifact | TrialFailed) -> None:
            record = make_record(name, trainings[name], outcome, varying)
            self.records[trainings[name].digest()] = record
            self.say(f"{name}: {describe_outcome(record)}")
            if trainings[name].digest() in compared:
                callback.replayed(record)

        try:
            train({name: c for name, c in trainings.items() if c.start is None}, on_end)
            quantized = {name: c for name, c in trainings.items() if c.start is not None}
            for name, reason in self.failed_starts(quantized).items():
                on_end(name, TrialFailed(f"{reason} (its full-precision start)"))
                del quantized[name]
            train(quantized, on_end)
        finally:
            self.say("delivering the record to MLflow")
            timeout_s = tracking_timeout_s(shutdown.requested)
            self.tracking.is_behind = not callback.close(timeout_s)

    def failed_starts(self, trainings: dict[str, TrialConfig]) -> dict[str, str]:
        """By the name of a training, why its start failed."""
        starts = {name: self.records[c.start.digest()] for name, c in trainings.items() if c.start}
        return {name: start.reason for name, start in starts.items() if start.state == "FAIL"}

    def prepare(self, shutdown: GracefulShutdown) -> tuple[ExecutionConfig, TrialPlaces]:
        """Prepares weights, the teacher and its outputs, and where trainings run."""
        comparison, config, trials = self.comparison, self.config, self.comparison.trials
        run = execution_config(comparison, shutdown)
        remote = RemoteRunner(config, shutdown, self.say)
        places = places_of(config)
        set_up_weights(
            run, comparison.students, weight_sources(config), self.say, named_teachers(config)
        )
        if any(trial.needs_teacher for trial in trials):
            wanted = output_mode(config.teacher_outputs, trials, self.say, config.teacher_size)
            averaging = choose_averaging(
                config.teacher_seeds, config.teacher_flip, is_live=wanted == "live"
            )
            own, source = self.own_teacher_config(), teacher_source(config)
            run, self.teacher = set_up_teacher(
                run, config.teacher, own, self.say, remote, source, averaging
            )
            augmentation = trials[0].augmentation
            run, self.teacher_outputs = set_up_teacher_outputs(
                run, wanted, augmentation, self.say, remote
            )
        if config.gpus_per_trial == "auto":
            places.shares = CardShares(config, by_memory(comparison, trials), self.say, remote, run)
        return run, places

    def own_teacher_config(self) -> TrialConfig:
        """The teacher where no trained one is named: a student as it came, or one to train.

        It is trained twice as long as its students, or as long as the defaults say if that is less,
        and no shorter than its students.
        """
        comparison, defaults, length = self.comparison, self.comparison.defaults, self.config.epochs
        longest = defaults.num_epochs(defaults.teacher_steps, len(comparison.data.train))
        students = (*self.config.students, *comparison.students)  # that of --compress comes first
        teacher_length = max(length, min(longest, 2 * length))
        return defaults.own_teacher_config(students, length, seed=0, teacher_epochs=teacher_length)

    def report(self) -> list[ArmSummary]:
        """Writes and prints tables and figure, and tells MLflow; gives what is in the table."""
        self.say("writing the report")
        comparison, folder = self.comparison, self.config.folder
        steps, title = comparison.steps_per_epoch, self.title()
        summaries = summarize(comparison.arms, self.records)
        class_names = comparison.data.class_names
        write_trainings(comparison.arms, self.records, steps, folder, class_names)
        numbers, about_teacher, warnings = summary_metrics(summaries), list[str](), list[str]()
        if self.teacher:
            metrics = self.teacher.metrics
            numbers |= teacher_numbers(metrics, class_metrics(class_names))
            warnings = weak_teacher_of_twins(self.teacher.miou, summaries)
            about_teacher = [*describe_teacher_metrics(metrics, class_names), *warnings]
        page = comparison_markdown(summaries, title, self.conditions(), steps, about_teacher)
        replace_file(folder / COMPARISON_TEXT, page)
        draw_comparison(summaries, folder, title)
        self.print_summaries(summaries, title)
        for line in (*warn_of_missing_classes(summaries), *warnings):
            terminal.print_line(line)
        names = (COMPARISON_TEXT, COMPARISON_TABLE, *COMPARISON_PLOTS, COMPARISON_FILE)
        files = [folder / name for name in names]
        self.tell_end(files, numbers, page, interrupted=False)
        for file in files:
            terminal.print_line(f"{file.name:19} {file}")
        for line in say_runs(self.config.tracking_uri, self.config.storage, self.tracking.page):
            terminal.print_line(line)
        return summaries

    def tell_end(
        self, files: Sequence[Path], metrics: dict[str, float], note: str, interrupted: bool
    ) -> None:
        """Tells MLflow the end; says so where it lacks part of the record."""
        if not self.tracking.is_behind:
            end = partial(self.tracking.end, files, metrics, interrupted, note)
            self.tracking.is_behind = not run_with_timeout(end, tracking_timeout_s(interrupted))
        if self.tracking.is_behind:
            terminal.print_error("MLflow lacks part of the record, the same command delivers it")

    def print_summaries(self, summaries: Sequence[ArmSummary], title: str) -> None:
        """Prints the table and what failed."""
        console = Console(file=terminal.out(), highlight=False, width=terminal.out_width())
        steps = self.comparison.steps_per_epoch
        console.print(comparison_table(summaries, title, steps, console.width))
        for line in describe_failures(summaries):
            terminal.print_line(line)

    def title(self) -> str:
        """What the comparison is of, in a line."""
        config, num_seeds = self.config, self.config.seeds
        seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
        steps = config.epochs * self.comparison.steps_per_epoch
        return f"{config.name}: {steps:,} optimizer steps each, {seeds}"

    def conditions(self) -> dict[str, str]:
        """What all trainings have in common."""
        data = self.comparison.data
        common = self.comparison.trials[0].model_dump(mode="json", exclude=set(OWN_FIELDS))
        steps = self.comparison.steps_per_epoch
        conditions = {
            "data": f"{data}, {data.digest}",
            "length": f"{self.config.epochs} epochs of {steps:,} steps, starts included",
            "seeds": ", ".join(map(str, range(self.config.seeds))),
            "device": self.config.device,
            **{path: str(leaf) for path, leaf in flatten_tree(common)},
        }
        if (teacher := self.teacher) is None:
            return conditions
        described = (
            f"{teacher.note}, mIoU {100 * teacher.miou:.1f} %, {self.teacher_outputs} outputs"
        )
        return {**conditions, "teacher": described}


def make_record(
    name: str, config: TrialConfig, outcome: Artifact | TrialFailed, varying: Sequence[str]
) -> Record:
    """The record of a training that has ended; its params are its values of `varying` leaves."""
    leaves = config.flatten()
    params = {path: leaves[path] for path in varying if path in leaves}
    if isinstance(outcome, TrialFailed):
        return Record(name, "FAIL", str(outcome), config, None, params=params)
    reports = json.loads(present(outcome.path / METRICS_FILE).read_bytes())
    history = [Metrics.model_validate(report) for report in reports]
    return Record(
        name,
        "COMPLETE",
        "",
        config,
        history[-1],
        predicted_size_bytes=history[-1].predicted_size_bytes,
        params=params,
        reports={metrics.epoch: metrics for metrics in history},
    )
