"""Sets up data, a teacher and its outputs, for searches and for single trainings.

The caller chooses where lines are printed (`say`), and where work runs (`runner`): in this process
or on a worker.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from rich.filesize import decimal

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore, NotBuilt, only_found
from trainables.core.mirror import is_mirrored
from trainables.core.progress import announce
from trainables.data.base import Source
from trainables.data.configs import AUGMENTATIONS, MEASURED_ON, Augmentation, LabelSize
from trainables.data.packed import PackedDataset, find_pack, open_pack, pack_dataset, pack_key
from trainables.data.registry import open_source
from trainables.data.unlabelled import (
    KIND,
    PackedUnlabelled,
    UnlabelledFolder,
    find_unlabelled,
    open_unlabelled,
    pack_unlabelled,
)
from trainables.data.voc import VocFolder
from trainables.models.configs import NetworkSource, StudentConfig, WeightSources
from trainables.teachers.averaging import PLAIN, Averaging
from trainables.teachers.output_cache import (
    DEFAULT_FORM,
    Form,
    Images,
    cache_outputs,
    cache_part,
    find_outputs,
    predict_footprint,
)
from trainables.training.teacher import (
    Teacher,
    file_teacher,
    import_teacher,
    named_file,
    prepare_teacher,
)
from trainables.training.teacher_metrics import describe_teacher_metrics
from trainables.training.weights import build_random, distinct, outputs_of, prepare_weights

OutputMode = Form | Literal["live"]
"""The source of the teacher's outputs: cached outputs of a form, or the teacher at every step."""
Say = Callable[[str], None]
Given = ParamSpec("Given")
Result = TypeVar("Result")

DISK_SHARE = 0.25
"""Share of the free disk space that `auto` may use for teacher outputs."""
LEAST_PART = 256
"""Images that are worth a process of their own, which takes some seconds to begin."""
EXAMPLE_SIZE = (64, 64)
"""Height and width, in pixels, of images on which networks run to show which outputs they give."""


