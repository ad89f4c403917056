"""A study from its configuration to its report: new, or resumed from its journal."""

import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

import optuna
from optuna.study import Study as OptunaStudy
from optuna.trial import TrialState

from search import cluster, resources
from search.budget import OverBudget
from search.check import complain, violations
from search.cluster_address import on_cluster
from search.delivery import Delivery, in_time
from search.drawing import Params
from search.foresight import Foresight
from search.front import pareto_front
from search.insight import look
from search.insight_plot import draw_insight
from search.interruption import Interruption, interruptible
from search.journal import JOURNAL, open_journal, repair
from search.litter import Litter, sweep, tidy
from search.objectives import named_objectives
from search.observer import Observer
from search.plots import draw_front, human_size
from search.progress import Progress
from search.record import PROPOSED_BY, RAY_ID, Record, asked_trials, read_record
from search.recovery import recover, replayed
from search.report import write_tables
from search.resources import Share
from search.revival import is_to_stop
from search.scheduler import ParetoHalving
from search.searcher import OptunaSearcher
from search.study_config import LOG, StudyConfig
from search.study_file import (
    StudyFile,
    installed_versions,
    lock_study,
    proposed_by,
    read_study_file,
    write_study_file,
)
from search.tracking import Tracking, check_tracking
from search.warm_start import first_settings, observe, read_earlier
from trainables import terminal
from trainables.artifacts import ArtifactStore
from trainables.config import RunConfig
from trainables.data.pack import PackedData, find_pack, open_pack, pack
from trainables.data.prepare import open_source
from trainables.errors import TrialFailed
from trainables.evaluation import commonest_miou
from trainables.extras import has_onnx
from trainables.files import hash_file
from trainables.models.unet import UNetConfig
from trainables.probe import gpu_bytes
from trainables.quant.allocation import Sensitivity
from trainables.sensitivity import keep_sensitivity, read_sensitivity
from trainables.teacher import check_teacher, prepare_teacher
from trainables.teacher_outputs import DEFAULT_FORM, Form, find_outputs, foresee, keep_outputs
from trainables.trainable import EPOCH

STOP_FILE = ".stop"
"""In the study's folder: asks its trainings to keep where they stand and to leave."""
IN_A_HURRY_S, LAST_WORDS_S = 3.0, 600.0
"""For MLflow to hear the end of a study, when that was interrupted and when not."""
DISK_SHARE = 0.25
"""Of the free disk: teacher outputs that would take more are not kept unless asked for."""
NUM_LARGEST = 3
"""Trials whose memory is measured before any runs."""


