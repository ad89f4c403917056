"""One trial, from its configuration to a measured model file, without Ray."""

import gc
import json
import time
from collections import deque
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import torch
from torch import nn

from trainables.artifacts import Artifact, ArtifactStore
from trainables.config import RunConfig, TrialConfig
from trainables.data.augmentation import Transform
from trainables.data.loader import Loader, shuffled
from trainables.data.pack import images_of, open_pack
from trainables.data.table import Tensors
from trainables.errors import TrialFailed
from trainables.evaluation import count_changed, evaluate
from trainables.files import hash_file, replace_file
from trainables.gates import check_finite, check_learning
from trainables.metrics import Metrics
from trainables.models.file import compressed, deserialize, read_model, serialize, write_model
from trainables.models.outputs import is_fast, place
from trainables.recipes import Batch, Tutor, train
from trainables.size import count_macs, count_params, model_card, predict_size_bytes
from trainables.teacher_outputs import TeacherOutputs, fixed_views
from trainables.tutors import CachedTutor, LiveTutor

FORMAT = 4
"""Of trained students as artifacts: raise it whenever the same configuration trains otherwise."""

MODEL_FILE, METRICS_FILE, CONFIG_FILE = "model.safetensors", "metrics.json", "config.json"
NETWORK_FILE = "network.safetensors"
"""Of a full-precision student as an artifact: the network as training goes on with it."""


