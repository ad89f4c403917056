"""What trainings cost on one GPU, and what bounds them: launches, memory traffic, or arithmetic.

    python -m benchmarks.gpu --out gpu.md [--sections steps recipes ...] [--search]

Ratios are of medians taken in turns in one run. The bytes' own time of a step is what its
operations read and write, each by itself, divided by the bandwidth of a copy in the same run.
Images are drawn. It needs neither Ray nor a network; `--search` adds a small study through Ray.
Without a GPU all runs on small images on the CPU, which tests this script and says nothing more.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import speed
from benchmarks.speed import BITS, DEVICE, FULL_PRECISION, GPU, LOSSES, Student, prepare_run
from benchmarks.timing import describe_machine, markdown, median_seconds, synchronize
from trainables.config import ExecutionConfig, TrialConfig
from trainables.data.configs import Augmentation
from trainables.losses.cross_entropy import cross_entropy
from trainables.losses.pixelwise import pixelwise_loss
from trainables.models.base import forward_features, supports_fast_bf16
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, write_model
from trainables.quantization import layers
from trainables.quantization.quantizers.base import Quantizer
from trainables.recipes import captured
from trainables.recipes.adamw import FlatAdamW, PlainAdamW
from trainables.recipes.base import Batch
from trainables.recipes.captured import NUM_EAGER, Captured
from trainables.recipes.configs import Distill, Qat, QatDistill, Recipe, Supervised
from trainables.teachers.output_cache import cache_outputs
from trainables.training.task import TrialTask
from trainables.training.time_probe import TimedTask
from trainables.training.trial import release_memory


class Case(NamedTuple):
    """Square images of a size, the batch, and the width of the U-Net."""

    image_size: int
    batch_size: int
    width: int

    def __str__(self) -> str:
        return f"{self.image_size} px, {self.batch_size} a step, width {self.width}"


CASES = (
    [Case(208, 8, 4), Case(208, 8, 8), Case(208, 8, 16), Case(512, 16, 8), Case(512, 16, 16)]
    if GPU
    else [Case(32, 4, 4), Case(48, 4, 8)]
)
"""208x208 pixels are as many as 240x180."""
SMALL, LARGE = CASES[1 if GPU else 0], CASES[-1]
NUM_IMAGES = 128 if GPU else 16
ROUNDS, NUM_STEPS = (7, 12) if GPU else (3, 3)
COPIED_BYTES = 1 << 30 if GPU else 1 << 24
PLAIN = Augmentation(min_scale=1, max_scale=1, color=0)
COMPILED = "max-autotune-no-cudagraphs"
"""PyTorch's own graphs would hold gradients, which stay between steps here."""
QUANTIZED: dict[str, tuple[Quantizer | None, tuple[str, ...]]] = {
    FULL_PRECISION: (None, ()),
    "W4A4, inputs quantized again": (BITS, (DEVICE.type,)),
    "W4A4, inputs kept": (BITS, ()),
}
"""Students, and the kinds of devices on which their quantized inputs are not kept: GPUs, as the
project has it, or none."""
NUM_CLASSES = 21
NUM_LINES = 12
"""Of a profile."""


def main() -> None:
    functions = (
        recipes,
        quantization,
        traffic,
        training,
        sharing,
        one_process,
        alternatives,
        steps,
    )
    sections_by_name = {function.__name__: function for function in functions}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="gets the tables, as Markdown")
    parser.add_argument("--sections", nargs="+", choices=sections_by_name)
    parser.add_argument("--search", action="store_true", help="ends with a study through Ray")
    arguments = parser.parse_args()
    out: Path = arguments.out
    torch.set_num_threads(1)
    parts = [f"Measured on: {describe_machine(DEVICE)}, {os.cpu_count()} cores.\n"]
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.sections or sections_by_name:
            begin = time.perf_counter()
            try:
                parts.append(sections_by_name[name](Path(scratch)))
            except Exception as error:  # the other sections are still of use
                parts.append(f"### {name}\n\nFailed: {type(error).__name__}: {error}\n")
            release_memory()
            print(f"{parts[-1]}\n({time.perf_counter() - begin:.0f} s)\n", flush=True)
            out.write_text("\n".join(parts))
        if arguments.search:
            parts.append(search(Path(scratch)))
            out.write_text("\n".join(parts))


# Steps


def task_of(folder: Path, case: Case) -> TrialTask:
    return TrialTask(config_of(case, Supervised()), run_of(folder, case))


