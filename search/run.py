"""Searches a space of compressed segmentation networks for the Pareto front of mIoU and size.

python -m search.run --space qkd
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import spaces
from search.core.config import StudyConfig
from search.core.networks import completed_teacher, compressed_network, named_teachers
from search.core.tracking_uri import (
    TRACKING_VARIABLE,
    absolute_uri,
    check_tracking_uri,
    default_tracking_uri,
)
from search.execution.cluster_address import check_cluster
from search.execution.environment import prepare_environment
from search.execution.nodes import await_started, check_nodes, find_nodes
from search.execution.ray_start import ending_ray
from search.execution.resources import check_cores, default_gpus
from search.execution.shutdown import INTERRUPTED
from search.storage.layout import STUDY_FILE
from search.storage.location import open_storage, store_note
from trainables.core.command_line import Parser, one_line, write_output
from trainables.core.errors import TrialFailed
from trainables.core.flags import (
    add_flag,
    build_config,
    default_values,
    flag_name,
    flags_of,
    group_flags,
    typed_values,
)
from trainables.core.optional_dependencies import has_onnx
from trainables.core.progress import progress_to
from trainables.core.terminal import (
    log_traceback,
    own_terminal,
    print_error,
    print_step,
    set_verbosity,
)
from trainables.models.configs import StudentConfig

EXAMPLES = """examples:
  python -m search.run --space qkd                          built-in data, a front in minutes
  python -m search.run --space qkd --data ~/my-images       your own images, in VOC layout
  python -m search.run --space qat --max-size 300KB         nothing larger is ever trained
  python -m search.run --resume qkd-shapes --samples 64      a study goes on, with more trials
  python -m search.run --space qkd --name mine --or-resume   for jobs that may be started again

