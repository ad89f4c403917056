"""One trial, from its configuration to a measured model file, without Ray."""

import gc
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path

import torch
from torch import nn

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import Artifact, ArtifactStore, NotBuilt, checkpoint_folder
from trainables.core.command_line import first_line
from trainables.core.errors import DiskFull, Interrupted, TrialFailed
from trainables.core.files import replace_file
from trainables.core.liveness import OnHang, Stopwatch, Watchdog, die
from trainables.core.metrics import Metrics
from trainables.core.mirror import delete
from trainables.core.progress import ProgressReporter, announce, announce_step
from trainables.core.units import human_size
from trainables.models.base import to_device
from trainables.models.model_file import (
    CONFIG_FILE,
    METRICS_FILE,
    MODEL_FILE,
    NETWORK_FILE,
    compressed,
    deserialize,
    serialize,
    write_model,
)
from trainables.training.checkpoints import (
    CheckpointManager,
    Checkpoints,
    State,
    leave_if_asked,
)
from trainables.training.cost import (
    count_macs,
    count_params,
    model_spec,
    predict_ram_bytes,
    predict_size_bytes,
)
from trainables.training.evaluation import BATCH_SIZE, count_disagreeing_pixels, evaluate
from trainables.training.identity import (
    ARTIFACT_KIND,
    artifact_key,
    older_training_key,
    training_key,
)
from trainables.training.mps import join_service
from trainables.training.sanity_checks import check_finite, check_learning, grace_epochs
from trainables.training.task import TrialTask

logger = logging.getLogger(__name__)

CONTEXT_BYTES = 600 << 20
"""GPU memory of each process for CUDA itself, in addition to PyTorch's tensors."""
MEASURING, TRAINING_START = "measuring the student", "training the full-precision student"
"""The task in the progress lines of an evaluation, and of what a quantized training starts from."""


