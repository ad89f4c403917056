"""Searches a space of compressed segmentation networks for the Pareto front of mIoU and size.

python -m search.run --space qkd
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import ValidationError

from search.core.config import SamplerName
from search.core.tracking_uri import absolute_uri, check_tracking_uri, default_tracking_uri
from search.core.units import parse_count, parse_duration, parse_size
from search.execution.cluster_address import check_cluster
from search.execution.environment import prepare_environment
from search.execution.shutdown import INTERRUPTED
from trainables.core.command_line import Parser, as_path, first_problem, one_line
from trainables.core.errors import TrialFailed
from trainables.core.files import is_writable, nearest
from trainables.core.terminal import own_terminal, print_error

if TYPE_CHECKING:  # with it comes torch, which takes longer than a wrong argument should
    from search.core.config import StudyConfig

EXAMPLES = """examples:
  python -m search.run --space qkd                          built-in data, a front in minutes
  python -m search.run --space qkd --data ~/my-images       your own images, in VOC layout
  python -m search.run --space qat --max-size 300KB         nothing larger is ever trained
  python -m search.run --resume qkd-shapes --samples 64      a study goes on, with more trials

Your own data: a folder with JPEGImages/*.jpg, SegmentationClass/*.png (one class index per pixel,
255 = ignore) and ImageSets/Segmentation/{train,val}.txt; optionally classes.txt, a name per line.
python -m trainables.convert brings what labelling tools export into this layout.

exit status: 0 done; 1 no trial finished; 2 bad input; 130 interrupted, the study is kept.
"""


STORE = "MLFLOW_TRACKING_URI"
"""MLflow's environment variable, which names the store of new studies where no flag does."""
PARSED = {"max_macs", "objectives"}
"""Fields whose flags of the same name are texts."""


def main(argv: list[str] | None = None) -> int:
    """Runs or resumes a study and gives the exit status."""
    arguments = make_parser().parse_args(argv)
    if arguments.list_spaces:
        import spaces

        for name in spaces.space_names():
            print(f"{name:12} {spaces.load_space(name).description}")
        return 0
    with own_terminal():
        return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    """The same, of a command line that was understood."""
    try:
        prepare_environment()
        check_cluster()
        config = read_config(arguments)
        from search.study.preparation import prepare_study
        from search.study.search_loop import interruption_message, log_hint, run_study  # import Ray

        study = prepare_study(config, resumed=arguments.resume is not None)
    except (ValueError, OSError) as error:
        print_error(f"error: {one_line(error)}")
        return 2
    except KeyboardInterrupt:
        print_error("interrupted before the study began")
        return INTERRUPTED
    try:
        return run_study(study)
    except KeyboardInterrupt:
        print_error(interruption_message(study))
        return INTERRUPTED
    except TrialFailed as failure:
        print_error(f"error: the teacher failed: {failure}{log_hint(study)}")
        return 1
    except (ValueError, OSError) as error:  # no student in budget; a full disk
        print_error(f"error: {one_line(error)}{log_hint(study)}")
        return 2


def make_parser() -> Parser:
    parser = Parser(
        "python -m search.run",
        "Search a space of small, distilled and quantized segmentation networks for the\n"
        "Pareto front of mIoU against model size, and keep the record in MLflow.",
        EXAMPLES,
    )
    what = parser.add_argument_group("what to search").add_argument
    what(
        "--space",
        metavar="NAME",
        help="the search space: a file under spaces/ (required, but for --resume)",
    )
    what(
        "--list-spaces", action="store_true", help="show every space with its description, and exit"
    )
    what(
        "--data",
        metavar="shapes|voc|FOLDER",
        help="built-in shapes (default), PASCAL VOC 2012 (downloaded), or a folder in VOC layout",
    )
    what(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="longest side of images (default: shapes 48; else 512 on a GPU, 160 on a CPU)",
    )
    what(
        "--teacher",
        metavar="auto|NAME|FILE",
        help="auto (default): DeepLabV3-ResNet101 for VOC classes, else a wide U-Net trained once "
        "on the data; the name of a torchvision segmentation network; a model file; or the state "
        "dict (.pth, .safetensors) of one of these networks, of as many classes as the data",
    )
    what(
        "--teacher-outputs",
        choices=("auto", "live", "views", "maps"),
        help="live: the teacher runs at every step; views, maps: what it says of a few fixed views "
        "of each image, or of the whole image, is computed once and kept (default auto: maps, "
        "or live where the disk is too small). In QKD's co-study the whole teacher learns, as in "
        "the paper, only if it is live; else a linear map of its logits",
    )
    how = parser.add_argument_group("how long and how").add_argument
    how("--samples", type=int, metavar="N", help="trials to train (default: 16)")
    how(
        "--epochs",
        type=int,
        metavar="N",
        help="length of one full training (default: shapes 8; else 60 on a GPU, 20 on a CPU)",
    )
    how(
        "--sampler",
        choices=get_args(SamplerName),
        help="who proposes trials: by expected hypervolume improvement (default: ehvi), or one of "
        "Optuna's, which do not learn from trials that fail",
    )
    how(
        "--scheduler",
        choices=("halving", "none"),
        help="halving (default): of the trials at a rung, those go on that no other dominates, and "
        "one in so many; none: all are trained to their end",
    )
    how("--grace-epochs", type=int, metavar="N", help="epochs before the first rung (default: 1)")
    how(
        "--reduction",
        type=float,
        metavar="N",
        help="one trial in so many passes a rung, and rungs are so far apart (default: 3)",
    )
    how(
        "--seed",
        type=int,
        metavar="N",
        help="of sampler, weights, data order and augmentation (default: 0)",
    )
    how(
        "--max-size",
        metavar="SIZE",
        help="refuse students above this file size before any training, e.g. 300KB",
    )
    how(
        "--max-latency",
        metavar="TIME",
        help="refuse students that take longer for an image in ONNX Runtime, on one core of this "
        "machine, e.g. 20ms",
    )
    how("--max-macs", metavar="N", help="refuse students of more multiply-adds an image, e.g. 500M")
    how(
        "--objectives",
        metavar="LIST",
        help="what the front trades: miou and any of size, latency, macs (default: miou,size)",
    )
    how(
        "--time-budget",
        metavar="TIME",
        help="end the search this long after its first trial, e.g. 30m; what is nearly trained may "
        "take up to a tenth longer",
    )
    how(
        "--trial-timeout",
        metavar="TIME",
        help="a trial that makes no progress for so long, as in a read that hangs, has failed "
        "(default: 30m)",
    )
    how(
        "--checkpoint-every",
        metavar="TIME",
        help="how much of a trial's training a kill may cost (default: 10s)",
    )
    how(
        "--stop-when-flat",
        type=float,
        metavar="SHARE",
        help="end the search when trials are expected to enlarge the hypervolume by less, e.g. "
        "0.002 (sampler ehvi)",
    )
    how(
        "--warm-start",
        metavar="NAME",
        help="an earlier study in the same storage, also of another space: its front is tried "
        "first, and the sampler learns from its trials",
    )
    where = parser.add_argument_group("where").add_argument
    where(
        "--storage",
        type=as_path,
        metavar="DIR",
        help="folder of studies and shared artifacts (default: studies)",
    )
    where("--name", metavar="NAME", help="name of the study (default: SPACE-DATA, numbered)")
    where(
        "--resume",
        metavar="NAME",
        help="go on with a study; --samples, limits and resources may change",
    )
    where(
        "--cpus-per-trial",
        type=float,
        metavar="N",
        help="CPU cores and threads of a trial (default: 1, with a GPU its share of the cores)",
    )
    where(
        "--gpus-per-trial",
        type=number_or_auto,
        metavar="N|auto",
        help="GPUs of a trial, fractions allowed; auto: as many trials share a GPU as its memory "
        "holds, by a measured probe (default: auto if there is a GPU, else 0)",
    )
    where(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store (default: $MLFLOW_TRACKING_URI, else sqlite:///STORAGE/mlflow.db)",
    )
    return parser


def number_or_auto(text: str) -> float | Literal["auto"]:
    """A number of GPUs, or `auto`."""
    try:
        return "auto" if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number or auto, but got {text!r}") from None


def read_config(arguments: argparse.Namespace) -> "StudyConfig":
    """The study that the command line describes, new or resumed."""
    import spaces
    from search.execution.resources import check_resources, default_gpus
    from trainables.training.defaults import defaults_for

    given = given_fields(arguments)
    storage = given.get("storage", Path("studies"))
    assert isinstance(storage, Path)
    storage = Path(os.path.abspath(storage))
    check_writable(storage)
    if arguments.space is not None:
        spaces.load_space(arguments.space)
    elif arguments.resume is None:
        raise ValueError(f"--space must be given: one of {', '.join(spaces.space_names())}")
    if arguments.resume is not None:
        config = resumed_config(storage, arguments.resume, given)
        if (store := os.environ.get(STORE)) and absolute_uri(store) != config.tracking_uri:
            print_error(f"{STORE} is not used: the study keeps {config.tracking_uri}")
    else:
        gpus = default_gpus() if arguments.gpus_per_trial is None else arguments.gpus_per_trial
        data = str(given.get("data", "shapes"))
        defaults = defaults_for(data, "cuda" if gpus else "cpu")
        values = {
            "data": data,
            "teacher": "auto",
            "name": free_name(storage, f"{arguments.space}-{plain(Path(data).name)}"),
            "samples": 16,
            "epochs": defaults.num_epochs,
            "image_size": defaults.image_size,
            "sampler": "ehvi",
            "scheduler": "halving",
            "seed": 0,
            "gpus_per_trial": gpus,
            "tracking_uri": default_store(storage),
        }
        config = validate({**values, **given, "storage": storage})
        if is_taken(config.folder):
            raise ValueError(
                f"a new study must have a new name, but {config.folder} exists: choose another "
                f"--name, or go on with it by --resume {config.name}"
            )
    check_resources(config)
    return config


def given_fields(arguments: argparse.Namespace) -> dict[str, object]:
    """The fields of StudyConfig that were set on the command line."""
    from search.core.config import StudyConfig

    given = {
        k: v
        for k, v in vars(arguments).items()
        if v is not None and k in StudyConfig.model_fields and k not in PARSED
    }
    if arguments.data not in (None, "shapes", "voc"):
        given["data"] = os.path.abspath(path_of("--data", arguments.data))
    if arguments.teacher is not None:
        teacher = os.path.expanduser(arguments.teacher)
        given["teacher"] = os.path.abspath(teacher) if os.path.exists(teacher) else teacher
    if arguments.tracking_uri is not None:
        given["tracking_uri"] = check_tracking_uri(arguments.tracking_uri, "--tracking-uri")
    if arguments.max_size is not None:
        given["max_size_bytes"] = parse_size(arguments.max_size)
    if arguments.max_macs is not None:
        given["max_macs"] = parse_count(arguments.max_macs)
    if arguments.max_latency is not None:
        if arguments.max_latency[-1:].isdigit():
            raise ValueError(
                f"--max-latency must have a unit, as 20ms, but got {arguments.max_latency}"
            )
        given["max_latency_ms"] = 1000 * parse_duration(arguments.max_latency)
    if arguments.objectives is not None:
        given["objectives"] = tuple(arguments.objectives.split(","))
    for name in ("time_budget", "trial_timeout", "checkpoint_every"):
        if (text := getattr(arguments, name)) is not None:
            given[f"{name}_s"] = parse_duration(text)
    return given


def resumed_config(storage: Path, name: str, given: dict[str, object]) -> "StudyConfig":
    """The stored study with what may change changed.

    Raises:
        ValueError: there is no such study, or a field that it must keep was given another value.
    """
    from search.core.config import IMMUTABLE_FIELDS
    from search.storage.study_file import read_study_file

    if "name" in given:
        raise ValueError(f"--name cannot change a resumed study's, but got {given['name']}")
    kept = read_study_file(storage / name).config
    if kept.name != name:
        raise ValueError(f"a study's folder must keep its name, but {name} holds {kept.name}")
    changed = validate({**dict(kept.moved_to(storage)), **given, "storage": storage})
    if kept.device != changed.device:
        raise ValueError(
            f"a resumed study must keep its kind of device, but {name} ran on {kept.device} and "
            f"--gpus-per-trial {changed.gpus_per_trial} wants {changed.device}"
        )
    for field in sorted(IMMUTABLE_FIELDS):
        before, after = getattr(kept, field), getattr(changed, field)
        if before != after:
            flag = field.replace("_", "-")
            raise ValueError(
                f"a resumed study must keep its --{flag}, but {name} has {before} and got {after}"
            )
    return changed


def default_store(storage: Path) -> str:
    """The store of a new study where no flag names one."""
    if store := os.environ.get(STORE):
        return check_tracking_uri(store, STORE)
    return default_tracking_uri(storage)


def path_of(flag: str, text: str) -> Path:
    """The path that a flag names, which may also name other things."""
    try:
        return as_path(text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{flag} {error}") from error


def validate(values: dict[str, object]) -> "StudyConfig":
    from search.core.config import StudyConfig

    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        path, _, problem = first_problem(error).partition(": ")
        raise ValueError(f"--{path.replace('_', '-')}: {problem}") from error


def check_writable(storage: Path) -> None:
    """Raises ValueError where no folder can be made or written."""
    if not is_writable(storage):
        raise ValueError(f"--storage must be a writable folder, but {nearest(storage)} is not")


def plain(text: str) -> str:
    """`text` with nothing in it that a study's name may not have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def free_name(storage: Path, wanted: str) -> str:
    """`wanted`, or the first of wanted-2, wanted-3, ... that no study has."""
    names = (wanted if n == 1 else f"{wanted}-{n}" for n in range(1, 10**6))
    return next(name for name in names if not is_taken(storage / name))


def is_taken(folder: Path) -> bool:
    """Whether a folder holds anything but the beginnings of a study.json."""
    if not folder.is_dir():
        return folder.exists()
    return any(not path.name.startswith(".study.json.") for path in folder.iterdir())


if __name__ == "__main__":
    sys.exit(main())
