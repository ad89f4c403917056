"""Compares recipes on the same seeds, steps and data: does distillation help, and by which term?

python -m search.compare --recipes supervised distill qat

Every recipe is trained with seeds 0, 1, ..., each of which sets the weights, the data order and the
augmentation of a student and of its start. All students are trained for the same number of
optimizer steps: those of a quantized student are divided between its full-precision start and its
own training, so that `supervised` is the full-precision twin of every other recipe. The differences
to the first recipe are paired by seed; a difference is within noise unless the 95 % confidence
interval of their mean excludes 0.

What this does not equalise: the time of a step (a teacher or a quantizer takes more), and how well
the learning rate of each recipe was chosen. Compare points of the front of a study, by their files,
where each has been searched.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.core.comparison import default_epochs, default_students, plan_arms
from search.core.comparison_config import ComparisonConfig
from search.core.networks import completed_teacher, compressed_network, named_teachers
from search.core.training_defaults import chosen_defaults
from search.execution.cluster_address import check_cluster
from search.execution.environment import prepare_environment
from search.execution.nodes import await_started, check_nodes, find_nodes
from search.execution.ray_start import ending_ray
from search.execution.resources import check_cores, default_gpus
from search.execution.shutdown import INTERRUPTED
from search.run import default_store, plain
from search.storage.location import open_storage
from trainables.core.command_line import Parser, one_line
from trainables.core.errors import TrialFailed
from trainables.core.flags import (
    add_flag,
    build_config,
    default_values,
    flag_name,
    group_flags,
    typed_values,
)
from trainables.core.progress import progress_to
from trainables.core.terminal import log_file, log_traceback, own_terminal, print_error, print_line
from trainables.models.configs import StudentConfig
from trainables.models.student_list import complete_students

EXAMPLES = """examples:
  python -m search.compare --recipes supervised distill qat qat_distill
  python -m search.compare --recipes supervised distill "pairs=distill losses.pairwise.weight=1"
  python -m search.compare --recipes supervised studies/qkd-shapes/models/*/config.json --seeds 5
  python -m search.compare qkd-shapes qat-shapes             two finished studies

The same command goes on with a comparison that was interrupted, and with more --seeds extends it.
Choose the number of seeds before you look: adding some until an interval excludes 0 finds
differences where there are none.

exit status: 0 done; 1 no pair of trainings finished; 2 bad input; 130 interrupted.
"""

SOME_IMAGES = 100
"""Training images with which a command line is checked before the data are opened."""


def main(argv: list[str] | None = None) -> int:
    """Runs or continues a comparison and gives the exit status."""
    arguments = make_parser().parse_args(argv)
    with own_terminal(), ending_ray():
        return run(arguments, sys.argv[1:] if argv is None else argv)


def run(arguments: argparse.Namespace, argv: list[str]) -> int:
    """Runs the comparison of a parsed command line, which `argv` repeats if Ray has to restart."""
    try:
        if arguments.studies:
            compare_named(arguments)
            return 0
        prepare_environment()
        config = config_from_arguments(arguments)
        from search.comparison.preparation import prepare_comparison

        print_line("checking the comparison and its data")
        with progress_to(print_line):
            comparison = prepare_comparison(config)
        await_started(print_line)
        from search.comparison.session import CONTINUATION, ComparisonSession  # import Ray
    except (ValueError, OSError) as error:
        print_error(f"error: {one_line(error)}")
        return 2
    except KeyboardInterrupt:
        print_error("interrupted before the comparison began")
        return INTERRUPTED
    try:
        return ComparisonSession(comparison).run(["-m", "search.compare", *argv])
    except KeyboardInterrupt:
        print_error(CONTINUATION)
        return INTERRUPTED
    except TrialFailed as failure:
        log_traceback()
        print_error(f"error: the teacher failed: {failure} (details are in {log_file()})")
        return 1
    except (ValueError, OSError) as error:  # a full disk
        log_traceback()
        print_error(f"error: {one_line(error)} (details are in {log_file()})")
        return 2


def make_parser() -> Parser:
    parser = Parser(
        "python -m search.compare",
        "Compare recipes by the same students, seeds, steps and data: mean differences in mIoU,\n"
        "their confidence intervals, and what is within noise. Or compare finished studies.",
        EXAMPLES,
    )
    parser.add_argument(
        "studies",
        nargs="*",
        metavar="NAME",
        help="studies in --storage, of the same data: their fronts over each other, the best mIoU "
        "within some sizes, hypervolumes, costs, and the settings in which they differ; no "
        "other flag is needed, and nothing is trained",
    )
    for field, add in group_flags(parser, ComparisonConfig).items():
        add_flag(add, ComparisonConfig, field)
    return parser


def compare_named(arguments: argparse.Namespace) -> None:
    """Compares the studies that a command line names.

    Raises:
        ValueError: they cannot be compared, or there are flags for a comparison of recipes.
    """
    given = typed_values(ComparisonConfig, arguments)
    if others := given.keys() - {"storage", "cache"}:
        flag = flag_name(ComparisonConfig, min(others))
        raise ValueError(
            f"studies are compared as they are, which leaves no use for {flag}, but got it beside "
            f"{' '.join(arguments.studies)}"
        )
    from search.comparison.studies import compare_studies  # imports PyTorch

    storage = {**default_values(ComparisonConfig), **given}["storage"]
    storage = open_storage(Path(os.path.abspath(storage)), given.get("cache"), arguments.studies)
    compare_studies(storage, arguments.studies)


def config_from_arguments(arguments: argparse.Namespace) -> ComparisonConfig:
    """The comparison that the command line describes.

    Errors in the command line are reported before PyTorch is imported to look for GPUs.
    """
    given = typed_values(ComparisonConfig, arguments)
    storage = Path(os.path.abspath({**default_values(ComparisonConfig), **given}["storage"]))
    storage = open_storage(storage, given.get("cache"), (given.get("name"),))
    if "recipes" not in given:
        raise ValueError("--recipes must be given, the reference first, as supervised distill")
    if {"steps", "epochs"} <= given.keys():
        raise ValueError("--steps and --epochs are two units of one length: give one of them")
    brings_students = "students" in given or any(recipe.file for recipe in given["recipes"])
    names_teacher = isinstance(given.get("teacher"), StudentConfig)
    if "backbone_weights" in given and not (brings_students or names_teacher):
        raise ValueError(
            "--backbone-weights needs --students, or a --teacher, with backbones, such as "
            "unet_mobilenet_v2, or recipes of files"
        )
    from trainables.data.registry import open_source  # imports NumPy

    given = {**given, "storage": storage}
    config = new_config(given, given.get("gpus_per_trial", 0.0), SOME_IMAGES)
    if config.compress is None:  # else its students are not known yet
        plan_arms(config, chosen_defaults(config))
    source = None
    if config.data != "voc":  # VOC is downloaded where it is missing
        source = open_source(config.data, config.image_size, storage)
    check_cores(config)
    check_cluster(print_line)
    nodes = find_nodes(config, print_line)
    gpus = given.get("gpus_per_trial", default_gpus(nodes))
    source = source or open_source(config.data, config.image_size, storage)
    config = new_config(given, gpus, source.num_samples("train"))
    check_nodes(config, nodes, print_line)
    students = find_students(config, given.get("students"))
    config = config.replace(students=students, teacher=completed_teacher(config))
    plan_arms(config, chosen_defaults(config))
    if "name" not in given:
        name = f"compare-{plain(Path(config.data).name)}-{config.identity[:8]}"
        config = config.replace(name=name)
    return config


def find_students(
    config: ComparisonConfig, given: Sequence[StudentConfig] | None
) -> tuple[StudentConfig, ...]:
    """A network to compress, and the students that were `given`; the default without either.

    Raises:
        ConnectionError: weights are neither cached nor to be downloaded.
        ValueError: a network or weights cannot be used.
    """
    network = compressed_network(config)
    found: tuple[StudentConfig, ...] = (network.student(config.new_head),) if network else ()
    teachers = named_teachers(config)
    if given or (teachers and not any(recipe.file for recipe in config.recipes)):
        files = config.backbone_weights or ()
        found += complete_students(
            given or (), files, config.pretrained_normalization, others=teachers
        )
    return found or config.students


def new_config(given: Mapping[str, Any], gpus: object, num_images: int) -> ComparisonConfig:
    """The comparison with all defaults, for so many GPUs a training and so many training images.

    Raises:
        ValueError: a value breaks a rule.
    """
    from trainables.training.defaults import augmentation_for, defaults_for

    data = {**default_values(ComparisonConfig), **given}["data"]
    defaults = defaults_for(data, "cuda" if gpus else "cpu")
    length = default_epochs(given["recipes"], defaults, num_images, given.get("steps"))
    length = given.get("epochs", length)
    computed = {
        "students": default_students(given["recipes"]),
        "epochs": length,
        "augmentation": augmentation_for(defaults.num_steps_of(length, num_images)),
        "image_size": defaults.image_size,
        "name": "compare",
        "gpus_per_trial": gpus,
        "tracking_uri": default_store(given["storage"]),
    }
    return build_config(ComparisonConfig, {**computed, **given})


if __name__ == "__main__":
    sys.exit(main())