class Trial:
    """Iterate over it for the Metrics of each epoch; then `model_bytes` is the model file.

    `student` is the trained network that the file was converted from. With a folder for
    `checkpoints` a training continues from the last checkpoint of an earlier one of the same
    configuration: it repeats the last report, and on a CPU gives the same numbers as without an
    interruption. `on_hang` ends the process when `run.timeout_s` pass without progress, and
    `on_progress` gets the number of finished epochs between two steps. While another process trains
    what this one starts from, the first of `other_starts` that nobody trains is trained here.

    Iterating raises TrialFailed where the student did not learn, and Interrupted, after writing a
    checkpoint, once one of `run.stop_files` exists or `stop_requested` is set.
    """

    def __init__(
        self,
        config: TrialConfig,
        run: ExecutionConfig,
        checkpoints: Path | None = None,
        on_hang: OnHang = die,
        on_progress: Callable[[float], None] = lambda num_epochs_done: None,
        other_starts: Sequence[TrialConfig] = (),
        each_epoch: bool = True,
    ) -> None:
        """Without `each_epoch` it is evaluated where it is judged: after its grace, and at the end.

        Nothing depends on the other epochs of a teacher or a start, and a whole evaluation can
        take a third of an epoch.
        """
        torch.set_num_threads(run.num_threads)
        self.config, self.run, self.on_progress = config, run, on_progress
        self.other_starts = list(other_starts)
        self.watchdog = Watchdog(run.timeout_s, on_hang)
        self.watchdog.beat()
        if run.mps:
            join_service(run.mps)
        if run.device == "cuda":
            torch.cuda.set_per_process_memory_fraction(run.gpu_share)
        self.task = TrialTask(config, run, self._pretrain, self._on_step_end)
        self.student: nn.Module | None = None
        self.model_bytes: bytes | None = None
        self.each_epoch = each_epoch
        self.reports: list[Metrics] = []
        self.losses: list[dict[str, float]] = []
        """The mean losses of each epoch, also of those that were not evaluated."""
        self.has_stepped = False
        self.stopwatch = Stopwatch()
        kept = None
        if checkpoints:
            keys = training_key(config, run), older_training_key(config, run)
            kept = Checkpoints(checkpoints, *keys)
        self.checkpoint_manager = CheckpointManager(kept, run, self._state)

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
            self.stopwatch = Stopwatch(kept["seconds"])
            self.reports = [Metrics.model_validate_json(report) for report in kept["reports"]]
            # Earlier versions evaluated each epoch
            self.losses = kept.get("losses_by_epoch") or [each.losses for each in self.reports]
            self.task.load_state_dict(kept, epoch=len(self.losses) + 1)
            yield from self.reports[-1:]
        try:
            for metrics in self._train():
                reported = metrics.epoch
                yield metrics
            return
        except torch.OutOfMemoryError as error:
            if config.batch_size < 4 or self.task.accumulation_steps > 1:
                images = config.batch_size // self.task.accumulation_steps
                raise TrialFailed(
                    f"out of memory with batches of {images} images{memory_of_others()}"
                ) from error
        # Restart outside the handler, in which the exception keeps references to the memory
        self.task.halve_batches()
        self.reports, self.losses = [], []
        self.checkpoint_manager.clear()
        release_memory()
        half = config.batch_size // 2
        logger.warning("out of memory: once more with 2 batches of %d for a step", half)
        try:
            yield from (metrics for metrics in self._train() if metrics.epoch > reported)
        except torch.OutOfMemoryError as error:
            raise TrialFailed(
                f"out of memory, with batches of {half} images, too{memory_of_others()}"
            ) from error

    def _train(self) -> Iterator[Metrics]:
        config, task, data = self.config, self.task, self.task.data
        self.stopwatch.start()
        size = {
            "num_params": count_params(config.student, data.num_classes),
            "macs": count_macs(config.student, data.num_classes, data.height, data.width),
            "ram_bytes": predict_ram_bytes(config, data.num_classes, data.height, data.width),
            "predicted_size_bytes": predict_size_bytes(config, data.num_classes),
        }
        for student, losses in config.recipe.train(task):
            epoch = len(self.losses) + 1
            check_finite(losses, epoch, config)
            if not self._is_judged(epoch):
                self.losses.append(losses)
                continue
            changed = None
            if epoch == config.num_epochs:
                shipped = self._pack(student)
                on_batch_end = self._batch_counter()
                changed = count_disagreeing_pixels(student, shipped, task.val, on_batch_end)
                student = shipped
            on_batch_end = self._batch_counter()
            scores = evaluate(student, task.val, data.num_classes, on_batch_end, data.own_labels)
            best = max(scores.miou, *(report.miou for report in self.reports), 0.0)
            check_learning(best, scores, [*self.losses, losses], config, task.num_steps, data)
            metrics = Metrics(
                epoch=epoch,
                time_ms=int(time.time() * 1000),
                miou=scores.miou,
                pixel_accuracy=scores.pixel_accuracy,
                class_iou=scores.class_iou,
                classes_never_predicted=len(scores.never_predicted),
                losses=losses,
                device_seconds=self.stopwatch.seconds,
                start_seconds=task.start_seconds,
                parts=task.accumulation_steps,
                size_bytes=len(self.model_bytes) if self.model_bytes else None,
                compressed_bytes=compressed(self.model_bytes) if self.model_bytes else None,
                changed_pixels=changed,
                model_sha256=sha256(self.model_bytes).hexdigest() if self.model_bytes else None,
                **size,
            )
            self.reports.append(metrics)
            self.losses.append(losses)
            yield metrics

    def _is_judged(self, epoch: int) -> bool:
        """Whether the student is evaluated after an epoch."""
        judged = grace_epochs(self.config, self.task.num_steps), self.config.num_epochs
        return self.each_epoch or epoch in judged

    def _pack(self, student: nn.Module) -> nn.Module:
        """Writes the student into `model_bytes` and returns the network that is read from it."""
        self.student = student
        num_classes = self.task.data.num_classes
        self.model_bytes = serialize(student, model_spec(self.config, num_classes))
        predicted = predict_size_bytes(self.config, num_classes)
        if len(self.model_bytes) != predicted:
            raise TrialFailed(
                f"the model file must have the predicted {predicted:,} bytes, but has "
                f"{len(self.model_bytes):,}: a quantizer does not keep its bits or step shape"
            )
        return to_device(deserialize(self.model_bytes), self.task.device)

    def _pretrain(self, start: TrialConfig) -> Artifact:
        """The full-precision student; its training is excluded from time and timeout."""
        with self.watchdog.paused(), self.stopwatch.paused():
            try:
                return train_or_find(
                    start, self.run, self.watchdog.on_hang, while_waiting=self._train_other_start
                )
            except TrialFailed as failure:
                raise TrialFailed(f"{failure} (its full-precision start)") from failure

    def _train_other_start(self) -> None:
        """Trains a start of other trials, unless another process does.

        Its errors are those of the trials that need it, which say them, and not of this one.
        """
        while self.other_starts:
            start = self.other_starts.pop(0)
            try:
                train_or_find(start, self.run, while_waiting=None)
                return
            except NotBuilt:  # another process trains it
                continue
            except (Interrupted, DiskFull):
                raise
            except Exception as error:
                announce(f"a start of other trials fails: {first_line(error)}")

    def _state(self) -> State | None:
        """The state for a checkpoint; None before the recipe has begun its epochs."""
        state = self.task.state_dict()
        if state is None:
            return None
        reports = [report.model_dump_json() for report in self.reports]
        return {
            **state,
            "seconds": self.stopwatch.seconds,
            "reports": reports,
            "losses_by_epoch": list(self.losses),  # it may be written later
        }

    def _on_step_end(self) -> None:
        """Between two steps: reports progress, writes a checkpoint if due, stops if asked to."""
        if not self.has_stepped:
            self.has_stepped = True
            announce_step()
        self.on_progress(self.task.num_epochs_done)
        self._on_unit_end()

    def _batch_counter(self) -> Callable[[], None]:
        """A function that reports progress after each batch of the validation split."""
        num_batches = math.ceil(len(self.task.data.val) / BATCH_SIZE)
        progress, num_done = ProgressReporter(MEASURING, "batch", num_batches), count(1)

        def on_batch_end() -> None:
            progress.update(next(num_done))
            self._on_unit_end()

        return on_batch_end

    def _on_unit_end(self) -> None:
        self.watchdog.beat()
        self.checkpoint_manager.on_step_end()


