"""One trial, from its configuration to a measured model file, without Ray."""

import gc
import json
import shutil
import time
from collections import deque
from collections.abc import Iterator
from hashlib import sha256
from itertools import repeat
from pathlib import Path

import torch
from torch import nn

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import Artifact, ArtifactStore, checkpoint_folder
from trainables.core.errors import TrialFailed
from trainables.core.files import hash_file, replace_file
from trainables.core.liveness import OnHang, Stopwatch, Watchdog, die
from trainables.core.metrics import Metrics
from trainables.data.arrow_table import Tensors
from trainables.data.augmentation import Transform
from trainables.data.loader import Loader, shuffled
from trainables.data.packed import images_of, open_pack
from trainables.models.base import to_device
from trainables.models.model_file import (
    CONFIG_FILE,
    METRICS_FILE,
    MODEL_FILE,
    NETWORK_FILE,
    compressed,
    deserialize,
    read_model,
    serialize,
    write_model,
)
from trainables.recipes.base import Batch, MeanLosses, Stateful, TeacherOutputSource
from trainables.teachers.output_cache import TeacherOutputs, fixed_views
from trainables.teachers.outputs import CachedTeacher, LiveTeacher
from trainables.training.checkpoints import CheckpointManager, Checkpoints, State
from trainables.training.cost import count_macs, count_params, model_spec, predict_size_bytes
from trainables.training.evaluation import count_disagreeing_pixels, evaluate
from trainables.training.identity import training_facts, training_key
from trainables.training.sanity_checks import check_finite, check_learning


