"""The configuration of a study, and the flags that set it."""

from pathlib import Path
from typing import Annotated, Literal, Protocol, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from search.core.baselines import Baseline, read_baselines
from search.core.constraints import Budget
from search.core.networks import check_networks
from search.core.objectives import ObjectiveName
from search.core.recipe_list import parse_teacher, write_teacher
from search.core.tracking_uri import check_tracking_uri, default_tracking_uri
from trainables.core import units
from trainables.core.config_base import FrozenConfig
from trainables.core.flags import Flag, field_of
from trainables.data.configs import AugmentationName
from trainables.losses.configs import Balance, LabelLossConfig, Overlap
from trainables.models.configs import DEFAULT_STUDENT, InputNormalizationName, StudentConfig
from trainables.models.student_list import (
    check_distinct,
    parse_students,
    write_students,
)
from trainables.quantization.quantizers.base import Quantizer
from trainables.quantization.quantizers.configs import DEFAULT_QUANTIZER, QuantizerName
from trainables.recipes.configs import CalibrationStep
from trainables.teachers.averaging import Flip
from trainables.training.training_config import TrainingConfig, parse_folder, parse_storage

SamplerName = Literal["ehvi", "tpe", "nsga2", "random"]
WHAT, HOW, WHERE = "what to search", "how long and how", "where"
"""Groups of flags in the help."""


def parse_calibration(text: str) -> tuple[str, ...]:
    """The steps of "equalization,adaround"."""
    steps = get_args(CalibrationStep)
    if unknown := [step for step in text.split(",") if step not in steps]:
        raise ValueError(f"each must be one of {', '.join(steps)}, but got {unknown[0]!r}")
    return tuple(text.split(","))


def parse_gpus(text: str) -> float | Literal["auto"]:
    """A number of GPUs, or `auto`."""
    try:
        return "auto" if text == "auto" else float(text)
    except ValueError:
        raise ValueError(f"must be a number or auto, but got {text!r}") from None


def parse_tracking_uri(text: str) -> str:
    """The URI of an MLflow store, made independent of the working folder."""
    return check_tracking_uri(text, "it")


TeacherChoice = str | SerializeAsAny[StudentConfig]
"""`auto`, a network or its file, or a student that is to be trained as the teacher."""


class Placement(Protocol):
    """Where a study or a comparison lies and runs: what storage and execution need to know."""

    @property
    def storage(self) -> Path: ...
    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def cpus_per_trial(self) -> float | None: ...
    @property
    def max_gpus_per_trial(self) -> float: ...