def memory_of_others() -> str:
    """What other processes, trials among them, hold of a GPU, as the end of a sentence; or ""."""
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    others = total - free - torch.cuda.memory_reserved() - CONTEXT_BYTES
    if others <= 0:
        return ""
    return f": other processes hold {human_size(others)} of the GPU's {human_size(total)}"


def release_memory() -> None:
    """Frees unused memory for the other processes on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def train_or_find(
    config: TrialConfig,
    run: ExecutionConfig,
    on_hang: OnHang = die,
    description: str = TRAINING_START,
    while_waiting: Callable[[], None] | None = lambda: None,
    each_epoch: bool = False,
) -> Artifact:
    """The artifact of a trial: the files of `save`, and of a full-precision one its network.

    The network is unconverted, so that quantized trials can start from it. Progress is reported as
    `description`, unless nothing is trained. As long as another process trains it, `while_waiting`
    is called. It is evaluated after `each_epoch`, or only where something depends on its mIoU.

    Raises:
        NotBuilt: another process trains it, and `while_waiting` is None.
    """
    store = ArtifactStore(run.artifacts)
    key = artifact_key(config, run, store)
    checkpoints = checkpoint_folder(store.path(ARTIFACT_KIND, key))
    if config.recipe.is_reference:
        description = "measuring the network that is compressed"

    def build(folder: Path) -> None:
        progress = ProgressReporter(description, "epoch", config.num_epochs)
        trial = Trial(config, run, checkpoints, on_hang, progress.update, each_epoch=each_epoch)
        try:
            deque(save(trial, folder), maxlen=0)
        except TrialFailed:
            trial.checkpoint_manager.clear()
            raise
        if config.recipe.quantized is None:
            assert trial.student is not None
            spec = model_spec(config, trial.task.data.num_classes).replace(folded=False)
            write_model(folder / NETWORK_FILE, trial.student, spec)

    def wait(go_on: Callable[[], None]) -> None:
        leave_if_asked(run)
        go_on()

    waiting = while_waiting and partial(wait, while_waiting)
    artifact = store.get(ARTIFACT_KIND, key, build, waiting)
    with suppress(OSError):  # of an object store that does not answer
        delete(checkpoints)
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