def run_of(folder: Path, case: Case) -> ExecutionConfig:
    return prepare_run(folder / str(case.image_size), case.image_size, NUM_IMAGES)


def config_of(case: Case, recipe: Recipe) -> TrialConfig:
    return TrialConfig(
        student=UNetConfig(width=case.width),
        recipe=recipe,
        augmentation=PLAIN,
        batch_size=case.batch_size,
    )


def steps(folder: Path) -> str:
    """A supervised step on a fixed batch: called, replayed, and compiled by PyTorch."""
    rows: list[list[object]] = []
    for case in CASES:
        task = task_of(folder, case)
        batch = next(task.batches(1))
        called, replayed = (Student(task, is_replayed=replays) for replays in (False, True))
        kinds: dict[str, Callable[[], object]] = {
            "called": partial(called.step, batch),
            "replayed": partial(replayed.step, batch),
        }
        if GPU and case in (SMALL, LARGE):  # compiling takes a minute
            compiled = Student(task, is_replayed=False)
            outputs: Any = compiled.model.native_outputs
            compiled.model.native_outputs = torch.compile(outputs, mode=COMPILED)  # type: ignore[assignment]
            kinds["compiled"] = partial(compiled.step, batch)
        seconds = recorded_seconds(kinds)
        one = seconds["called"]
        shown = [seconds.get(kind) for kind in ("called", "replayed", "compiled")]
        times = ["-" if each is None else f"{1e3 * each:.1f}" for each in shown]
        ratios = ["-" if each is None else f"{one / each:.2f}" for each in shown[1:]]
        rows.append([case, *times, *ratios])
        release_memory()
    heading = ["case", "ms called", "ms replayed", "ms torch.compile", "called / replayed"]
    return (
        "### A supervised step\n\nForward, loss, backward and update of a fixed batch. `torch."
        f"compile` with the mode `{COMPILED}` compiles the forward and backward pass.\n\n"
        + markdown([*heading, "called / torch.compile"], rows)
    )


def recorded_seconds(kinds: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, after the calls in which a graph is recorded."""
    for kind in kinds.values():
        for _ in range(NUM_EAGER + 1):
            kind()
    return median_seconds(kinds, DEVICE, ROUNDS)


def recipes(folder: Path) -> str:
    """Steps of each recipe with their data work, called and replayed."""
    run = run_of(folder, SMALL)
    teacher = folder / "teacher.safetensors"
    spec = ModelSpec(model=UNetConfig(width=32), num_classes=7, folded=False)
    write_model(teacher, spec.build(), spec)
    live = run.replace(teacher=teacher)
    kept = live.replace(teacher_outputs=cache_outputs(live, "maps", PLAIN))
    tutoring = QatDistill(quantizer=BITS, losses=LOSSES, self_study=0, co_study=0)
    cases: dict[str, tuple[Recipe, ExecutionConfig]] = {
        "supervised": (Supervised(), run),
        "distilled, kept outputs": (Distill(losses=LOSSES), kept),
        "distilled, live teacher of width 32": (Distill(losses=LOSSES), live),
        "W4A4": (Qat(quantizer=BITS), run),
        "QKD, tutoring, kept outputs": (tutoring, kept),
        "QKD, co-study": (tutoring.replace(co_study=1), live),
    }
    rows: list[list[object]] = []
    for name, (recipe, own) in cases.items():
        config = config_of(SMALL, recipe)
        called, replayed = (step_seconds(config, own, replays) for replays in (False, True))
        rows.append(
            [name, f"{1e3 * called:.1f}", f"{1e3 * replayed:.1f}", f"{called / replayed:.2f}"]
        )
        release_memory()
    return (
        f"### Steps of the recipes\n\n{SMALL}; with data work, the shortest of {NUM_STEPS}.\n\n"
        + markdown(["recipe", "ms called", "ms replayed", "ratio"], rows)
    )


def step_seconds(config: TrialConfig, run: ExecutionConfig, is_replayed: bool) -> float:
    """The shortest time of a step of a recipe, from random weights."""
    with patch.object(captured, "NUM_EAGER", NUM_EAGER if is_replayed else sys.maxsize):
        task = TimedTask(config, run)
        task.num_steps += NUM_STEPS
        next(config.recipe.train(task))
        return task.step_seconds


def quantization(folder: Path) -> str:
    """W4A4 steps against full precision, with the memory of each."""
    rows: list[list[object]] = []
    for case in (SMALL, LARGE):
        task = task_of(folder, case)
        batch = next(task.batches(1))
        steps = {name: partial(step_of, task, batch, *kind) for name, kind in QUANTIZED.items()}
        seconds = recorded_seconds({name: make() for name, make in steps.items()})
        peaks = {name: peak_megabytes(make) if GPU else 0.0 for name, make in steps.items()}
        for name in QUANTIZED:
            ratio = seconds[name] / seconds[FULL_PRECISION]
            of_memory = peaks[name] / max(1, peaks[FULL_PRECISION])
            numbers = f"{1e3 * seconds[name]:.1f}", f"{ratio:.2f}", f"{peaks[name]:.0f}"
            rows.append([case, name, *numbers, f"{of_memory:.2f}"])
    heading = ["case", "student", "ms a step", "ratio", "MB", "ratio"]
    return "### A quantized step, replayed\n\n" + markdown(heading, rows)


def step_of(
    task: TrialTask, batch: Batch, bits: Quantizer | None, scarce: tuple[str, ...]
) -> Callable[[], object]:
    """A student's step; quantized inputs are not kept on devices whose memory is scarce."""
    student = Student(task, bits)

    def step() -> object:
        with patch.object(layers, "SCARCE_MEMORY", scarce):
            return student.step(batch)

    return step


def peak_megabytes(make: Callable[[], Callable[[], object]]) -> float:
    """What PyTorch held at most for a student's steps, its graph included."""
    release_memory()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    step = make()
    for _ in range(NUM_EAGER + 2):
        step()
    return (torch.cuda.max_memory_reserved() - before) / 1e6


# What bounds a step


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that operations read and write, each by itself; views move none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(results) if isinstance(each, Tensor)]
        is_view = not func._schema.is_mutable and any(
            one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
            for one in made
            for other in given
        )
        if not is_view and not func.overloadpacket.__name__.startswith(("empty", "new_empty")):
            self.bytes += sum(each.numel() * each.element_size() for each in given + made)
        return results