class Study:
    """One study on its storage, of which nothing is written before `open`.

    Raises:
        ValueError: data, teacher or budget break a rule.
    """

    def __init__(self, config: StudyConfig, resumed: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config = config
        self.objectives = named_objectives(config.objectives)
        self.earlier = read_earlier(config.storage, config.warm_start, resumed)
        self.store = ArtifactStore(config.storage / "artifacts")
        source = open_source(config.data, config.image_size, self.store.root)
        self.found = find_pack(source, self.store)
        found = open_pack(self.found.path) if self.found else None
        self.notes = source.notes if found is None or found.notes is None else found.notes
        names = (found or source).class_names
        check_teacher(config.teacher, len(names))
        canvas = (found.height, found.width) if found else source.canvas()
        self.foresight = Foresight(config, len(names), canvas, self.store)
        self.foresight.measure_latencies()
        self.foresight.check_budget()
        check_tracking(config.tracking_uri, config.storage)
        self.known = read_study_file(config.folder) if resumed else None
        self.data: PackedData = found or open_pack(pack(source, self.store).path)
        self.foresight.commonest_miou = commonest_miou(self.data)
        self.file = self.describe()
        self.lock = lock_study(config)
        self.journal: OptunaStudy | None = None
        """Once it is open."""

    def open(self) -> Self:
        """Begins the study on disk, or goes on with it.

        Raises:
            ValueError: its journal is damaged.
        """
        folder = self.config.folder
        tidy(folder)
        repair(folder / JOURNAL)  # or refuse, before anything is written
        write_study_file(self.file)
        terminal.log_to(folder / LOG)
        self.journal = self.begin()
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
        self, run: RunConfig, progress: Progress, remote: cluster.Remote
    ) -> None:
        """Asks for the sensitivity of each student that the space allocates bits to.

        Raises:
            OverBudget: no student meets the budget with the bits that it really gets.
        """
        known: dict[UNetConfig, Sensitivity] = {}
        for student, start in self.foresight.starts().items():
            progress.say(f"training and looking at the start of {student}")
            try:
                kept = remote(run, keep_sensitivity, start)
                known[student] = read_sensitivity(kept)
            except TrialFailed as failure:
                progress.say(f"no trials of {student}: {failure}")
        self.foresight.sensitivities = known
        self.foresight.check_budget()

    def describe(self) -> StudyFile:
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
        )

    def settle_teacher_outputs(self, form: Form | Literal["live"]) -> None:
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
        return [read_record(trial) for trial in asked_trials(self.optuna)]

    def measured_records(self) -> list[Record]:
        """All trials, those of the front with a latency where ONNX Runtime is installed."""
        records = self.records()
        members = {record.trial_id for record in pareto_front(records, self.objectives)}
        return [
            replace(record, latency_ms=self.foresight.latency_ms(record.config))
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
        for record in (*records, *self.earlier):
            if record.config and record.latency_ms is not None:
                card = self.foresight.card_of(record.config)
                self.foresight.latencies[card] = record.latency_ms
        memory = self.foresight.new_memory()
        halving = replayed(self.config, records)
        recover(self.optuna, halving, memory, self.objectives)

    def begin(self) -> OptunaStudy:
        """The Optuna study in the folder's journal; a new one begins with what is known to be good.

        That is the front of an earlier study, or what the space itself states.
        """
        config = self.config
        study = open_journal(config.folder, config.name, self.objectives)
        if not asked_trials(study):  # a driver may have died between two of them
            first: Sequence[Params] = self.foresight.named.known_settings
            if self.earlier:
                first = first_settings(self.earlier, self.foresight.named.space, self.objectives)
            for settings in first:
                study.enqueue_trial(dict(settings), skip_if_exists=True)
        if study.user_attrs.get(PROPOSED_BY) != (now := proposed_by(config)):
            study.set_user_attr(PROPOSED_BY, now)
        return study

    def scheduler(self, searcher: OptunaSearcher) -> ParetoHalving | None:
        """What stops trials, with all that it has decided so far; None: nothing does."""
        config, halving = self.config, replayed(self.config, self.records())
        if halving is None:
            return None
        scheduler = ParetoHalving(
            searcher.losses,
            max_epochs=config.epochs,
            grace_epochs=config.grace_epochs,
            reduction=config.reduction,
            time_attr=EPOCH,
            keep=searcher.keep_arrival,
            name_of=searcher.name_of,
        )
        scheduler.halving = halving
        return scheduler

    def searcher(
        self,
        run: RunConfig,
        observers: Sequence[Observer],
        is_over: Callable[[], bool],
        capacity: Callable[[], int],
    ) -> OptunaSearcher:
        """The searcher for the trials that are left."""
        return OptunaSearcher(
            study=self.optuna,
            space=self.foresight.named.space,
            complete=self.foresight.complete,
            objectives=self.objectives,
            foresee=self.foresight.costs,
            memory=self.foresight.new_memory(),
            budget=self.config.budget,
            run=run,
            folder=self.config.folder,
            num_trials=self.samples_left(),
            sampler=self.config.sampler,
            seed=self.config.seed,
            observers=observers,
            earlier=observe(self.earlier, self.foresight.new_memory()),
            flat=self.config.stop_when_flat,
            is_over=is_over,
            capacity=capacity,
        )

    def report(self, tracking: Tracking, interrupted: bool) -> list[Record]:
        """Writes tables, plots and the front's models; gives all trials as measured."""
        records, folder = self.measured_records(), self.config.folder
        front = pareto_front(records, self.objectives)
        sweep(folder, records, self.objectives)
        write_tables(records, folder, self.objectives)
        title = f"{self.config.name}: mIoU against model size"
        draw_front(records, folder, title, self.objectives)
        insight = look(records, self.optuna, self.foresight.span(), self.objectives)
        draw_insight(insight, folder, f"{self.config.name}: the search")
        seconds = sum(record.metrics.device_seconds for record in records if record.metrics)
        numbers = {
            "trials_complete": self.num_finished(),
            "front_size": len(front),
            "device_seconds": seconds,
            **insight.metrics,
        }
        patience_s = IN_A_HURRY_S if interrupted else LAST_WORDS_S
        if not tracking.is_behind:
            told = partial(
                tracking.finish, records, front, folder, numbers, insight.steps, interrupted
            )
            tracking.is_behind = not in_time(told, patience_s)
        if tracking.is_behind:
            delivers = f"--resume {self.config.name} delivers it"
            terminal.complain(f"MLflow lacks part of the record, {delivers}")
        return records


def run_study(study: Study) -> int:
    """Runs a study to its end and gives the exit status of the command."""
    config = study.config
    tracking = Tracking(
        config.tracking_uri,
        experiment=f"{Path(config.data).name} {study.data.height}x{study.data.width} "
        f"{study.data.digest[-8:]}",
        study_name=config.name,
        study_id=study.file.id,
        artifact_root=config.storage / "mlartifacts",
        tags={"space": config.space},
    )
    if study.known:
        study.open().recover()
    progress = Progress(config, study.records(), study.samples_left())
    progress.say(f"data: {study.data}, {'found' if study.found else 'packed'} in {study.data.path}")
    for note in study.notes:
        progress.say(f"note on the data: {note}")
    interrupted = is_to_stop()
    if study.samples_left() and not interrupted:
        try:
            with interruptible(config.folder / STOP_FILE, study.last_words) as interruption:
                try:
                    search(study, progress, tracking, interruption)
                finally:
                    if study.is_open:
                        study.recover()
        except KeyboardInterrupt:
            interrupted = True
        except cluster.RayUnavailable as error:
            raise OSError(f"{error}; {study.way_on}") from error
        except (OverBudget, TrialFailed, OSError):
            with suppress(OSError):  # a full disk: the journal has it all
                study.report(tracking, interrupted=True)
            raise
    if not study.is_open:
        raise KeyboardInterrupt
    records = study.report(tracking, interrupted)
    progress.conclude(records, tracking.page, interrupted)
    whole = study.known is None or is_whole(study.file, tracking.is_behind)
    if interrupted:
        return 130
    return 0 if whole and study.num_finished() else 1


def kept_log(study: Study) -> str:
    """Where the words of libraries are kept, also of a study that has not begun, in words."""
    if not study.is_open:
        terminal.log_to(study.config.storage / f".{study.config.name}.log")
    path = terminal.log_file()
    return f" (what libraries said is in {path})" if path and path.stat().st_size else ""


def is_whole(file: StudyFile, is_behind: bool) -> bool:
    """Whether all records of a study agree, but for those of MLflow where it `is_behind`."""
    return not complain(violations(file, file.config.folder, with_mlflow=not is_behind))


def search(
    study: Study, progress: Progress, tracking: Tracking, interruption: Interruption
) -> None:
    """Prepares the teacher and trains the trials that are left.

    Raises:
        DiskFull: there is no room to go on.
    """
    config = study.config
    share = resources.fixed_share(config)
    progress.say("starting Ray" if not on_cluster() else "connecting to the cluster")
    with cluster.connect(config, interruption):
        if not study.is_open:
            study.open()
        if interruption.wanted:
            raise KeyboardInterrupt
        run = RunConfig(
            data=study.store.root / study.data.digest,
            artifacts=study.store.root,
            device=config.device,
            checkpoint_every_s=config.checkpoint_every_s,
            stop_file=interruption.stop_file,
            timeout_s=config.trial_timeout_s,
        )
        remote = cluster.Remote(config, interruption)
        if any(trial.needs_teacher for trial in study.foresight.probe()):
            progress.say("preparing the teacher (made once for this data, then reused)")
            own = study.foresight.defaults.own_teacher()
            teacher = remote(run, prepare_teacher, config.teacher, own)
            progress.say(f"teacher: {teacher.note}, mIoU {100 * teacher.miou:.1f} %")
            run = keep_teacher_outputs(study, progress, remote, run.replace(teacher=teacher.file))
        study.measure_sensitivities(run, progress, remote)
        if config.gpus_per_trial == "auto":
            share = share_gpu(study, progress, remote, run)
        run = run.replace(num_threads=max(1, int(share.cpus)), gpu_share=min(1, share.gpus) or 1.0)
        delivery = Delivery(tracking)
        records = study.records()
        for record in records:
            delivery.replayed(record)
        deadline = cluster.Deadline(config.time_budget_s, config.epochs)
        searcher = study.searcher(
            run,
            [delivery, progress, Litter(config.folder, study.objectives, records)],
            lambda: deadline.is_over or interruption.wanted,
            lambda: cluster.capacity(share),
        )
        scheduler = study.scheduler(searcher)
        try:
            with progress:
                cluster.tune_trials(
                    searcher, scheduler, config, share, deadline, interruption, progress.say
                )
        finally:
            patience_s = IN_A_HURRY_S if interruption.wanted else LAST_WORDS_S
            tracking.is_behind = not delivery.close(patience_s)
        if searcher.no_room:
            raise OSError(searcher.no_room)
        if searcher.end:
            progress.say(f"ended before all trials were asked: {searcher.end}")


def keep_teacher_outputs(
    study: Study, progress: Progress, remote: cluster.Remote, run: RunConfig
) -> RunConfig:
    """`run` with the teacher's outputs where they are kept, having said how much that takes."""
    wanted, augmentation = study.config.teacher_outputs, study.foresight.defaults.augmentation
    if wanted == "live":
        return run
    form: Form = DEFAULT_FORM if wanted == "auto" else wanted
    kept = find_outputs(run, form, augmentation)
    if kept is None:
        size = remote(run, foresee, form, augmentation)
        progress.say(f"keeping the teacher's outputs as {form}: {size}")
        room = shutil.disk_usage(study.store.root).free
        if wanted == "auto" and size.num_bytes > DISK_SHARE * room:
            progress.say(
                f"that is more than {DISK_SHARE:.0%} of the {human_size(room)} free on disk: "
                "the teacher runs at every step instead (--teacher-outputs live)"
            )
            study.settle_teacher_outputs("live")
            return run
        kept = remote(run, keep_outputs, form, augmentation)
    study.settle_teacher_outputs(form)
    return run.replace(teacher_outputs=kept)


def share_gpu(study: Study, progress: Progress, remote: cluster.Remote, run: RunConfig) -> Share:
    """How many trials share a GPU, by the memory that the largest of the space take."""
    largest = sorted(study.foresight.probe(), key=lambda t: (t.needs_teacher, t.student.width))
    crowded = run.replace(gpu_share=1 / resources.MOST_TRIALS)
    peak, free = remote(crowded, gpu_bytes, largest[-NUM_LARGEST:])
    share = resources.gpu_share(study.config, peak, free)
    progress.say(
        f"{round(1 / share.gpus)} trials at once on a GPU with {human_size(free)} free: the "
        f"largest takes {human_size(peak)}"
    )
    return share
