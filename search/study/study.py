"""A study from its configuration to its report: new, or resumed from its journal."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

import optuna
from optuna.study import Study as OptunaStudy
from optuna.trial import TrialState

from search.algorithms.candidates import Params
from search.algorithms.warm_start import (
    read_warm_start_records,
    select_points_to_evaluate,
    to_observations,
)
from search.analysis.diagnostics import compute_diagnostics
from search.analysis.diagnostics_plot import draw_diagnostics
from search.analysis.report import draw_front
from search.analysis.tables import write_tables
from search.core.config import LOG, StudyConfig
from search.core.objectives import named_objectives
from search.core.pareto import pareto_front
from search.core.record import Record
from search.execution.scheduler import ParetoHalving
from search.execution.searcher import OptunaSearcher
from search.execution.session import RemoteRunner
from search.storage.cleanup import prune_study_folder, remove_partial_files
from search.storage.journal import JOURNAL, open_journal, repair
from search.storage.study_file import (
    StudyFile,
    installed_versions,
    lock_study,
    proposed_by,
    read_study_file,
    write_study_file,
)
from search.storage.trials import PROPOSED_BY, RAY_ID, asked_trials, read_record
from search.study.cost_model import CostModel
from search.study.recovery import (
    read_conditions,
    recover,
    replay_decisions,
    shared_conditions,
    with_latencies_of_here,
)
from search.tracking.callbacks import Callback, run_with_timeout
from search.tracking.console import ConsoleProgress
from search.tracking.mlflow import MlflowTracker, check_tracking
from trainables.config import ExecutionConfig
from trainables.core import terminal
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import TrialFailed
from trainables.core.files import hash_file
from trainables.core.optional_dependencies import has_onnx
from trainables.data.packed import PackedDataset, find_pack, open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.models.configs import StudentConfig
from trainables.quantization.mixed_precision import Sensitivity
from trainables.teachers.output_cache import Form
from trainables.trainable import EPOCH
from trainables.training.evaluation import commonest_miou
from trainables.training.sensitivity import cache_sensitivity, read_sensitivity
from trainables.training.teacher import check_teacher

IN_A_HURRY_S, LAST_WORDS_S = 3.0, 600.0
"""For MLflow to hear the end of a study, when that was interrupted and when not."""


class Study:
    """One study on its storage, of which nothing is written before `open`.

    Raises:
        ValueError: data, teacher or budget break a rule.
    """

    def __init__(self, config: StudyConfig, resumed: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = config
        self.objectives = named_objectives(config.objectives)
        self.earlier = read_warm_start_records(config.storage, config.warm_start, resumed)
        self.store = ArtifactStore(config.storage / "artifacts")
        source = open_source(config.data, config.image_size, self.store.root)
        self.found = find_pack(source, self.store)
        found = open_pack(self.found.path) if self.found else None
        self.notes = source.notes if found is None or found.notes is None else found.notes
        names = (found or source).class_names
        check_teacher(config.teacher, len(names))
        canvas = (found.height, found.width) if found else source.canvas()
        self.cost_model = CostModel(config, len(names), canvas, self.store)
        self.cost_model.measure_latencies()
        conditions = read_conditions(config.storage, config.warm_start, len(names))
        self.earlier = with_latencies_of_here(self.earlier, self.cost_model, conditions)
        self.cost_model.check_budget()
        check_tracking(config.tracking_uri, config.storage)
        self.known = read_study_file(config.folder) if resumed else None
        self.data: PackedDataset = found or open_pack(pack_dataset(source, self.store).path)
        self.cost_model.commonest_miou = commonest_miou(self.data)
        self.file = self.build_study_file()
        self.lock = lock_study(config)
        self.journal: OptunaStudy | None = None
        """Once it is open."""

    def open(self) -> Self:
        """Begins the study on disk, or goes on with it.

        Raises:
            ValueError: its journal is damaged.
        """
        folder = self.config.folder
        remove_partial_files(folder)
        repair(folder / JOURNAL)  # or refuse, before anything is written
        write_study_file(self.file)
        terminal.keep_log(folder / LOG)
        self.journal = self.load_or_create_study()
        return self

    @property
    def is_open(self) -> bool:
        """Whether it has begun on disk."""
        return self.journal is not None

    @property
    def optuna(self) -> OptunaStudy:
        """The Optuna study of an open one."""
        assert self.journal is not None
        return self.journal

    def measure_sensitivities(
        self, run: ExecutionConfig, progress: ConsoleProgress, remote: RemoteRunner
    ) -> None:
        """Asks for the sensitivity of each student that the space allocates bits to.

        Raises:
            OverBudget: no student meets the budget with the bits that it really gets.
        """
        known: dict[StudentConfig, Sensitivity] = {}
        for student, start in self.cost_model.pretraining_configs().items():
            progress.say(f"training and looking at the start of {student.describe()}")
            try:
                kept = remote(run, cache_sensitivity, start)
                known[student] = read_sensitivity(kept)
            except TrialFailed as failure:
                progress.say(f"no trials of {student.describe()}: {failure}")
        self.cost_model.sensitivities = known
        self.cost_model.check_budget()

    def build_study_file(self) -> StudyFile:
        """The content of study.json.

        Raises:
            ValueError: data or teacher are not what the resumed study began with.
        """
        config, known = self.config, self.known
        teacher = Path(config.teacher)
        teacher_digest = hash_file(teacher) if teacher.is_file() else None
        if known and known.data_digest != self.data.digest:
            raise ValueError(
                f"a resumed study must keep its data, but {config.data} has changed: it is "
                f"now {self.data.digest}, {config.name} began with {known.data_digest}"
            )
        began = known and (known.teacher_digest or known.config.teacher)
        if began and began != (teacher_digest or config.teacher):
            raise ValueError(
                f"a resumed study must keep its teacher, but {config.teacher} is not that of "
                f"{config.name}, which began with {known.config.teacher if known else began}"
            )
        return StudyFile(
            id=self.known.id if self.known else uuid.uuid4().hex,
            config=self.config,
            versions=installed_versions(),
            data_digest=self.data.digest,
            teacher_digest=teacher_digest,
            class_names=self.data.class_names,
            latency_conditions=shared_conditions(known, self.cost_model.latency_conditions()),
        )

    def record_teacher_output_mode(self, form: Form | Literal["live"]) -> None:
        """Keeps what `auto` came to, so that a resumed study goes on with it."""
        self.config = self.config.replace(teacher_outputs=form)
        self.file = self.file.replace(config=self.config)
        write_study_file(self.file)

    def last_words(self) -> str:
        """What is said where the driver ends without a report."""
        return f"interrupted; {self.way_on}"

    @property
    def way_on(self) -> str:
        """What to type when the study was interrupted."""
        if self.is_open:
            return f"go on with --resume {self.config.name}"
        return f"study {self.config.name} has not begun: the same command begins it"

    def records(self) -> list[Record]:
        """All trials that were asked for so far."""
        if not self.is_open:
            return []
        records = [read_record(trial) for trial in asked_trials(self.optuna)]
        return with_latencies_of_here(records, self.cost_model, self.file.latency_conditions)

    def measured_records(self) -> list[Record]:
        """All trials, those of the front with a latency where ONNX Runtime is installed."""
        records = self.records()
        members = {record.trial_id for record in pareto_front(records, self.objectives)}
        return [
            replace(record, latency_ms=self.cost_model.latency_ms(record.config))
            if record.trial_id in members
            and record.latency_ms is None
            and record.config
            and has_onnx()
            else record
            for record in records
        ]

    def num_finished(self) -> int:
        """Trials trained to their end."""
        return sum(record.state == "COMPLETE" for record in self.records())

    def samples_left(self) -> int:
        """Trials still to be trained to their end; refused ones do not count."""
        if not self.is_open:
            return self.config.samples
        launched = [
            trial
            for trial in self.optuna.get_trials(deepcopy=False)
            if RAY_ID in trial.user_attrs and trial.state != TrialState.WAITING
        ]
        return max(0, self.config.samples - len(launched))

    def recover(self) -> None:
        """Ends what had come to its end when a driver died, and queues what is to go on."""
        records = self.records()
        history = self.cost_model.new_trial_history()
        halving = replay_decisions(self.config, records)
        recover(self.optuna, halving, history, self.objectives)

    def load_or_create_study(self) -> OptunaStudy:
        """The Optuna study in the folder's journal; a new one begins with what is known to be good.

        That is the front of an earlier study, or what the space itself states.
        """
        config = self.config
        study = open_journal(config.folder, config.name, self.objectives)
        if not asked_trials(study):  # a driver may have died between two of them
            first: Sequence[Params] = self.cost_model.named.points_to_evaluate
            if self.earlier:
                first = select_points_to_evaluate(
                    self.earlier, self.cost_model.named.space, self.objectives
                )
            for settings in first:
                study.enqueue_trial(dict(settings), skip_if_exists=True)
        if study.user_attrs.get(PROPOSED_BY) != (now := proposed_by(config)):
            study.set_user_attr(PROPOSED_BY, now)
        return study

    def scheduler(self, searcher: OptunaSearcher) -> ParetoHalving | None:
        """What stops trials, with all that it has decided so far; None: nothing does."""
        config, halving = self.config, replay_decisions(self.config, self.records())
        if halving is None:
            return None
        scheduler = ParetoHalving(
            searcher.minimized_values,
            max_epochs=config.epochs,
            grace_epochs=config.grace_epochs,
            reduction=config.reduction,
            time_attr=EPOCH,
            keep=searcher.record_decision,
            name_of=searcher.name_of,
        )
        scheduler.halving = halving
        return scheduler

    def searcher(
        self,
        run: ExecutionConfig,
        callbacks: Sequence[Callback],
        is_over: Callable[[], bool],
        max_pending_trials: Callable[[], int],
    ) -> OptunaSearcher:
        """The searcher for the trials that are left."""
        return OptunaSearcher(
            study=self.optuna,
            space=self.cost_model.named.space,
            complete=self.cost_model.complete,
            objectives=self.objectives,
            predict_cost=self.cost_model.predict_cost,
            history=self.cost_model.new_trial_history(),
            budget=self.config.budget,
            run=run,
            folder=self.config.folder,
            num_trials=self.samples_left(),
            sampler=self.config.sampler,
            seed=self.config.seed,
            callbacks=callbacks,
            warm_start_observations=to_observations(
                self.earlier, self.cost_model.new_trial_history()
            ),
            improvement_bar=self.config.stop_when_flat,
            is_over=is_over,
            capacity=max_pending_trials,
        )

    def report(self, tracking: MlflowTracker, interrupted: bool) -> list[Record]:
        """Writes tables, plots and the front's models; gives all trials as measured."""
        records, folder = self.measured_records(), self.config.folder
        front = pareto_front(records, self.objectives)
        prune_study_folder(folder, records, self.objectives)
        write_tables(records, folder, self.objectives)
        title = f"{self.config.name}: mIoU against model size"
        draw_front(records, folder, title, self.objectives)
        diagnostics = compute_diagnostics(
            records, self.optuna, self.cost_model.cost_range(), self.objectives
        )
        draw_diagnostics(diagnostics, folder, f"{self.config.name}: the search")
        seconds = sum(record.metrics.device_seconds for record in records if record.metrics)
        numbers = {
            "trials_complete": self.num_finished(),
            "front_size": len(front),
            "device_seconds": seconds,
            **diagnostics.metrics,
        }
        patience_s = IN_A_HURRY_S if interrupted else LAST_WORDS_S
        if not tracking.is_behind:
            told = partial(
                tracking.finish, records, front, folder, numbers, diagnostics.steps, interrupted
            )
            tracking.is_behind = not run_with_timeout(told, patience_s)
        if tracking.is_behind:
            delivers = f"--resume {self.config.name} delivers it"
            terminal.print_error(f"MLflow lacks part of the record, {delivers}")
        return records
