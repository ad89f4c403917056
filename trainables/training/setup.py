"""One path from data to a teacher and its outputs, for searches and for single trainings.

Who calls says where lines go (`say`) and where work runs (`runner`): here, or where trials do.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeVar

from rich.filesize import decimal

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.base import Source
from trainables.data.configs import Augmentation
from trainables.data.packed import PackedDataset, find_pack, open_pack, pack_dataset, pack_key
from trainables.data.registry import open_source
from trainables.teachers.output_cache import (
    DEFAULT_FORM,
    Form,
    cache_outputs,
    find_outputs,
    predict_footprint,
)
from trainables.training.teacher import prepare_teacher

OutputMode = Form | Literal["live"]
"""How a teacher is asked: kept outputs of a form, or the teacher itself at every step."""
Say = Callable[[str], None]
Given = ParamSpec("Given")
Result = TypeVar("Result")

DISK_SHARE = 0.25
"""Of the free disk: teacher outputs that would take more are not kept unless asked for."""


class Runner(Protocol):
    """Runs a preparation where its hardware is."""

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


def run_here(
    run: ExecutionConfig,
    prepare: Callable[Concatenate[ExecutionConfig, Given], Result],
    /,
    *given: Given.args,
    **named: Given.kwargs,
) -> Result:
    """A `Runner` in this process."""
    return prepare(run, *given, **named)


@dataclass(frozen=True)
class OpenedData:
    """A data set that is known, and perhaps still to be packed into `store`."""

    source: Source
    store: ArtifactStore
    found: PackedDataset | None
    """The packed data set where an earlier training has left it."""

    @property
    def digest(self) -> str:
        """Names the data; also the name of the folder of the packed data set."""
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
        """What the source of the data has to say of it."""
        found = self.found
        return self.source.notes if found is None or found.notes is None else found.notes

    def pack(self) -> PackedDataset:
        """The packed data set.

        Raises:
            ValueError: the data breaks a rule.
        """
        return self.found or open_pack(pack_dataset(self.source, self.store).path)


def open_data(data: str, image_size: int, store: ArtifactStore) -> OpenedData:
    """What `data` names (see `open_source`), of which nothing is written yet.

    Raises:
        ValueError: the data breaks a rule; the message names rule, value and file.
    """
    source = open_source(data, image_size, store.root)
    pack = find_pack(source, store)
    return OpenedData(source, store, open_pack(pack.path) if pack else None)


def say_data(data: PackedDataset, was_packed: bool, notes: Sequence[str], say: Say) -> None:
    """Says what the data are, where they lie, and what is remarkable about them."""
    say(f"data: {data}, {'found' if was_packed else 'packed'} in {data.path}")
    for note in notes:
        say(f"note on the data: {note}")


def set_up_teacher(
    run: ExecutionConfig, spec: str, own: TrialConfig, say: Say, runner: Runner = run_here
) -> ExecutionConfig:
    """`run` with the teacher that `spec` names (see `prepare_teacher`), ready to be asked.

    Raises:
        TrialFailed: the own teacher learned nothing.
    """
    say("preparing the teacher (made once for this data, then reused)")
    teacher = runner(run, prepare_teacher, spec, own)
    say(f"teacher: {teacher.note}, mIoU {100 * teacher.miou:.1f} %")
    return run.replace(teacher=teacher.file)


def check_terms(wanted: OutputMode | Literal["auto"], configs: Iterable[TrialConfig]) -> None:
    """Looks, before a teacher is prepared, whether its outputs serve all distillation terms.

    Raises:
        ValueError: kept outputs are wanted, and a term needs more than they hold.
    """
    if wanted in ("auto", "live"):
        return
    for config in configs:
        if terms := config.terms_of_live_teacher:
            raise ValueError(
                f"--teacher-outputs must be live for the distillation term {terms[0]}, but got "
                f"{wanted}"
            )


def output_mode(
    wanted: OutputMode | Literal["auto"], configs: Iterable[TrialConfig]
) -> OutputMode | Literal["auto"]:
    """`wanted`, or live where `auto` leaves the choice and a distillation term needs it."""
    if wanted == "auto" and any(config.terms_of_live_teacher for config in configs):
        return "live"
    return wanted


def set_up_teacher_outputs(
    run: ExecutionConfig,
    wanted: OutputMode | Literal["auto"],
    augmentation: Augmentation,
    say: Say,
    runner: Runner = run_here,
) -> tuple[ExecutionConfig, OutputMode]:
    """`run` with the outputs of its teacher where they are kept, and what `wanted` came to.

    `auto` keeps them unless they would fill the disk. Outputs of the form `views` are for trainings
    with `augmentation`.
    """
    if wanted == "live":
        return run, "live"
    form: Form = DEFAULT_FORM if wanted == "auto" else wanted
    kept = find_outputs(run, form, augmentation)
    if kept is None:
        size = runner(run, predict_footprint, form, augmentation)
        say(f"keeping the teacher's outputs as {form}: {size}")
        room = shutil.disk_usage(run.artifacts).free
        if wanted == "auto" and size.num_bytes > DISK_SHARE * room:
            say(
                f"that is more than {DISK_SHARE:.0%} of the {decimal(room)} free on disk: "
                "the teacher runs at every step instead (--teacher-outputs live)"
            )
            return run, "live"
        kept = runner(run, cache_outputs, form, augmentation)
    return run.replace(teacher_outputs=kept), form