class Trial:
    """Iterate over it for the Metrics of each epoch; then `model_bytes` is the model file.

    `student` is the trained network that the file was converted from.

    Iterating raises TrialFailed where the training gives nothing worth ranking.
    """

    def __init__(self, config: TrialConfig, run: RunConfig) -> None:
        torch.set_num_threads(run.num_threads)
        self.config, self.run = config, run
        self.data = open_pack(run.data)
        self.device = torch.device(run.device)
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(run.gpu_share)
        self.train = Loader(self.data.train, self.device, run.gpu_share)
        self.val = Loader(self.data.val, self.device, run.gpu_share)
        self.transform = Transform(config.augmentation)
        self.outputs: TeacherOutputs | None = None
        if config.asks_teacher and run.teacher_outputs:
            assert run.teacher is not None, "outputs are a teacher's"
            teacher = hash_file(run.teacher)
            self.outputs = TeacherOutputs(
                run.teacher_outputs, self.data.digest, teacher, config.augmentation
            )
            self.kept = Loader(self.outputs.table, self.device, run.gpu_share)
        self.num_epochs = config.num_epochs
        self.num_steps = config.num_epochs * max(1, len(self.data.train) // config.batch_size)
        self.parts = 1
        self.start_seconds = 0.0
        self.waited_seconds = 0.0
        self.student: nn.Module | None = None
        self.model_bytes: bytes | None = None

    def __iter__(self) -> Iterator[Metrics]:
        config, reported = self.config, 0
        try:
            for metrics in self._train():
                reported = metrics.epoch
                yield metrics
            return
        except torch.OutOfMemoryError as error:
            if config.batch_size < 4:
                raise TrialFailed(f"out of memory with a batch of {config.batch_size}") from error
        # Once more from the beginning, outside the handler, which holds on to what filled memory
        self.parts = 2
        give_memory_back()
        half = config.batch_size // 2
        print(f"out of memory: once more with 2 batches of {half} for a step", flush=True)
        try:
            yield from (metrics for metrics in self._train() if metrics.epoch > reported)
        except torch.OutOfMemoryError as error:
            raise TrialFailed(f"out of memory, with batches of {half} images, too") from error

    def _train(self) -> Iterator[Metrics]:
        config, data = self.config, self.data
        size = {
            "num_params": count_params(config.student, data.num_classes),
            "macs": count_macs(config.student, data.num_classes, data.height, data.width),
            "predicted_size_bytes": predict_size_bytes(config, data.num_classes),
        }
        history: list[dict[str, float]] = []
        best = 0.0
        begin, idle = time.perf_counter(), 0.0
        for epoch, (student, losses) in enumerate(train(config.recipe, self), start=1):
            check_finite(losses, epoch, config)
            history.append(losses)
            changed = None
            if epoch == self.num_epochs:
                shipped = self._pack(student)
                changed = count_changed(student, shipped, self.val)
                student = shipped
            scores = evaluate(student, self.val, data.num_classes)
            best = max(best, scores.miou)
            check_learning(best, scores, history, config, self.num_steps)
            metrics = Metrics(
                epoch=epoch,
                miou=scores.miou,
                pixel_accuracy=scores.pixel_accuracy,
                losses=losses,
                device_seconds=time.perf_counter() - begin - idle - self.waited_seconds,
                start_seconds=self.start_seconds,
                parts=self.parts,
                size_bytes=len(self.model_bytes) if self.model_bytes else None,
                compressed_bytes=compressed(self.model_bytes) if self.model_bytes else None,
                changed_pixels=changed,
                **size,
            )
            reported = time.perf_counter()
            yield metrics
            idle += time.perf_counter() - reported

    def _pack(self, student: nn.Module) -> nn.Module:
        """Turns the student into a file and gives back what the file holds."""
        self.student = student
        self.model_bytes = serialize(student, model_card(self.config, self.data.num_classes))
        return place(deserialize(self.model_bytes), self.device)

    def batches(self, epoch: int) -> Iterator[Batch]:
        config, count = self.config, len(self.train)
        rows = shuffled(count, config.batch_size, config.seed, epoch)
        if self.parts > 1:
            rows = [half for batch in rows for half in halves(batch)]
        views = config.augmentation.views(count, config.seed, epoch)
        cached: Iterator[Tensors] = repeat({})
        if self.outputs is not None:
            cached = self.kept.batches(self.outputs.rows(batch, epoch) for batch in rows)
            if self.outputs.form == "views":
                views = fixed_views(config.augmentation, count, self.outputs.view(epoch))
        for batch, raw, taught in zip(rows, self.train.batches(rows), cached, strict=False):
            seen = views.select(torch.tensor(batch), self.device)
            images = self.transform.images(images_of(raw), seen)
            labels = self.transform.labels(raw["mask"], seen)
            yield Batch(images.contiguous(memory_format=torch.channels_last), labels, seen, taught)

    def new_student(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            student = self.config.student.build(self.data.num_classes)
        return place(student, self.device).train()

    def starting_student(self) -> nn.Module:
        begin = time.perf_counter()
        try:
            start = trained(self.config.start, self.run)
        except TrialFailed as failure:
            raise TrialFailed(f"{failure} (its full-precision start)") from failure
        self.start_seconds = start.seconds
        self.waited_seconds = time.perf_counter() - begin
        return place(read_model(start.path / NETWORK_FILE), self.device).train()

    def teacher(self) -> Tutor:
        if self.outputs is None:
            assert self.run.teacher is not None, "a recipe with a teacher runs with one"
            return LiveTutor(place(read_model(self.run.teacher), self.device))
        maps = self.transform if self.outputs.form == "maps" else None
        tutor = CachedTutor(self.data.num_classes, maps)
        place(tutor.network, self.device)
        return tutor


def halves(batch: list[int]) -> tuple[list[int], list[int]]:
    return batch[: len(batch) // 2], batch[len(batch) // 2 :]


def give_memory_back() -> None:
    """Frees what nobody uses any more, for the other processes on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def trained(config: TrialConfig, run: RunConfig) -> Artifact:
    """The artifact of a full-precision trial: what `save` leaves, and the network to train on."""
    key: dict[str, object] = {
        "format": FORMAT,
        "config": config.model_dump(mode="json"),
        "data": run.data.name,
        "bfloat16": is_fast(torch.device(run.device)),
    }
    if config.needs_teacher and run.teacher:
        key["teacher"] = run.teacher.parent.name
        key["teacher_outputs"] = run.teacher_outputs and run.teacher_outputs.name

    def build(folder: Path) -> None:
        trial = Trial(config, run)
        deque(save(trial, folder), maxlen=0)
        assert trial.student is not None
        card = model_card(config, trial.data.num_classes).replace(folded=False)
        write_model(folder / NETWORK_FILE, trial.student, card)

    return ArtifactStore(run.artifacts).get("student", key, build)


def save(trial: Trial, folder: Path) -> Iterator[Metrics]:
    """Passes a trial's metrics on; before the last, writes model file, configuration, metrics."""
    history = []
    for metrics in trial:
        history.append(metrics.model_dump(mode="json"))
        if trial.model_bytes:
            replace_file(folder / CONFIG_FILE, trial.config.model_dump_json(indent=1))
            replace_file(folder / METRICS_FILE, json.dumps(history, indent=1))
            replace_file(folder / MODEL_FILE, trial.model_bytes)
        yield metrics