class StudyConfig(FrozenConfig):
    """The configuration of a study, stored in study.json; its fields are flags of search.run."""

    space: Annotated[
        str,
        Flag(
            WHAT,
            "the search space: a file under spaces/ (required, but for --resume)",
            units.NAME,
            immutable=True,
        ),
    ]
    data: str = field_of(TrainingConfig, "data", group=WHAT)
    image_size: int = field_of(TrainingConfig, "image_size", group=WHAT, immutable=True)
    students: Annotated[
        tuple[SerializeAsAny[StudentConfig], ...],
        Field(min_length=1),
        Flag(
            WHAT,
            "the networks to choose among, as unet,unet_mobilenet_v1,unet_resnet18:imagenet, where "
            ":imagenet stands for torchvision's weights (default: {default}, and the U-Nets of "
            "which pretrained weights are at hand); --list-spaces shows them",
            units.Unit("LIST", parse_students, write_students),
            immutable=True,
        ),
    ] = (DEFAULT_STUDENT,)
    compress: str | None = field_of(
        TrainingConfig,
        "compress",
        group=WHAT,
        help="a trained network to compress, which is the student: a model file, a state dict, or "
        "the name of a torchvision segmentation network; quantization starts from its weights, "
        "it is the teacher where no other is given, and a point of the front",
    )
    builder: str | None = field_of(TrainingConfig, "builder", group=WHAT)
    new_head: Annotated[
        bool,
        Flag(
            WHAT,
            "--compress a network of other classes than the data's: its last layer is new, and the "
            "network is trained before it is quantized",
            immutable=True,
        ),
    ] = False
    prune: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...] | None,
        Flag(
            WHAT,
            "shares of the channels of the network of --compress to choose among, as 1,0.75,0.5: "
            "the others are pruned, those with the smallest weights, and the network is trained "
            "before it is quantized (default: all channels are kept)",
            units.SHARES,
            immutable=True,
        ),
    ] = None
    allow_float: Annotated[
        bool,
        Flag(
            WHAT,
            "--compress a network although some of its operations on weights stay in float, since "
            "no quantizer is known for them",
            immutable=True,
        ),
    ] = False
    backbone_weights: tuple[Path, ...] | None = field_of(
        TrainingConfig, "backbone_weights", group=WHAT
    )
    pretrained_normalization: Annotated[
        InputNormalizationName,
        Flag(
            WHAT,
            "of the images that the networks of --compress and --backbone-weights were trained on: "
            "ImageNet's mean and deviation ({default}, default), or pixels from -1 to 1 or 0 to 1",
            immutable=True,
        ),
    ] = "imagenet"
    teacher: TeacherChoice = field_of(
        TrainingConfig,
        "teacher",
        group=WHAT,
        help="{default} (default): DeepLabV3-ResNet101 for VOC classes, else a wide U-Net trained "
        "once on the data; a student to train in its place, as unet_resnet18:imagenet, 'unet "
        "width=64' or, with --backbone-weights, unet_mobilenet_v2; the name of a torchvision "
        "segmentation network; a model file; or the state dict (.pth, .safetensors) of one of "
        "these networks, of as many classes as the data",
        unit=units.Unit("auto|NAME|FILE", parse_teacher, write_teacher),
    )
    teacher_builder: Annotated[
        str | None,
        Flag(
            WHAT,
            "as --builder, for the state dict that --teacher names",
            units.Unit("PACKAGE.MODULE:FUNCTION", str),
        ),
    ] = None
    teacher_normalization: Annotated[
        InputNormalizationName,
        Flag(
            WHAT,
            "as --pretrained-normalization, for the network of --teacher-builder (default: "
            "{default})",
            immutable=True,
        ),
    ] = "imagenet"
    teacher_size: int | None = field_of(TrainingConfig, "teacher_size", group=WHAT, immutable=True)
    teacher_seeds: int = field_of(TrainingConfig, "teacher_seeds", group=WHAT, immutable=True)
    teacher_flip: Flip = field_of(TrainingConfig, "teacher_flip", group=WHAT, immutable=True)
    teacher_outputs: Annotated[
        Literal["auto", "live", "views", "maps"],
        Flag(
            WHAT,
            "live: the teacher runs at every step; views, maps: what it says of a few fixed views "
            "of each image, or of the whole image, is computed once and kept (default {default}: "
            "maps, or live where the disk is too small, a term or co-study needs it, or images are "
            "scaled much)",
            immutable=True,
        ),
    ] = "auto"
    unlabelled: Path | None = field_of(TrainingConfig, "unlabelled", group=WHAT)
    co_study: Annotated[
        bool,
        Flag(
            WHAT,
            "space qkd: also search QKD's second phase, in which teacher and student learn from "
            "each other, which needs a teacher that runs at every step",
            immutable=True,
        ),
    ] = False
    calibration: Annotated[
        tuple[CalibrationStep, ...] | None,
        Flag(
            WHAT,
            "how quantized students are calibrated, beside the choice of their grids: any of "
            "equalization, adaround, bias_correction; minutes a student, and what 4 bits without "
            "training need (default: none of them)",
            units.Unit("LIST", parse_calibration, ",".join),
            immutable=True,
        ),
    ] = None
    quantizer: Annotated[
        QuantizerName | None,
        Flag(
            WHAT,
            "how quantized students round: lsq learns all steps, pact where activations are "
            "clipped, dorefa none, codebook also the points of weights below 8 bits, bucketed also "
            "multipliers of the steps of 16 weights each, to 4 bits; both are lsq with more bits "
            "(default: what the space says, which is lsq)",
            immutable=True,
        ),
    ] = None
    samples: Annotated[
        int, Field(ge=1), Flag(HOW, "trials to train (default: {default})", units.INTEGER)
    ] = 16
    steps: Annotated[
        PositiveInt | None,
        Flag(
            HOW,
            "length of one full training, in optimizer steps (default: shapes 256; else 8000 on a "
            "GPU, 2000 on a CPU, fewer there for few images of few classes, and half of it for "
            "quantized students, which start from ones that were trained twice as long)",
            units.INTEGER,
            immutable=True,
        ),
    ] = None
    epochs: Annotated[
        PositiveInt | None,
        Flag(
            HOW,
            "the same in passes over the training images, in place of --steps",
            units.INTEGER,
            immutable=True,
        ),
    ] = None
    teacher_epochs: Annotated[
        PositiveInt | None,
        Flag(
            HOW,
            "length of the training of a teacher on the data (default: as long as it takes a "
            "quarter of the study's computation, but at least half as long as a trial)",
            units.INTEGER,
            immutable=True,
        ),
    ] = None
    class_weights: Annotated[
        Balance,
        Flag(
            HOW,
            "how rare classes are weighted in the loss on labels, of students and of a teacher "
            "that is trained: by the square root of the inverse frequency ({default}, default), as "
            "in ENet, by median frequency, or not",
            immutable=True,
        ),
    ] = "sqrt"
    overlap_loss: Annotated[
        Overlap,
        Flag(
            HOW,
            "a term for the overlap of predicted and labelled pixels, beside cross-entropy "
            "(default: {default})",
            immutable=True,
        ),
    ] = "none"
    augmentation: Annotated[
        AugmentationName | None,
        Flag(
            HOW,
            "flip: images are mirrored; scale: also scaled by 0.8 to 1.25 and recoloured; strong: "
            "by 0.75 to 1.5 (default: flip below 2000 steps, strong from 20000 on)",
            immutable=True,
        ),
    ] = None
    ema_decay: Annotated[
        float,
        Field(ge=0, lt=1),
        Flag(
            HOW,
            "ship a moving average of the weights with this decay, e.g. 0.999 (default: {default}, "
            "the weights of the last step)",
            units.NUMBER,
            immutable=True,
        ),
    ] = 0.0
    sampler: Annotated[
        SamplerName,
        Flag(
            HOW,
            "who proposes trials: by expected hypervolume improvement (default: {default}), or one "
            "of Optuna's, which do not learn from trials that fail",
            immutable=True,
        ),
    ] = "ehvi"
    scheduler: Annotated[
        Literal["halving", "none"],
        Flag(
            HOW,
            "{default} (default): of the trials at a rung, those go on that no other dominates, "
            "and one in so many; none: all are trained to their end",
            immutable=True,
        ),
    ] = "halving"
    grace_epochs: Annotated[
        PositiveInt | None,
        Flag(
            HOW,
            "epochs before the first rung (default: a 27th of a full training)",
            units.INTEGER,
            immutable=True,
        ),
    ] = None
    reduction: Annotated[
        float,
        Field(gt=1),
        Flag(
            HOW,
            "one trial in so many passes a rung, and rungs are so far apart (default: {default})",
            units.NUMBER,
            immutable=True,
        ),
    ] = 3.0
    seed: Annotated[
        int,
        Field(ge=0),
        Flag(
            HOW,
            "of sampler, weights, data order and augmentation (default: {default})",
            units.INTEGER,
            immutable=True,
        ),
    ] = 0
    least_miou: Annotated[
        float | None,
        Field(ge=0, lt=1),
        Flag(
            HOW,
            "the least mIoU that is of use, e.g. 0.4, from which the hypervolume counts (default: "
            "that of predicting the commonest class everywhere)",
            units.SHARE,
            immutable=True,
        ),
    ] = None
    max_size_bytes: Annotated[
        PositiveInt | None,
        Flag(
            HOW, "refuse students above this file size before any training, e.g. 300KB", units.SIZE
        ),
    ] = None
    max_latency_ms: Annotated[
        PositiveFloat | None,
        Flag(
            HOW,
            "refuse students that take longer for an image in ONNX Runtime, on one core of this "
            "machine, e.g. 20ms",
            units.LATENCY,
        ),
    ] = None
    max_macs: Annotated[
        PositiveInt | None,
        Flag(HOW, "refuse students of more multiply-adds an image, e.g. 500M", units.COUNT),
    ] = None
    max_ram_bytes: Annotated[
        PositiveInt | None,
        Flag(
            HOW,
            "refuse students that need more memory for activations at once, at their own bits and "
            "for one image, e.g. 256KB",
            units.SIZE,
        ),
    ] = None
    objectives: Annotated[
        tuple[ObjectiveName, ...],
        Flag(
            HOW,
            "what the front trades: miou and any of size, latency, macs, ram (default: {default})",
            units.LIST,
            immutable=True,
        ),
    ] = ("miou", "size")
    time_budget_s: Annotated[
        float | None,
        Flag(
            HOW,
            "end the search this long after its first trial, e.g. 30m; what is nearly trained may "
            "take up to a tenth longer, and what is left after the last trial trains the front "
            "again with another seed",
            units.TIME,
        ),
    ] = None
    trial_timeout_s: Annotated[
        PositiveFloat,
        Flag(
            HOW,
            "a trial that makes no progress for so long, as in a read that hangs, has failed "
            "(default: {default})",
            units.TIME,
        ),
    ] = 1800.0
    checkpoint_every_s: float = field_of(TrainingConfig, "checkpoint_every_s", group=HOW)
    stop_when_flat: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | None,
        Flag(
            HOW,
            "end the search when trials are expected to enlarge the hypervolume by less, e.g. "
            "0.002 (sampler ehvi)",
            units.SHARE,
        ),
    ] = None
    warm_start: Annotated[
        str | None,
        Flag(
            HOW,
            "an earlier study in the same storage, also of another space: its front is tried "
            "first, and the sampler learns from its trials",
            units.NAME,
            immutable=True,
        ),
    ] = None
    storage: Annotated[
        Path,
        Flag(
            WHERE,
            "folder of studies and shared artifacts, or an object store's, such as "
            "s3://bucket/prefix (default: {default})",
            units.Unit("DIR|URI", parse_storage),
        ),
    ] = Path("studies")
    cache: Annotated[
        Path | None,
        Flag(
            WHERE,
            "folder on each machine's own disk for copies of artifacts, the same path on all "
            "(default: none; with an object store ~/.cache/paretoseg)",
            units.Unit("DIR", parse_folder),
        ),
    ] = None
    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
        Flag(WHERE, "name of the study (default: SPACE-DATA, numbered)", units.NAME),
    ]
    cpus_per_trial: Annotated[
        PositiveFloat | None,
        Flag(
            WHERE,
            "CPU cores and threads of a trial (default: 1, with a GPU its share of the cores)",
            units.NUMBER,
        ),
    ] = None
    gpus_per_trial: Annotated[
        NonNegativeFloat | Literal["auto"],
        Flag(
            WHERE,
            "GPUs of a trial, fractions allowed; auto: as many trials share a GPU as its memory "
            "holds, by a measured probe (default: auto if there is a GPU, else 0)",
            units.Unit("N|auto", parse_gpus),
        ),
    ]
    price_per_hour: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False),
        Flag(
            WHERE,
            "what an hour of one machine costs, in any currency, of which trials have their share "
            "(default: what each node of a cluster has as its label price-per-hour, if it has one)",
            units.Unit("PRICE", float, "{:g}".format),
        ),
    ] = None
    baselines: Annotated[
        tuple[Baseline, ...],
        Flag(
            WHERE,
            "published models to draw beside the front: a CSV file whose first line is "
            "name,bytes,miou, with mIoU in percent",
            units.Unit("FILE", read_baselines),
        ),
    ] = ()
    tracking_uri: Annotated[
        str,
        Flag(
            WHERE,
            "MLflow store (default: $MLFLOW_TRACKING_URI, else sqlite:///STORAGE/mlflow.db)",
            units.Unit("URI", parse_tracking_uri),
        ),
    ]

    @field_validator("students")
    @classmethod
    def check_students(cls, students: tuple[StudentConfig, ...]) -> tuple[StudentConfig, ...]:
        return check_distinct(students)

    @field_validator("prune")
    @classmethod
    def sort_shares(cls, shares: tuple[float, ...] | None) -> tuple[float, ...] | None:
        """In ascending order, so that equal choices are one."""
        if shares is None:
            return None
        if twice := [share for share in shares if shares.count(share) > 1]:
            raise ValueError(f"each share must be named once, but {twice[0]:g} is named again")
        return tuple(sorted(shares))

    @field_validator("objectives")
    @classmethod
    def check_objectives(cls, names: tuple[ObjectiveName, ...]) -> tuple[ObjectiveName, ...]:
        if "miou" not in names or len(names) < 2 or len(set(names)) < len(names):
            raise ValueError("miou and at least one other must be named, each once")
        return names

    @field_validator("stop_when_flat")
    @classmethod
    def check_flat(cls, share: float | None, info: ValidationInfo) -> float | None:
        if share is not None and info.data.get("sampler") != "ehvi":
            raise ValueError(f"it needs --sampler ehvi, not {info.data.get('sampler')}")
        return share

    @model_validator(mode="after")
    def check_combinations(self) -> "StudyConfig":
        if self.prune and self.compress is None:
            raise ValueError("--prune needs --compress")
        quantizer = Quantizer.members()[self.quantizer_name]
        if "adaround" in (self.calibration or ()) and not quantizer.keeps_points:
            raise ValueError(
                "--calibration adaround must be for weights that stay where they are on the grid, "
                f"but got --quantizer {self.quantizer}"
            )
        check_networks(self)
        return self

    @property
    def quantizer_name(self) -> QuantizerName:
        """The quantizer, where the space does not say another."""
        return self.quantizer or DEFAULT_QUANTIZER.name

    @property
    def num_epochs(self) -> int:
        """The epochs of one full training; known once the data are."""
        assert self.epochs is not None, "the data decide how many epochs have so many steps"
        return self.epochs

    @property
    def num_grace_epochs(self) -> int:
        """Epochs before the first rung; known once the data are."""
        assert self.grace_epochs is not None, "it is a share of a full training"
        return self.grace_epochs

    @property
    def label_loss(self) -> LabelLossConfig:
        """The loss on labels of all its trainings."""
        return LabelLossConfig(class_weights=self.class_weights, overlap=self.overlap_loss)

    @property
    def budget(self) -> Budget:
        """The limits on the costs of students."""
        return Budget(
            size_bytes=self.max_size_bytes,
            macs=self.max_macs,
            latency_ms=self.max_latency_ms,
            ram_bytes=self.max_ram_bytes,
        )

    @property
    def wants_latency(self) -> bool:
        """Whether latencies must be known before students are trained."""
        return "latency" in self.objectives or self.max_latency_ms is not None

    def moved_to(self, storage: Path) -> "StudyConfig":
        """The same study in another storage, with that storage's store if it used the default."""
        is_own = self.tracking_uri == default_tracking_uri(self.storage)
        uri = default_tracking_uri(storage) if is_own else self.tracking_uri
        return self.replace(storage=storage, tracking_uri=uri)

    @property
    def resume_arguments(self) -> list[str]:
        """The arguments of Python that resume the study."""
        return ["-m", "search.run", "--storage", str(self.storage), "--resume", self.name]

    @property
    def folder(self) -> Path:
        """The folder of the study."""
        return self.storage / self.name

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The type of device that trials run on."""
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def max_gpus_per_trial(self) -> float:
        """The GPUs of a trial as long as its memory has not been measured."""
        return 1.0 if self.gpus_per_trial == "auto" else self.gpus_per_trial