def traffic(folder: Path) -> str:
    """The bytes' own time of a step, its arithmetic, and where its time goes."""
    rows: list[list[object]] = []
    bandwidth = copy_bandwidth()
    slowest: tuple[float, Case] = (0.0, LARGE)
    for case in CASES:
        task = task_of(folder, case)
        student, batch = Student(task), next(task.batches(1))
        seconds = recorded_seconds({"step": partial(student.step, batch)})["step"]
        student.step.gradients.is_refused = True
        with Traffic() as moved:
            student.step(batch)
        with FlopCounterMode(display=False) as counter:
            student.step(batch)
        own = moved.bytes / bandwidth
        flops = counter.get_total_flops()
        slowest = max(slowest, (seconds, case))
        rows.append([
            case, f"{1e3 * seconds:.1f}", f"{moved.bytes / 1e9:.2f}", f"{1e3 * own:.1f}",
            f"{seconds / own:.2f}", f"{flops / 1e9:.1f}", f"{flops / seconds / 1e12:.2f}",
        ])  # fmt: skip
        del student
        release_memory()
    heading = ["case", "ms a step", "GB moved", "ms of the bytes", "step / bytes", "GFLOP"]
    return (
        f"### What bounds a step\n\nA copy moves {bandwidth / 1e9:.0f} GB/s, reads and writes "
        "together.\n\n" + markdown([*heading, "TFLOP/s"], rows) + "\n"
        f"Where the time of the slowest goes ({slowest[1]}, called):\n\n```\n"
        f"{profiled(folder, slowest[1])}\n```\n"
    )