Your own data: a folder with JPEGImages/*.jpg, SegmentationClass/*.png (one class index per pixel,
255 = ignore) and ImageSets/Segmentation/{train,val}.txt; optionally classes.txt, a name per line.
python -m trainables.convert brings what labelling tools export into this layout.

exit status: 0 done; 1 no trial finished; 2 bad input; 130 interrupted, the study is kept.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs or resumes a study and gives the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.list_spaces:
        names = spaces.space_names()
        write_output("".join(f"{name:12} {spaces.describe_space(name)}\n" for name in names))
        from trainables.training.student_table import student_table  # imports PyTorch

        write_output("\nIn each space --students chooses among:\n\n")
        for line in student_table():
            write_output(f"{line}\n")
        return 0
    for first, second in (("quiet", "verbose"), ("resume", "or_resume")):
        if getattr(arguments, first) and getattr(arguments, second):
            parser.error(f"--{first} and --{second.replace('_', '-')} exclude one another")
    set_verbosity("quiet" if arguments.quiet else "verbose" if arguments.verbose else "normal")
    with own_terminal(), ending_ray():
        return run(arguments)


def run(arguments: argparse.Namespace) -> int:
    """Runs or resumes the study of a parsed command line."""
    try:
        prepare_environment()
        config = config_from_arguments(arguments)
        from search.storage.study_file import wait_for_driver
        from search.study.preparation import prepare_study

        print_step("checking the study and its data")
        with progress_to(print_step):
            if arguments.or_resume:
                wait_for_driver(config, print_step)
            study = prepare_study(config, is_resumed(arguments, config))
        await_started(print_step)
        from search.study.search_loop import interruption_message, log_hint, run_study  # import Ray
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
        log_traceback()
        print_error(f"error: the teacher failed: {failure}{log_hint(study)}")
        return 1
    except (ValueError, OSError) as error:  # no student in budget; a full disk
        log_traceback()
        print_error(f"error: {one_line(error)}{log_hint(study)}")
        return 2


def make_parser() -> Parser:
    parser = Parser(
        "python -m search.run",
        "Search a space of small, distilled and quantized segmentation networks for the\n"
        "Pareto front of mIoU against model size, and keep the record in MLflow.",
        EXAMPLES,
    )
    for field, add in group_flags(parser, StudyConfig).items():
        add_flag(add, StudyConfig, field)
        if field == "space":
            add(
                "--list-spaces",
                action="store_true",
                help="show every space with its description, every student with its parameters, "
                "MACs and bytes, and exit",
            )
        if field == "name":
            add(
                "--resume",
                metavar="NAME",
                help="go on with a study; --samples, limits and resources may change",
            )
            add(
                "--or-resume",
                action="store_true",
                help="go on with the study of --name where there is one, as in a job that is "
                "started again after its node was lost",
            )
        if field == "tracking_uri":
            add("--quiet", action="store_true", help="print the results, warnings and errors alone")
            add(
                "--verbose",
                action="store_true",
                help="print also what each trial begins with, and what it reports after each epoch",
            )
    return parser


def config_from_arguments(arguments: argparse.Namespace) -> StudyConfig:
    """The study that the command line describes, new or resumed.

    Errors in the command line are reported before PyTorch is imported to look for GPUs, which takes
    seconds.
    """
    given = typed_values(StudyConfig, arguments)
    storage = Path(os.path.abspath({**default_values(StudyConfig), **given}["storage"]))
    names = (arguments.resume, given.get("name"), given.get("warm_start"))
    storage = open_storage(storage, given.get("cache"), names)
    if "space" in given:
        spaces.check_name(given["space"])
    elif arguments.resume is None:
        raise ValueError(f"--space must be given: one of {', '.join(spaces.space_names())}")
    if arguments.or_resume and "name" not in given:
        raise ValueError("--or-resume needs --name, by which a study is found again")
    if {"steps", "epochs"} <= given.keys():
        raise ValueError("--steps and --epochs are two units of one length: give one of them")
    if arguments.resume is not None:
        config = resumed_config(storage, arguments.resume, given)
    else:
        config = new_config(storage, given)
    is_new = not is_resumed(arguments, config)
    if is_new and is_taken(config.folder):
        raise ValueError(
            f"a new study must have a new name, but {config.folder} exists: choose another "
            f"--name, or go on with it by --resume {config.name}"
        )
    if not is_new and arguments.resume is None:
        wanted = complete(config, given)
        known = {field: getattr(wanted, field) for field in given if field != "name"}
        config = resumed_config(storage, config.name, known)
    if note := store_note(storage, config.tracking_uri):
        print_step(note)
    if config.data != "voc":  # VOC is downloaded where it is missing
        from trainables.data.registry import open_source  # imports NumPy

        open_source(config.data, config.image_size, storage)
    check_cores(config)
    check_cluster(print_step)
    nodes = find_nodes(config, print_step)
    if is_new and "gpus_per_trial" not in given:
        found = hardware_defaults(config.data, default_gpus(nodes))
        config = config.replace(**{k: v for k, v in found.items() if k not in given})
    check_nodes(config, nodes, print_step)
    return complete(config, given) if is_new else config


def complete(config: StudyConfig, given: Mapping[str, Any]) -> StudyConfig:
    """A new study with its students and its teacher, of which flags may say only a part."""
    students = find_students(config, given.get("students"))
    return config.replace(students=students, teacher=completed_teacher(config))


def is_resumed(arguments: argparse.Namespace, config: StudyConfig) -> bool:
    """Whether a study exists that the command line wants to go on with."""
    exists = (config.folder / STUDY_FILE).is_file()
    return arguments.resume is not None or (arguments.or_resume and exists)


def find_students(
    config: StudyConfig, given: Sequence[StudentConfig] | None
) -> tuple[StudentConfig, ...]:
    """The students of a new study: a network to compress, and those that were `given`.

    Raises:
        ConnectionError: weights are neither cached nor to be downloaded.
        ValueError: a network or weights cannot be used.
    """
    from trainables.models.student_list import complete_students, write_students

    found: tuple[StudentConfig, ...] = ()
    if (network := compressed_network(config)) is not None:
        student = network.student(config.new_head)
        for share in config.prune or ():
            student.replace(keep=share).kept_graph()
        if config.prune and not student.normalizes:
            print_step(
                f"note: {network.label} has no layers that normalise, as where BatchNorm is "
                "folded: the size of its weights, by which --prune chooses, says little of its "
                "channels"
            )
        found = (student,)
        if has_onnx():
            from trainables.deploy.onnx_export import find_export_error

            if reason := find_export_error(found[0].build(network.recorded.num_classes)):
                print_step(f"note: {network.label} ships as a packed file, not as ONNX: {reason}")
    files = config.backbone_weights or ()
    if not found or given or files:
        default = spaces.own_students(spaces.load_space(config.space).space)
        found += complete_students(
            given, files, config.pretrained_normalization, default, named_teachers(config)
        )
    if found != config.students:
        print_step(f"students: {write_students(found)}")
    return found


def new_config(storage: Path, given: Mapping[str, Any]) -> StudyConfig:
    """A new study with all defaults, on a machine without a GPU where no flag names GPUs."""
    data = {**default_values(StudyConfig), **given}["data"]
    computed = {
        "name": free_name(storage, f"{given['space']}-{plain(Path(data).name)}"),
        "tracking_uri": default_store(storage),
        **hardware_defaults(data, given.get("gpus_per_trial", 0.0)),
    }
    return build_config(StudyConfig, {**computed, **given, "storage": storage})


def hardware_defaults(data: str, gpus: float | Literal["auto"]) -> dict[str, object]:
    """The defaults of a new study that depend on the hardware."""
    from trainables.training.defaults import defaults_for

    defaults = defaults_for(data, "cuda" if gpus else "cpu")
    return {
        "gpus_per_trial": gpus,
        "image_size": defaults.image_size,
    }


def resumed_config(storage: Path, name: str, given: Mapping[str, Any]) -> StudyConfig:
    """The stored configuration with the changes that the command line asks for.

    Raises:
        ValueError: there is no such study, or a field that it must keep was given another value.
    """
    from search.storage.study_file import read_study_file

    if "name" in given:
        raise ValueError(f"--name cannot change a resumed study's, but got {given['name']}")
    kept = read_study_file(storage / name).config
    if kept.name != name:
        raise ValueError(f"a study's folder must keep its name, but {name} holds {kept.name}")
    moved = kept.moved_to(storage)
    changed = build_config(StudyConfig, {**dict(moved), **given, "storage": storage})
    if kept.device != changed.device:
        raise ValueError(
            f"a resumed study must keep its kind of device, but {name} ran on {kept.device} and "
            f"--gpus-per-trial {changed.gpus_per_trial} wants {changed.device}"
        )
    if changed.compress and kept.compress is None:
        raise ValueError(
            f"a resumed study must keep its students, but {name} compresses no network, and got "
            f"--compress {changed.compress}"
        )
    for field, flag in flags_of(StudyConfig).items():
        before, after = getattr(kept, field), getattr(changed, field)
        if flag.immutable and before != after:
            write = flag.unit.write if flag.unit else str
            kept_text, got = ("none" if v is None else write(v) for v in (before, after))
            raise ValueError(
                f"a resumed study must keep its {flag_name(StudyConfig, field)}, but {name} has "
                f"{kept_text} and got {got}"
            )
    if (store := os.environ.get(TRACKING_VARIABLE)) and absolute_uri(store) != changed.tracking_uri:
        print_error(f"{TRACKING_VARIABLE} is not used: the study keeps {changed.tracking_uri}")
    return changed


def default_store(storage: Path) -> str:
    """The store of a new study where no flag names one."""
    if store := os.environ.get(TRACKING_VARIABLE):
        return check_tracking_uri(store, TRACKING_VARIABLE)
    return default_tracking_uri(storage)


def plain(text: str) -> str:
    """`text` without the characters that a study's name must not have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def free_name(storage: Path, wanted: str) -> str:
    """`wanted`, or the first of wanted-2, wanted-3, ... that is not the name of a study."""
    names = (wanted if n == 1 else f"{wanted}-{n}" for n in range(1, 10**6))
    return next(name for name in names if not is_taken(storage / name))


def is_taken(folder: Path) -> bool:
    """Whether a folder contains anything other than a partial study.json."""
    if not folder.is_dir():
        return folder.exists()
    return any(not path.name.startswith(f".{STUDY_FILE}.") for path in folder.iterdir())


if __name__ == "__main__":
    sys.exit(main())
