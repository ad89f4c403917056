"""The configuration of a single training, and the flags that set it.

Studies have most of these flags, too.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trainables.config import CHECKPOINT_EVERY_S
from trainables.core import units
from trainables.core.command_line import as_path, as_storage
from trainables.core.config_base import FrozenConfig
from trainables.core.flags import Flag
from trainables.teachers.averaging import Flip, check_seeds, is_trained_here

DATA, TEACHER, HOW = "data and weights", "teacher, where the recipe has one", "how and where"
"""Groups of flags in the help."""


def parse_data(text: str) -> str:
    """The name of a data set that comes with the project, or the absolute path of a folder."""
    return text if text in ("shapes", "voc") else os.path.abspath(as_path(text))


def parse_network(text: str) -> str:
    """The absolute path of an existing file, or the name of a network."""
    network = os.path.expanduser(text)
    return os.path.abspath(network) if os.path.exists(network) else network


def parse_folder(text: str) -> Path:
    """The absolute path of a folder."""
    return Path(os.path.abspath(as_path(text)))


def parse_storage(text: str) -> Path:
    """The absolute path of a folder, that of the mirror for the URI of an object store."""
    return Path(os.path.abspath(as_storage(text)))


def parse_files(text: str) -> tuple[Path, ...]:
    """The absolute paths of "a.pth,b.pth"."""
    return tuple(parse_folder(name) for name in text.split(","))


class TrainingConfig(FrozenConfig):
    """What is trained on and how, beside a `TrialConfig`; its fields are flags of train.py."""

    data: Annotated[
        str,
        Flag(
            DATA,
            "built-in {default} (default), PASCAL VOC 2012 (downloaded), or a folder in VOC layout",
            units.Unit("shapes|voc|FOLDER", parse_data),
        ),
    ] = "shapes"
    image_size: Annotated[
        int,
        Field(ge=16),
        Flag(
            DATA,
            "longest side of images, to which larger ones are shrunk (default: shapes 48; else "
            "512 on a GPU, 160 on a CPU)",
            units.PIXELS,
        ),
    ]
    unlabelled: Annotated[
        Path | None,
        Flag(
            DATA,
            "a folder of images without labels, on which students learn from what the teacher "
            "says of them: as many in each step as labelled ones (default: none)",
            units.Unit("FOLDER", parse_folder),
        ),
    ] = None
    compress: Annotated[
        str | None,
        Flag(
            DATA,
            "the network that the configuration's student was traced from, at first use",
            units.Unit("FILE|NAME", parse_network),
        ),
    ] = None
    builder: Annotated[
        str | None,
        Flag(
            DATA,
            "a function without arguments that gives the torch.nn.Module whose state dict "
            "--compress names; it is imported from the working folder or an installed package",
            units.Unit("PACKAGE.MODULE:FUNCTION", str),
        ),
    ] = None
    backbone_weights: Annotated[
        tuple[Path, ...] | None,
        Flag(
            DATA,
            "files with pretrained weights of MobileNets or other backbones (.safetensors, .pth), "
            "for the students that have these backbones",
            units.Unit("FILE,...", parse_files),
        ),
    ] = None
    teacher: Annotated[
        str,
        Flag(
            TEACHER,
            "{default} (default): DeepLabV3-ResNet101 for VOC classes, else a wide U-Net trained "
            "once on the data; the name of a torchvision segmentation network; a model file; or "
            "the state dict (.pth, .safetensors) of one of these networks, of as many classes as "
            "the data",
            units.Unit("auto|NAME|FILE", parse_network),
        ),
    ] = "auto"
    teacher_size: Annotated[
        int | None,
        Field(ge=16),
        Flag(
            TEACHER,
            "longest side of the images that the teacher sees, where that is more than "
            "--image-size; needs kept outputs (default: it sees what its students see)",
            units.PIXELS,
        ),
    ] = None
    teacher_seeds: Annotated[
        PositiveInt,
        Flag(
            TEACHER,
            "networks of a teacher that is trained on the data: they differ in their seeds, and "
            "the teacher is the mean of their predictions (default: {default})",
            units.INTEGER,
        ),
    ] = 1
    teacher_flip: Annotated[
        Flip,
        Flag(
            TEACHER,
            "whether the teacher's predictions are means of those for an image and its mirror "
            "image (default {default}: where its outputs are kept, so that it takes time once)",
        ),
    ] = "auto"
    teacher_outputs: Annotated[
        Literal["live", "views", "maps"],
        Flag(TEACHER, "the source of the teacher's outputs, as in search.run (default: {default})"),
    ] = "live"
    checkpoint_every_s: Annotated[
        PositiveFloat,
        Flag(
            HOW, "how much of a trial's training a kill may cost (default: {default})", units.TIME
        ),
    ] = CHECKPOINT_EVERY_S
    artifacts: Annotated[
        Path | None,
        Flag(
            HOW,
            "folder of shared artifacts (default: artifacts beside the folder of --out)",
            units.Unit("DIR", parse_folder),
        ),
    ] = None
    threads: Annotated[
        PositiveInt, Flag(HOW, "CPU threads (default: {default})", units.INTEGER)
    ] = 1

    @model_validator(mode="after")
    def check_sources(self) -> "TrainingConfig":
        if self.builder is not None and self.compress is None:
            raise ValueError("--builder needs --compress")
        check_seeds(self.teacher_seeds, is_trained_here(self.teacher))
        return self