class Trial:
    """Iterate over it for the Metrics of each epoch; then `model_bytes` is the model file.

    `student` is the trained network that the file was converted from. With a folder for
    `checkpoints` a training goes on where an earlier one of the same configuration was when its
    process ended: it repeats the last report, and on a CPU gives the very numbers that it would
    have given. `on_hang` ends the process when `run.timeout_s` pass without progress.

    Iterating raises TrialFailed where the training gives nothing worth ranking, and Interrupted,
    having kept where it stands, once `run.stop_file` exists or `leave` was set.
    """

    def __init__(
        self,
        config: TrialConfig,
        run: ExecutionConfig,
        checkpoints: Path | None = None,
        on_hang: OnHang = die,
    ) -> None:
        torch.set_num_threads(run.num_threads)
        self.config, self.run = config, run
        self.watchdog = Watchdog(run.timeout_s, on_hang)
        self.watchdog.beat()
        self.data = open_pack(run.data)
        self.device = torch.device(run.device)
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(run.gpu_share)
        self.train = Loader(self.data.train, self.device, run.gpu_share)
        self.val = Loader(self.data.val, self.device, run.gpu_share)
        self.transform = Transform(config.augmentation)
        self.outputs: TeacherOutputs | None = None
        if config.recipe.learns_from_teacher and run.teacher_outputs:
            assert run.teacher is not None, "outputs are a teacher's"
            if terms := config.terms_of_live_teacher:
                raise ValueError(
                    f"the teacher must be live for the distillation term {terms[0]}, but its "
                    f"outputs are read from {run.teacher_outputs}"
                )
            teacher = hash_file(run.teacher)
            self.outputs = TeacherOutputs(
                run.teacher_outputs, self.data.digest, teacher, config.augmentation
            )
            self.kept = Loader(self.outputs.table, self.device, run.gpu_share)
        self.num_steps = config.num_epochs * max(1, len(self.data.train) // config.batch_size)
        self.seed, self.parts = config.seed, 1
        self.start_seconds = 0.0
        self.student: nn.Module | None = None
        self.model_bytes: bytes | None = None
        self.reports: list[Metrics] = []
        self.stopwatch = Stopwatch()
        kept = Checkpoints(checkpoints, training_key(config, run)) if checkpoints else None
        self.checkpoint_manager = CheckpointManager(kept, run)

    def __iter__(self) -> Iterator[Metrics]:
        self.watchdog.beat()
        try:
            for metrics in self._reports():
                with self.watchdog.paused(), self.stopwatch.paused():
                    yield metrics
        finally:
            self.watchdog.close()

    def _reports(self) -> Iterator[Metrics]:
        config, reported = self.config, 0
        if kept := self.checkpoint_manager.restore():
            self.parts, self.start_seconds = kept["parts"], kept["start_seconds"]
            self.stopwatch = Stopwatch(kept["seconds"])
            self.reports = [Metrics.model_validate_json(report) for report in kept["reports"]]
            yield from self.reports[-1:]
        try:
            for metrics in self._train():
                reported = metrics.epoch
                yield metrics
            return
        except torch.OutOfMemoryError as error:
            if config.batch_size < 4 or self.parts > 1:
                images = config.batch_size // self.parts
                raise TrialFailed(f"out of memory with batches of {images} images") from error
        # Once more from the beginning, outside the handler, which holds on to what filled memory
        self.parts = 2
        self.reports = []
        self.checkpoint_manager.clear()
        release_memory()
        half = config.batch_size // 2
        print(f"out of memory: once more with 2 batches of {half} for a step", flush=True)
        try:
            yield from (metrics for metrics in self._train() if metrics.epoch > reported)
        except torch.OutOfMemoryError as error:
            raise TrialFailed(f"out of memory, with batches of {half} images, too") from error

    def _train(self) -> Iterator[Metrics]:
        config, data = self.config, self.data
        self.stopwatch.start()
        size = {
            "num_params": count_params(config.student, data.num_classes),
            "macs": count_macs(config.student, data.num_classes, data.height, data.width),
            "predicted_size_bytes": predict_size_bytes(config, data.num_classes),
        }
        for student, losses in config.recipe.train(self):
            epoch = len(self.reports) + 1
            check_finite(losses, epoch, config)
            changed = None
            if epoch == config.num_epochs:
                shipped = self._pack(student)
                changed = count_disagreeing_pixels(student, shipped, self.val, self._on_step_end)
                student = shipped
            scores = evaluate(student, self.val, data.num_classes, self._on_step_end)
            best = max(scores.miou, *(report.miou for report in self.reports), 0.0)
            history = [*(report.losses for report in self.reports), losses]
            check_learning(best, scores, history, config, self.num_steps, data)
            metrics = Metrics(
                epoch=epoch,
                time_ms=int(time.time() * 1000),
                miou=scores.miou,
                pixel_accuracy=scores.pixel_accuracy,
                losses=losses,
                device_seconds=self.stopwatch.seconds,
                start_seconds=self.start_seconds,
                parts=self.parts,
                size_bytes=len(self.model_bytes) if self.model_bytes else None,
                compressed_bytes=compressed(self.model_bytes) if self.model_bytes else None,
                changed_pixels=changed,
                model_sha256=sha256(self.model_bytes).hexdigest() if self.model_bytes else None,
                **size,
            )
            self.reports.append(metrics)
            yield metrics

    def _pack(self, student: nn.Module) -> nn.Module:
        """Turns the student into a file and gives back what the file holds."""
        self.student = student
        self.model_bytes = serialize(student, model_spec(self.config, self.data.num_classes))
        return to_device(deserialize(self.model_bytes), self.device)

    def epochs(self, **parts: Stateful) -> Iterator[tuple[Iterator[Batch], MeanLosses]]:
        losses, done = MeanLosses(), 0
        if kept := self.checkpoint_manager.kept:
            losses.load_state_dict(kept["losses"])
            done = kept["done"]
            for name, part in parts.items():
                part.load_state_dict(kept["recipe"].get(name, {}))
            self.checkpoint_manager.kept = None

        def state() -> State:
            return {
                "parts": self.parts,
                "start_seconds": self.start_seconds,
                "seconds": self.stopwatch.seconds,
                "reports": [report.model_dump_json() for report in self.reports],
                "losses": losses.state_dict(),
                "done": done,
                "recipe": {name: part.state_dict() for name, part in parts.items()},
            }

        def batches(epoch: int) -> Iterator[Batch]:
            nonlocal done
            for batch in self.batches(epoch, done):
                yield batch
                done += 1
                if done % self.parts == 0:  # a step was taken
                    self._on_step_end()

        self.checkpoint_manager.state = state
        for epoch in range(len(self.reports) + 1, self.config.num_epochs + 1):
            yield batches(epoch), losses
            losses, done = MeanLosses(), 0

    def _on_step_end(self) -> None:
        """Between two steps: shows life, keeps a checkpoint that is due, leaves when asked to."""
        self.watchdog.beat()
        self.checkpoint_manager.on_step_end()

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch from the `first` on."""
        config, count = self.config, len(self.train)
        rows = shuffled(count, config.batch_size, config.seed, epoch)
        if self.parts > 1:
            rows = [half for batch in rows for half in halves(batch)]
        rows = rows[first:]
        views = config.augmentation.views(count, config.seed, epoch)
        cached: Iterator[Tensors] = repeat({})
        if self.outputs is not None:
            cached = self.kept.batches(self.outputs.rows(batch, epoch) for batch in rows)
            if self.outputs.form == "views":
                views = fixed_views(config.augmentation, count, self.outputs.view(epoch))
        for batch, raw, kept_outputs in zip(rows, self.train.batches(rows), cached, strict=False):
            seen = views.select(torch.tensor(batch), self.device)
            images = self.transform.images(images_of(raw), seen)
            labels = self.transform.labels(raw["mask"], seen)
            yield Batch(
                images.contiguous(memory_format=torch.channels_last), labels, seen, kept_outputs
            )

    def new_student(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            student = self.config.student.build(self.data.num_classes)
        self.config.student.initialize(student)
        return to_device(student, self.device).train()

    def pretrained_student(self) -> nn.Module:
        with self.watchdog.paused(), self.stopwatch.paused():
            assert self.config.start, "a quantized student has a start"
            try:
                start = train_or_find(self.config.start, self.run, self.watchdog.on_hang)
            except TrialFailed as failure:
                raise TrialFailed(f"{failure} (its full-precision start)") from failure
        self.start_seconds = start.seconds
        return to_device(read_model(start.path / NETWORK_FILE), self.device).train()

    def teacher(self) -> TeacherOutputSource:
        if self.outputs is None:
            assert self.run.teacher is not None, "a recipe with a teacher runs with one"
            return LiveTeacher(to_device(read_model(self.run.teacher), self.device))
        maps = self.transform if self.outputs.form == "maps" else None
        teacher = CachedTeacher(self.data.num_classes, maps)
        to_device(teacher.network, self.device)
        return teacher


def halves(batch: list[int]) -> tuple[list[int], list[int]]:
    return batch[: len(batch) // 2], batch[len(batch) // 2 :]


def release_memory() -> None:
    """Frees what nobody uses any more, for the other processes on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def train_or_find(config: TrialConfig, run: ExecutionConfig, on_hang: OnHang = die) -> Artifact:
    """The artifact of a full-precision trial: what `save` leaves, and the network to train on."""
    store, key = ArtifactStore(run.artifacts), training_facts(config, run)
    checkpoints = checkpoint_folder(store.path("student", key))

    def build(folder: Path) -> None:
        trial = Trial(config, run, checkpoints, on_hang)
        try:
            deque(save(trial, folder), maxlen=0)
        except TrialFailed:
            trial.checkpoint_manager.clear()
            raise
        assert trial.student is not None
        card = model_spec(config, trial.data.num_classes).replace(folded=False)
        write_model(folder / NETWORK_FILE, trial.student, card)

    artifact = store.get("student", key, build)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return artifact


def save(trial: Trial, folder: Path) -> Iterator[Metrics]:
    """Passes a trial's metrics on; before the last, writes model file, configuration, metrics."""
    for metrics in trial:
        if trial.model_bytes:
            history = [report.model_dump(mode="json") for report in trial.reports]
            replace_file(folder / CONFIG_FILE, trial.config.model_dump_json(indent=1))
            replace_file(folder / METRICS_FILE, json.dumps(history, indent=1))
            replace_file(folder / MODEL_FILE, trial.model_bytes)
        yield metrics