def copy_bandwidth() -> float:
    """Bytes a second that a copy reads and writes."""
    source = torch.ones(COPIED_BYTES // 4, device=DEVICE)
    target = torch.empty_like(source)
    seconds = median_seconds({"copy": lambda: target.copy_(source)}, DEVICE, ROUNDS)["copy"]
    return 2 * COPIED_BYTES / seconds


def profiled(folder: Path, case: Case) -> str:
    """The operations of a step by their own time."""
    task = task_of(folder, case)
    student, batch = Student(task, is_replayed=False), next(task.batches(1))
    for _ in range(NUM_EAGER):
        student.step(batch)
    kinds = [ProfilerActivity.CUDA if GPU else ProfilerActivity.CPU]
    with profile(activities=kinds) as profiler:
        for _ in range(3):
            student.step(batch)
        synchronize(DEVICE)
    key = "self_device_time_total" if GPU else "self_cpu_time_total"
    found = {event.key: (getattr(event, key), event.count) for event in profiler.key_averages()}
    total = sum(own for own, _ in found.values())
    largest = sorted(found.items(), key=lambda item: item[1], reverse=True)[:NUM_LINES]
    lines = [
        f"{100 * own / max(1, total):5.1f} %  {count // 3:5} a step  {name[:90]}"
        for name, (own, count) in largest
    ]
    return "\n".join(lines)


def alternatives(folder: Path) -> str:
    """Parts of a step by themselves: as they are, and in a form that may be faster."""
    rows: list[list[object]] = []
    for case in (SMALL, LARGE):
        for name, (plain, other) in forms_of_parts(case).items():
            seconds = recorded_seconds({"plain": plain, "other": other})
            times = [f"{1e3 * each:.3f}" for each in seconds.values()]
            rows.append([case, name, *times, f"{seconds['plain'] / seconds['other']:.2f}"])
            release_memory()
    heading = ["case", "part, and its other form", "ms as it is", "ms of the other", "ratio"]
    return (
        "### Parts of a step\n\nForward and backward, replayed; activations in the type that steps "
        f"compute with, {NUM_CLASSES} classes. `torch.compile` fuses operations, so that less is "
        "read and written.\n\n" + markdown(heading, rows)
    )


def forms_of_parts(case: Case) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Each part as it is, and in another form, by name."""
    size, width = (case.batch_size, case.image_size), case.width
    dtype = torch.bfloat16 if supports_fast_bf16(DEVICE) else torch.float32

    def images(channels: int, needs_gradient: bool = True) -> Tensor:
        made = torch.randn(size[0], channels, size[1], size[1], device=DEVICE, dtype=dtype)
        made = made.to(memory_format=torch.channels_last)
        return made.requires_grad_(needs_gradient)

    def differentiated(function: Callable[..., Tensor], *given: Tensor) -> Callable[[], object]:
        def call(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            wanted = [each for each in tensors if each.requires_grad]
            result = function(*tensors)
            return torch.autograd.grad(result, wanted, torch.ones_like(result))

        captured = Captured(call)
        return lambda: captured(given)

    def fused(function: Callable[..., Tensor], *given: Tensor) -> Any:
        compiled = torch.compile(function, dynamic=False)
        return differentiated(function, *given), differentiated(compiled, *given)

    scale, shift = (torch.ones(width, device=DEVICE, requires_grad=True) for _ in range(2))
    labels = torch.randint(NUM_CLASSES, (size[0], size[1], size[1]), device=DEVICE)
    padded = -(-width // 8) * 8

    def normalized(value: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return F.relu(F.batch_norm(value, None, None, scale, shift, training=True))

    def distillation(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        return pixelwise_loss(student, teacher, labels, temperature=2.0)

    def convolution(channels: int) -> Callable[[], object]:
        weight = torch.randn(channels, channels, 3, 3, device=DEVICE, dtype=dtype)
        weight = weight.to(memory_format=torch.channels_last).requires_grad_()
        return differentiated(partial(F.conv2d, padding=1), images(channels), weight)

    logits, teacher = images(NUM_CLASSES), images(NUM_CLASSES, needs_gradient=False)
    return {
        "BatchNorm and ReLU, compiled": fused(normalized, images(width), scale, shift),
        "cross-entropy, compiled": fused(cross_entropy, logits, labels),
        "pixel-wise distillation, compiled": fused(distillation, logits, teacher, labels),
        f"3x3 convolution, {padded} channels": (convolution(width), convolution(padded)),
        "AdamW, single parameters": (
            update_of(case, FlatAdamW),
            update_of(case, partial(PlainAdamW, fused=True)),
        ),
    }


def update_of(case: Case, kind: Callable[..., PlainAdamW]) -> Callable[[], object]:
    """An update of a student's weights."""
    weights = list(UNetConfig(width=case.width).build(NUM_CLASSES).to(DEVICE).parameters())
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = kind([{"params": weights, "lr": 1e-4}])
    if isinstance(optimizer, FlatAdamW):
        optimizer.flatten()
    return lambda: optimizer.step()


# Trials


def sharing(folder: Path) -> str:
    """Trials at once on the device, at the size of small and of large images."""
    parts = []
    for case in (SMALL, LARGE):
        table = speed.sharing(run_of(folder, case), case.batch_size, case.width)
        parts.append(f"{case}:\n\n{table}")
    return "\n".join(parts)


def one_process(folder: Path) -> str:
    """Several students that one process trains: in turn, on streams of their own, and stacked."""
    task = task_of(folder, SMALL)
    batch = next(task.batches(1))
    alone, rows = 0.0, list[list[object]]()
    for number in (1, 2, 4, 8):
        in_turn, on_streams = ([Student(task) for _ in range(number)] for _ in range(2))
        kinds: dict[str, Callable[[], object]] = {
            "in turn": partial(step_in_turn, in_turn, batch),
            "stacked": partial(Stack(task, number).step, batch),
        }
        if GPU:
            streams = [torch.cuda.Stream() for _ in range(number)]  # type: ignore[no-untyped-call]
            kinds["on streams"] = partial(step_on_streams, on_streams, streams, batch)
        seconds = recorded_seconds(kinds)
        alone = alone or seconds["in turn"]
        shown = [seconds.get(kind) for kind in ("in turn", "on streams", "stacked")]
        rates = ["-" if each is None else f"{number * alone / each:.2f}" for each in shown]
        rows.append([number, *rates])
        del in_turn, on_streams, kinds
        release_memory()
    return (
        f"### Several students in one process\n\n{SMALL}, replayed; images a second of all "
        "students on the same batch, against one student. Stacked: `torch.func.vmap` over the "
        "students' weights.\n\n" + markdown(["students", "in turn", "on streams", "stacked"], rows)
    )


def step_in_turn(students: Sequence[Student], batch: Batch) -> None:
    for student in students:
        student.step(batch)


def step_on_streams(students: Sequence[Student], streams: Sequence[Any], batch: Batch) -> None:
    for student, stream in zip(students, streams, strict=True):
        with torch.cuda.stream(stream):
            student.step(batch)


class Logits(nn.Module):
    """A student as a module that gives its logits, at the size of the images."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return forward_features(self.student, images_B3HW).logits


class Stack:
    """Students of one shape whose weights are stacked, so that each operation is one for all."""

    def __init__(self, task: TrialTask, number: int) -> None:
        students = [Logits(task.new_student()) for _ in range(number)]
        self.module = students[0]
        self.weights, self.buffers = stack_module_state(students)
        self.optimizer = PlainAdamW(self.weights.values(), lr=1e-4, fused=True)
        self.gradients = Captured(self._gradients)

    def _gradients(self, batch: Batch) -> dict[str, Tensor]:
        call = partial(functional_call, self.module)
        state = {**self.weights, **self.buffers}
        logits = torch.vmap(call, in_dims=(0, None))(state, batch.images)
        loss = torch.stack([cross_entropy(each, batch.labels) for each in logits]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def step(self, batch: Batch) -> None:
        self.gradients(batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


def training(folder: Path) -> str:
    """A whole training of small images."""
    task = task_of(folder, SMALL)
    student, num_epochs = Student(task), 20 if GPU else 2
    student.train_epoch(task)
    synchronize(DEVICE)
    begin = time.perf_counter()
    for _ in range(num_epochs):
        student.train_epoch(task)
    synchronize(DEVICE)
    seconds = time.perf_counter() - begin
    num_steps = num_epochs * (NUM_IMAGES // SMALL.batch_size)
    return (
        f"### A training\n\n{SMALL}: {num_steps} steps with their data in {seconds:.1f} s, "
        f"{1e3 * seconds / num_steps:.2f} ms each, {4000 * seconds / num_steps:.0f} s for 4,000.\n"
    )


def search(folder: Path) -> str:
    """A whole study through Ray, on the built-in images."""
    command = [sys.executable, "-m", "search.run", "--space", "qkd", "--storage", str(folder / "s")]
    begin = time.perf_counter()
    subprocess.run([*command, "--name", "gpu", "--quiet"], check=True)
    seconds = time.perf_counter() - begin
    status = [sys.executable, "-m", "search.status", str(folder / "s" / "gpu")]
    report = subprocess.run(status, check=True, capture_output=True, text=True).stdout
    return f"### A study\n\n`{' '.join(command[1:5])}`: {seconds:.0f} s.\n\n```\n{report}```\n"


if __name__ == "__main__":
    main()