class Runner(Protocol):
    """Runs a preparation on the machine that has the hardware for it."""

    def __call__(
        self,
        run: ExecutionConfig,
        prepare: Callable[Concatenate[ExecutionConfig, Given], Result],
        /,
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        """Gives `prepare(run, *given, **named)`."""
        ...

    @property
    def num_parallel(self) -> int:
        """The preparations that run at once."""
        ...

    def each(
        self,
        run: ExecutionConfig,
        prepare: Callable[..., Result],
        calls: Sequence[tuple[Any, ...]],
    ) -> list[Result]:
        """Gives `prepare(run, *given)` of all that is given, in its order."""
        ...


class RunnerHere:
    """A `Runner` in this process."""

    num_parallel = 1

    def __call__(
        self,
        run: ExecutionConfig,
        prepare: Callable[Concatenate[ExecutionConfig, Given], Result],
        /,
        *given: Given.args,
        **named: Given.kwargs,
    ) -> Result:
        return prepare(run, *given, **named)

    def each(
        self,
        run: ExecutionConfig,
        prepare: Callable[..., Result],
        calls: Sequence[tuple[Any, ...]],
    ) -> list[Result]:
        return [prepare(run, *given) for given in calls]


run_here = RunnerHere()


@dataclass(frozen=True)
class OpenedData:
    """A checked data set, which may not have been packed into `store` yet."""

    source: Source
    store: ArtifactStore
    found: PackedDataset | None
    """The packed data set if an earlier training has packed it."""

    @property
    def digest(self) -> str:
        """Identifies the data; also the name of the folder of the packed data set."""
        return self.store.path("data", pack_key(self.source)).name

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by their index."""
        return (self.found or self.source).class_names

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""
        return (self.found.height, self.found.width) if self.found else self.source.canvas()

    @property
    def notes(self) -> Sequence[str]:
        """Notes of the source on the data."""
        found = self.found
        return self.source.notes if found is None or found.notes is None else found.notes

    def pack(self) -> PackedDataset:
        """The packed data set.

        Raises:
            ValueError: the data breaks a rule.
        """
        if self.found:
            return self.found
        announce("packing the data")
        return open_pack(pack_dataset(self.source, self.store).path)


def open_data(
    data: str,
    image_size: int,
    store: ArtifactStore,
    label_size: LabelSize = "own",
) -> OpenedData:
    """Opens the data set that `data` names (see `open_source`), without writing anything.

    Raises:
        ValueError: the data breaks a rule; the message names rule, value and file.
    """
    return open_found(open_source(data, image_size, store.root, label_size), store)


def open_found(source: Source, store: ArtifactStore) -> OpenedData:
    """The samples of a source, with their pack where the store has it."""
    pack = find_pack(source, store)
    return OpenedData(source, store, open_pack(pack.path) if pack else None)


def open_teacher_data(
    opened: OpenedData, data: str, image_size: int, teacher_size: int | None
) -> OpenedData | None:
    """The data that was `opened` at the size that the teacher sees, if that is another.

    Raises:
        ValueError: there is no more detail to see.
    """
    if teacher_size is None:
        return None
    source = opened.source
    if not isinstance(source, VocFolder) or teacher_size < image_size:
        raise ValueError(
            "--teacher-size must be for photographs, and at least the image size of "
            f"{image_size} pixels, but got {teacher_size} for {data}"
        )
    return open_found(source.as_teacher_sees(teacher_size), opened.store)


def say_data(data: PackedDataset, was_packed: bool, notes: Sequence[str], say: Say) -> None:
    """Prints the size and the path of the data, and the notes on them."""
    say(f"data: {data}, {'found' if was_packed else 'packed'} in {data.path}")
    if data.own_labels is not None:
        say(f"mIoU on validation images is measured {MEASURED_ON['own']}")
    for note in notes:
        say(f"note on the data: {note}")


@dataclass(frozen=True)
class UnlabelledImages:
    """The unlabelled images of a study, packed."""

    packed: PackedUnlabelled
    of_teacher: Path | None
    """The same packed as the teacher sees them; None where it sees what students see."""
    folder: Path
    """The user's folder."""
    was_packed: bool
    """Whether an earlier training had packed them."""
    notes: Sequence[str]
    """Notes on the images, a line each."""


@dataclass(frozen=True)
class OpenedUnlabelled:
    """Checked unlabelled images, which may not have been packed into `store` yet."""

    source: UnlabelledFolder
    store: ArtifactStore
    found: PackedUnlabelled | None
    """The packed images if an earlier training has packed them."""
    notes: Sequence[str]
    """Notes on the images, a line each."""
    teacher_size: int | None

    @property
    def digest(self) -> str:
        """Identifies the images; also the name of the folder of the packed ones."""
        return self.store.path(KIND, self.source.key).name

    def pack(self) -> UnlabelledImages:
        """The packed images."""
        packed = self.found
        if packed is None:
            announce("packing the unlabelled images")
            packed = open_unlabelled(pack_unlabelled(self.source, self.store).path)
        of_teacher = None
        if self.teacher_size is not None:
            larger = self.source.as_teacher_sees(self.teacher_size)
            of_teacher = pack_unlabelled(larger, self.store).path
        was_packed = self.found is not None
        return UnlabelledImages(packed, of_teacher, self.source.folder, was_packed, self.notes)


def open_unlabelled_images(
    folder: Path | None,
    image_size: int,
    labelled: OpenedData,
    configs: Iterable[TrialConfig],
    teacher_size: int | None = None,
) -> OpenedUnlabelled | None:
    """Opens and checks the unlabelled images in a folder, if there is one, and writes nothing.

    Raises:
        ValueError: none of the `configs` learns from a teacher, or the images break a rule; the
            message names rule, value and file.
    """
    if folder is None:
        return None
    if not any(config.needs_teacher for config in configs):
        raise ValueError(
            f"--unlabelled must be for students that learn from a teacher, but got {folder}, and "
            "no student of these recipes does"
        )
    roles = labelled.source.file_roles()
    source = UnlabelledFolder(folder, image_size, labelled.canvas, roles)
    pack = find_unlabelled(source, labelled.store)
    found = open_unlabelled(pack.path) if pack else None
    notes = (*source.omissions, *(found.notes if found else source.notes))
    return OpenedUnlabelled(source, labelled.store, found, notes, teacher_size)


def say_unlabelled(images: UnlabelledImages | None, say: Say) -> None:
    """Prints the number and the path of unlabelled images, if there are any, and notes on them."""
    if images is None:
        return
    count, found = len(images.packed.images), "found" if images.was_packed else "packed"
    say(f"unlabelled images: {count:,} of {images.folder}, {found} in {images.packed.path}")
    for note in images.notes:
        say(f"note on the unlabelled images: {note}")


def with_images(
    run: ExecutionConfig, teacher_data: PackedDataset | None, unlabelled: UnlabelledImages | None
) -> ExecutionConfig:
    """`run` with the data as the teacher sees it, and with unlabelled images, if there are any."""
    return run.replace(
        teacher_data=teacher_data.path if teacher_data else None,
        unlabelled=unlabelled.packed.path if unlabelled else None,
        teacher_unlabelled=unlabelled.of_teacher if unlabelled else None,
    )


def set_up_weights(
    run: ExecutionConfig,
    students: Iterable[StudentConfig],
    sources: WeightSources,
    say: Say,
    teachers: Sequence[StudentConfig] = (),
) -> None:
    """Makes artifacts of the pretrained weights that students start from (see `check_weights`).

    It does so in this process, where files and builders of networks are at hand. Teachers are
    trained on the data as they see it, and their steps are timed on that of students.
    """
    for student, _ in distinct([*students, *teachers], run.data.name):
        path = prepare_weights(run, student, sources)
        say(f"pretrained weights of {student.describe()}: {path}")
    if run.teacher_data is not None:
        for teacher, _ in distinct(teachers, run.teacher_data.name):
            prepare_weights(run.of_teacher, teacher, sources)


def found_or_made(
    runner: Runner,
    run: ExecutionConfig,
    prepare: Callable[Concatenate[ExecutionConfig, Given], Result],
    *given: Given.args,
    **named: Given.kwargs,
) -> Result:
    """What a preparation gives: here, where all of its artifacts are there, else by the runner."""
    try:
        with only_found():
            return prepare(run, *given, **named)
    except NotBuilt:
        return runner(run, prepare, *given, **named)


def set_up_teacher(
    run: ExecutionConfig,
    spec: str | StudentConfig,
    own: TrialConfig,
    say: Say,
    runner: Runner = run_here,
    source: NetworkSource | None = None,
    averaging: Averaging = PLAIN,
) -> tuple[ExecutionConfig, Teacher]:
    """`run` with the path of the teacher that `spec` names (see `prepare_teacher`), and that.

    Or a network of the user's `source`, which is built in this process. Its IoU by class is said.

    Raises:
        TrialFailed: the default teacher learned nothing.
    """
    say("preparing the teacher (made once for this data, then reused)")
    if source is not None:
        spec = str(import_teacher(run, source))
    elif isinstance(spec, str) and is_mirrored(run.artifacts) and named_file(spec).is_file():
        (copy,), _ = file_teacher(named_file(spec), run, open_pack(run.data))
        spec = str(copy)  # which other machines have
    teacher = found_or_made(runner, run, prepare_teacher, spec, own, averaging)
    say(f"teacher: {teacher.note}, mIoU {100 * teacher.miou:.1f} %")
    data = open_pack(run.data)
    for line in describe_teacher_metrics(teacher.metrics, data.class_names):
        say(line)
    if data.own_labels is not None:
        say(f"IoU on training images is measured {MEASURED_ON['packed']}")
    return run.replace(teacher=teacher.file), teacher


def check_teacher_outputs(
    wanted: OutputMode | Literal["auto"],
    configs: Iterable[TrialConfig],
    num_classes: int,
    teacher_size: int | None = None,
) -> None:
    """Looks, before a teacher is prepared, whether all trainings get of it what they need.

    Raises:
        ValueError: cached outputs are wanted, and a term needs more than they hold, or the teacher
            is to learn in co-study; or a term needs features of a decoder that the student does not
            give; or a live teacher is to see images of another size than its students.
    """
    if teacher_size is not None and wanted == "live":
        raise ValueError("--teacher-size needs kept outputs, but got --teacher-outputs live")
    for config in configs:
        needing = config.needs_live_teacher
        if needing and teacher_size is not None:
            raise ValueError(
                f"--teacher-size needs kept outputs, but {needing} needs the live teacher"
            )
        if needing and wanted not in ("auto", "live"):
            raise ValueError(f"--teacher-outputs must be live for {needing}, but got {wanted}")
        if (terms := config.terms_of_decoder) and not gives_decoder_features(
            config.student, num_classes
        ):
            raise ValueError(
                f"the distillation term {terms[0]} must be for students whose decoder gives a "
                f"feature map, but that of {config.student.describe()} gives none"
            )


@lru_cache(maxsize=64)
def gives_decoder_features(student: StudentConfig, num_classes: int) -> bool:
    """Whether the student's outputs have a feature map of its decoder."""
    network = build_random(student, num_classes)
    return outputs_of(network, EXAMPLE_SIZE).decoder is not None


def output_mode(
    wanted: OutputMode | Literal["auto"],
    configs: Iterable[TrialConfig],
    say: Say,
    teacher_size: int | None = None,
) -> OutputMode | Literal["auto"]:
    """`wanted`, or live where `auto` leaves the choice and a training needs it; says why.

    A teacher that sees larger images than its students always has its outputs kept. It is said
    where maps are kept although the teacher should run at every step.
    """
    reason = next(filter(None, map(reason_for_live, configs)), None)
    if reason and wanted == "auto" and teacher_size is None:
        say(f"the teacher runs at every step, because {reason} (--teacher-outputs live)")
        return "live"
    if reason and wanted in ("auto", "maps"):
        say(f"warning: the teacher's outputs are kept, although {reason}")
    return wanted


def reason_for_live(config: TrialConfig) -> str | None:
    """Why the teacher should run at every step of a training, if it should."""
    if needing := config.needs_live_teacher:
        return f"{needing} needs it"
    most, own = AUGMENTATIONS["scale"], config.augmentation
    if config.needs_teacher and (own.min_scale < most.min_scale or own.max_scale > most.max_scale):
        return (
            f"images are scaled by {own.min_scale:g} to {own.max_scale:g}, and what it says of an "
            "image is not what it says of a part of it"
        )
    return None


def set_up_teacher_outputs(
    run: ExecutionConfig,
    wanted: OutputMode | Literal["auto"],
    augmentation: Augmentation,
    say: Say,
    runner: Runner = run_here,
) -> tuple[ExecutionConfig, OutputMode]:
    """`run` with the folder of cached teacher outputs, if any, and the mode that `wanted` gave.

    `auto` caches them unless they would fill the disk; a teacher that sees larger images always
    needs the cache. Outputs of the form `views` are for trainings with `augmentation`. Those for
    unlabelled images are cached as well.
    """
    if wanted == "live":
        return run, "live"
    form: Form = DEFAULT_FORM if wanted == "auto" else wanted
    groups: tuple[Images, ...] = ("train", "unlabelled") if run.unlabelled else ("train",)
    kept = {images: find_outputs(run, form, augmentation, images) for images in groups}
    missing = [images for images in groups if kept[images] is None]
    num_bytes, num_parts = 0, dict[Images, int]()
    for images in missing:
        size = runner(run, predict_footprint, form, augmentation, images)
        of = " for unlabelled images" if images == "unlabelled" else ""
        say(f"keeping the teacher's outputs{of} as {form}: {size}")
        num_parts[images] = max(1, min(runner.num_parallel, size.num_images // LEAST_PART))
        num_bytes += size.num_bytes * (1 if num_parts[images] == 1 else 2)
    room = shutil.disk_usage(run.artifacts).free
    if wanted == "auto" and run.teacher_data is None and num_bytes > DISK_SHARE * room:
        say(
            f"that is more than {DISK_SHARE:.0%} of the {decimal(room)} free on disk: "
            "the teacher runs at every step instead (--teacher-outputs live)"
        )
        return run, "live"
    for images, count in num_parts.items():
        if count > 1:
            say(f"the teacher sees {count} parts of the images at once")
            parts = [(form, augmentation, images, part, count) for part in range(count)]
            runner.each(run, cache_part, parts)
        kept[images] = runner(run, cache_outputs, form, augmentation, images, count)
    run = run.replace(teacher_outputs=kept["train"], unlabelled_outputs=kept.get("unlabelled"))
    return run, form
