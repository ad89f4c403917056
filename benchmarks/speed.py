"""The cost of a training step, and of data, teacher and quantization in it.

    python -m benchmarks.speed --out speed.md

Ratios are of medians over rounds taken in turns in one run. Images are drawn, not photographs; the
teacher is DeepLabV3-ResNet101 with random weights. All runs on the GPU if there is one, else on one
CPU thread for each trial; it needs neither Ray nor a network.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks import fake_quantization
from benchmarks.timing import describe_machine, markdown, median_seconds, synchronize
from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.augmentation import normalize
from trainables.data.base import SPLITS
from trainables.data.configs import Augmentation
from trainables.data.packed import pack_dataset
from trainables.data.registry import ShapesSource
from trainables.data.voc import PAD_RGB
from trainables.losses.configs import Pairwise, Pixelwise, by_name
from trainables.losses.cross_entropy import cross_entropy
from trainables.models.base import forward_features
from trainables.models.configs import TorchvisionConfig, UNetConfig
from trainables.models.model_file import ModelSpec, write_model
from trainables.quantization.prepare import calibrate, prepare
from trainables.quantization.quantizers import lsq_kernels as fused
from trainables.quantization.quantizers.base import Quantizer
from trainables.quantization.quantizers.configs import Lsq, QuantizerName
from trainables.recipes.base import Batch
from trainables.recipes.configs import AdamW, Distill, Supervised
from trainables.recipes.distill import distillation_loss
from trainables.recipes.optimization import OptimizerLoop
from trainables.recipes.training_step import TrainingStep
from trainables.teachers.output_cache import Form, cache_outputs
from trainables.training.task import TrialTask

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GPU = DEVICE.type == "cuda"
IMAGE_SIZE = 512 if GPU else 128
BATCH_SIZE = 16 if GPU else 8
NUM_TRAIN = 256 if GPU else 64
WIDTH = 16
READY_S, MEASURED_S = 20.0, 8.0
"""Until trials that share a device have begun, and for which they are measured then."""
BITS = Lsq(weight_bits=4, activation_bits=4)
LOSSES = by_name(Pixelwise(), Pairwise())
FULL_PRECISION, PLAIN = "full precision", "W4A4 lsq, plain operations"
KINDS: dict[str, Quantizer | None] = {
    FULL_PRECISION: None,
    **{f"W4A4 {name}": BITS.of_kind(name) for name in get_args(QuantizerName)},
    PLAIN: BITS,
}
"""Students of the section on quantization."""

Step = Callable[[], object]


def main() -> None:
    functions = (data_cost, teacher_cost, quantization_cost, kernels, sharing, growth)
    sections_by_name = {function.__name__: function for function in functions}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="gets the tables, as Markdown")
    parser.add_argument("--sections", nargs="+", choices=sections_by_name)
    arguments = parser.parse_args()
    out: Path = arguments.out
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        run = prepare_run(Path(scratch), IMAGE_SIZE, NUM_TRAIN)
        sections = [
            f"Measured on: {describe_machine(DEVICE)}, {os.cpu_count()} cores. Images of "
            f"{IMAGE_SIZE}x{IMAGE_SIZE} pixels, {BATCH_SIZE} a step, U-Net of width {WIDTH}.\n",
        ]
        for name in arguments.sections or sections_by_name:
            begin = time.perf_counter()
            sections.append(sections_by_name[name](run))
            print(f"{sections[-1]}\n({time.perf_counter() - begin:.0f} s)\n", flush=True)
            out.write_text("\n".join(sections))


def prepare_run(folder: Path, image_size: int, num_train: int) -> ExecutionConfig:
    store = ArtifactStore(folder / "artifacts")
    source = ShapesSource(image_size, num_train=num_train, num_val=16)
    return ExecutionConfig(
        data=pack_dataset(source, store).path, artifacts=store.root, device="cuda" if GPU else "cpu"
    )


def make_task(
    run: ExecutionConfig,
    augmentation: Augmentation,
    distilled: bool = False,
    width: int = WIDTH,
    batch_size: int = BATCH_SIZE,
) -> TrialTask:
    config = TrialConfig(
        student=UNetConfig(width=width),
        recipe=Distill(losses=LOSSES) if distilled else Supervised(),
        augmentation=augmentation,
        batch_size=batch_size,
    )
    return TrialTask(config, run)


class Student:
    """A student that takes training steps, replayed on a GPU unless they are to be called."""

    def __init__(
        self, task: TrialTask, bits: Quantizer | None = None, is_replayed: bool = True
    ) -> None:
        self.model = task.new_student()
        if bits:
            images = next(task.batches(1)).images
            prepare(self.model, bits).to(DEVICE)
            calibrate(self.model, images)
        self.optimizer_loop = OptimizerLoop(self.model, AdamW(learning_rate=1e-4), 10**6, 1)
        self.step = TrainingStep(self.gradients, self.optimizer_loop)
        self.step.gradients.is_refused = not is_replayed

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        loss = cross_entropy(forward_features(self.model, batch.images).logits, batch.labels)
        self.optimizer_loop.backward(loss)
        return {"cross_entropy": loss}

    def train_epoch(self, task: TrialTask) -> None:
        for batch in task.batches(1):
            self.step(batch)


def endless(task: TrialTask) -> Iterator[Batch]:
    for epoch in count(1):
        yield from task.batches(epoch)


def per_step(seconds: dict[str, float], unit: str, more: dict[str, str]) -> list[list[object]]:
    """For each case: its name, its milliseconds, their ratio to those of `unit`, and one more."""
    return [
        [name, f"{1e3 * value:.1f}", f"{value / seconds[unit]:.2f}", more[name]]
        for name, value in seconds.items()
    ]


# Data


class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """The usual pipeline: Pillow decodes, torchvision transforms, one image at a time."""

    def __init__(self, folder: Path, augmentation: Augmentation) -> None:
        self.files = sorted(folder.glob("*.jpg"))
        size = (IMAGE_SIZE, IMAGE_SIZE)
        fill = {tv_tensors.Image: PAD_RGB, tv_tensors.Mask: 255}
        scales = (augmentation.min_scale, augmentation.max_scale)
        color = augmentation.color
        steps: list[v2.Transform] = [v2.RandomHorizontalFlip()]
        if scales != (1, 1):
            steps += [v2.ScaleJitter(size, scales), v2.RandomCrop(size, None, True, fill)]
        if color:
            steps.append(v2.ColorJitter(color, color, color))
        self.transform = v2.Compose(steps)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        file = self.files[index]
        image = tv_tensors.Image(v2.functional.pil_to_tensor(Image.open(file).convert("RGB")))
        mask = v2.functional.pil_to_tensor(Image.open(file.with_suffix(".png")))[0]
        image, mask = self.transform(image, tv_tensors.Mask(mask))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor).long()


def write_photographs(folder: Path) -> None:
    source = ShapesSource(IMAGE_SIZE, num_train=NUM_TRAIN)
    for index in range(NUM_TRAIN):
        sample = source.sample("train", index)
        Image.fromarray(sample.image).save(folder / f"{index:04d}.jpg", quality=90)
        Image.fromarray(sample.mask).save(folder / f"{index:04d}.png")


def data_cost(run: ExecutionConfig) -> str:
    """An epoch of ours, of the usual pipeline, and of the same steps without any data work."""
    rows: list[list[object]] = []
    folder = Path(tempfile.mkdtemp(dir=run.artifacts))
    write_photographs(folder)
    for name, augmentation in (
        ("flips", Augmentation(min_scale=1, max_scale=1, color=0)),
        ("scale, crop, flip, colour", Augmentation()),
    ):
        task = make_task(run, augmentation)
        student, fixed = Student(task), next(task.batches(1))
        loader = DataLoader(
            Photographs(folder, augmentation),
            BATCH_SIZE,
            shuffle=True,
            num_workers=os.cpu_count() or 1,
            persistent_workers=True,
            drop_last=True,
            pin_memory=GPU,
        )

        def limit(student: Student = student, fixed: Batch = fixed) -> None:
            for _ in range(NUM_TRAIN // BATCH_SIZE):
                student.step(fixed)

        def usual(
            loader: DataLoader[tuple[Tensor, Tensor]] = loader,
            student: Student = student,
            fixed: Batch = fixed,
        ) -> None:
            for images, labels in loader:
                on_device = normalize(images.to(DEVICE, non_blocking=True))
                on_device = on_device.contiguous(memory_format=torch.channels_last)
                labels = labels.to(DEVICE, non_blocking=True)
                student.step(fixed._replace(images=on_device, labels=labels))

        ours = partial(student.train_epoch, task)
        seconds = median_seconds({"limit": limit, "ours": ours, "usual": usual}, DEVICE, 5)
        rows.append(
            [
                name,
                *(f"{NUM_TRAIN / seconds[kind]:.1f}" for kind in ("usual", "ours", "limit")),
                f"{seconds['limit'] / seconds['ours']:.2f}",
                f"{seconds['limit'] / seconds['usual']:.2f}",
            ]
        )
    heading = ["augmentation", "usual pipeline", "ours", "limit", "ours / limit", "usual / limit"]
    return (
        "### Images per second of a supervised trial\n\nThe usual pipeline decodes JPEG files in "
        "as many processes as there are cores; the limit is the same step on tensors that lie on "
        "the device.\n\n" + markdown(heading, rows)
    )


# Teacher


def teacher_cost(run: ExecutionConfig) -> str:
    """A distilled step with the teacher in the loop, and with its outputs kept."""
    folder = Path(tempfile.mkdtemp(dir=run.artifacts))
    card = ModelSpec(
        model=TorchvisionConfig(name="deeplabv3_resnet101"),
        num_classes=len(ShapesSource(16).class_names),
    )
    model = card.build().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # random weights explode unless normalisation has seen their scale
        model(torch.randn(4, 3, 128, 128))
    write_model(folder / "model.safetensors", model, card)
    run = run.replace(teacher=folder / "model.safetensors")
    augmentation = Augmentation()
    steps: dict[str, Step] = {}
    kinds: tuple[Form | None, ...] = (None, "views", "maps")
    for form in kinds:
        kept = run.replace(teacher_outputs=cache_outputs(run, form, augmentation) if form else None)
        task = make_task(kept, augmentation, distilled=True)
        steps[form or "live"] = distilled_step(task)
    plain = make_task(run, augmentation)
    student, batches = Student(plain), endless(plain)

    def supervised() -> None:
        batch = next(batches)
        student.step(batch)

    steps["supervised"] = supervised
    seconds = median_seconds(steps, DEVICE)
    gains = {name: f"{seconds['live'] / value:.2f}" for name, value in seconds.items()}
    rows = per_step(seconds, "supervised", gains)
    return (
        "### A distilled step, by where the teacher's outputs come from\n\nDeepLabV3-ResNet101; "
        "pixel-wise and pair-wise terms; data work included.\n\n"
        + markdown(["teacher outputs", "ms a step", "/ supervised", "live /"], rows)
    )


def distilled_step(task: TrialTask) -> Step:
    student, teacher, batches = Student(task), task.teacher(), endless(task)

    loss = distillation_loss(Distill(losses=LOSSES), student.model, teacher, task)

    def gradients(batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_outputs = teacher(batch)
        outputs = forward_features(student.model, batch.images)
        labels = {"cross_entropy": cross_entropy(outputs.logits, batch.labels)}
        terms: dict[str, Tensor] = loss(outputs, teacher_outputs, batch.labels)
        student.optimizer_loop.backward(loss.total(labels, terms))
        return labels | terms

    step = TrainingStep(gradients, student.optimizer_loop)
    return lambda: step(next(batches))


# Quantization


def quantization_cost(run: ExecutionConfig) -> str:
    """A step with W4A4 fake quantization, of every quantizer, against the full-precision one."""
    task = make_task(run, Augmentation())
    fixed = next(task.batches(1))

    def step_of(kind: str) -> Step:
        student, fewest = Student(task, KINDS[kind]), least_compiled(kind)

        def step() -> None:
            before, fused.MIN_ELEMENTS = fused.MIN_ELEMENTS, fewest
            student.step(fixed)
            fused.MIN_ELEMENTS = before

        return step

    seconds = median_seconds({kind: step_of(kind) for kind in KINDS}, DEVICE)
    peaks = {kind: f"{in_process(peak_megabytes, run, kind):.0f}" for kind in KINDS}
    rows = per_step(seconds, FULL_PRECISION, peaks)
    memory = "GPU memory" if GPU else "resident memory of the process"
    return (
        f"### A quantized step\n\nWithout data work. Peak: {memory} over 3 steps, in a process "
        "of its own.\n\n" + markdown(["student", "ms a step", "ratio", "peak MB"], rows)
    )


def least_compiled(kind: str) -> int:
    """The fewest elements of tensors that compiled code quantizes."""
    return 1 << 62 if kind == PLAIN else fused.MIN_ELEMENTS


def peak_megabytes(run: ExecutionConfig, kind: str) -> float:
    """The peak of three steps."""
    torch.set_num_threads(1)
    task = make_task(run, Augmentation())
    fused.MIN_ELEMENTS = least_compiled(kind)
    student, fixed = Student(task, KINDS[kind]), next(task.batches(1))
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        student.step(fixed)
    if GPU:
        return torch.cuda.max_memory_allocated() / 1e6
    # of this process alone: getrusage would tell the parent's peak before exec, too
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1e3


def in_process(function: Callable[..., float], *arguments: object) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def kernels(run: ExecutionConfig) -> str:
    """Ways to fake-quantize activations; a script of its own as well."""
    return "### Fake quantization of activations\n\n" + fake_quantization.compare()


# Several trials


def sharing(run: ExecutionConfig, batch_size: int = BATCH_SIZE, width: int = WIDTH) -> str:
    """Trials at once on one device."""
    rows: list[list[object]] = []
    alone = 0.0
    for num in (1, 2, 4, 8) if GPU else (1, 2, 4):
        with multiprocessing.get_context("spawn").Pool(num) as pool:
            given = run, time.time() + READY_S, MEASURED_S, batch_size, width
            rates = pool.starmap(train_until, [given] * num)
        alone = alone or sum(rates)
        rows.append([num, f"{sum(rates):.1f}", f"{sum(rates) / alone:.2f}"])
    return "### Several trials on one device\n\nSupervised, data work included.\n\n" + markdown(
        ["trials", "images per second, all together", "against one"], rows
    )


def train_until(
    run: ExecutionConfig, begin: float, duration: float, batch_size: int, width: int
) -> float:
    """Images per second of one trial, measured for `duration` seconds from `begin` on."""
    torch.set_num_threads(1)
    task = make_task(run, Augmentation(), width=width, batch_size=batch_size)
    student, batches = Student(task), endless(task)
    assert time.time() < begin, "all trials must be ready before the clock starts"
    num_images, started = 0, 0.0
    while time.time() < begin + duration:
        batch = next(batches)
        student.step(batch)
        if started:
            num_images += batch_size
        elif time.time() > begin:
            synchronize(DEVICE)
            started = time.time()
    synchronize(DEVICE)
    return num_images / (time.time() - started)


# Growth


def growth(run: ExecutionConfig) -> str:
    """Seconds of an epoch and bytes, as the work grows."""
    small = IMAGE_SIZE // 2
    cases = {
        "base": (small, NUM_TRAIN, 8, BATCH_SIZE),
        "image size x2": (2 * small, NUM_TRAIN, 8, BATCH_SIZE),
        "data x4": (small, 4 * NUM_TRAIN, 8, BATCH_SIZE),
        "width x2": (small, NUM_TRAIN, 16, BATCH_SIZE),
        "batch x4": (small, NUM_TRAIN, 8, 4 * BATCH_SIZE),
    }
    epochs: dict[str, Step] = {}
    sizes: dict[str, int] = {}
    for name, (image_size, num_train, width, batch_size) in cases.items():
        own = prepare_run(run.artifacts / f"growth-{image_size}", image_size, num_train)
        task = make_task(own, Augmentation(), width=width, batch_size=batch_size)
        student = Student(task)
        sizes[name] = sum((own.data / f"{split}.arrow").stat().st_size for split in SPLITS)
        epochs[name] = partial(student.train_epoch, task)
    seconds = median_seconds(epochs, DEVICE, 5)
    rows: list[list[object]] = [
        [
            name,
            *cases[name],
            f"{value:.2f}",
            f"{value / seconds['base']:.2f}",
            f"{sizes[name] / 1e6:.1f}",
        ]
        for name, value in seconds.items()
    ]
    return "### As the work grows\n\n" + markdown(
        ["case", "pixels a side", "images", "width", "batch", "s an epoch", "ratio", "MB packed"],
        rows,
    )


if __name__ == "__main__":
    main()
