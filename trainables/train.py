"""Trains and measures one configuration without Ray, Optuna or MLflow.

python -m trainables.train CONFIG.json --data FOLDER --out DIR
"""

import argparse
import sys
from dataclasses import replace
from typing import get_args

import torch

from trainables.config import ExecutionConfig, TrialConfig, read_config
from trainables.core.artifacts import ArtifactStore
from trainables.core.command_line import Parser, as_path, report
from trainables.core.errors import TrialFailed
from trainables.core.progress import ProgressReporter, progress_to
from trainables.models.configs import NetworkSource, WeightSources
from trainables.teachers.averaging import Flip, check_seeds, choose_averaging
from trainables.training.defaults import Defaults, defaults_for
from trainables.training.setup import (
    OutputMode,
    check_terms,
    open_data,
    open_teacher_data,
    open_unlabelled_images,
    say_data,
    say_unlabelled,
    set_up_teacher,
    set_up_teacher_outputs,
    set_up_weights,
    with_images,
)
from trainables.training.teacher import check_teacher
from trainables.training.trial import Trial, save
from trainables.training.weights import check_students, check_weights

CHECKPOINTS = ".checkpoints"
"""Folder of the checkpoints of an unfinished training, inside its output folder."""


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: trained; 1: the trial failed; 2: bad input."""
    arguments = parse(argv)
    with progress_to(say):
        return report(lambda: run(arguments), TrialFailed)


def say(line: str) -> None:
    print(line, flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        "python -m trainables.train", "Train and measure one configuration, without Ray."
    )
    add = parser.add_argument
    add(
        "config",
        type=as_path,
        metavar="CONFIG.json",
        help="a TrialConfig, e.g. a front member's config.json",
    )
    add(
        "--data",
        default="shapes",
        metavar="shapes|voc|FOLDER",
        help="the data set (default: shapes)",
    )
    add(
        "--out",
        type=as_path,
        required=True,
        metavar="DIR",
        help="gets model.safetensors, config.json, metrics.json",
    )
    add(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="longest side; default by data set and device",
    )
    add(
        "--teacher",
        default="auto",
        metavar="auto|NAME|FILE",
        help="as in search.run; used where the recipe has one",
    )
    add(
        "--teacher-size",
        type=int,
        metavar="PIXELS",
        help="as in search.run, with --teacher-outputs maps or views",
    )
    add(
        "--teacher-seeds",
        type=int,
        default=1,
        metavar="N",
        help="as in search.run (default: 1)",
    )
    add(
        "--teacher-flip",
        default="auto",
        choices=get_args(Flip),
        help="as in search.run (default: auto)",
    )
    add(
        "--backbone-weights",
        type=as_path,
        metavar="FILE",
        help="of the file that the configuration's student names, at first use",
    )
    add(
        "--compress",
        metavar="FILE|NAME",
        help="the network that the configuration's student was traced from, at first use",
    )
    add(
        "--builder",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="as in search.run, for the network of --compress",
    )
    add(
        "--artifacts",
        type=as_path,
        metavar="DIR",
        help="shared store (default: artifacts beside DIR)",
    )
    add(
        "--teacher-outputs",
        default="live",
        choices=("live", "views", "maps"),
        help="as in search.run (default: live)",
    )
    add(
        "--unlabelled",
        type=as_path,
        metavar="FOLDER",
        help="as in search.run",
    )
    add(
        "--checkpoint-every",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="that a kill may cost; the same command goes on (default: 10)",
    )
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    return parser.parse_args(argv)


def network_source(arguments: argparse.Namespace, config: TrialConfig) -> NetworkSource | None:
    """What the flags name, normalised as the configuration says.

    Raises:
        ValueError: the configuration is of another student, or a flag lacks the other.
    """
    if arguments.compress is None:
        if arguments.builder is not None:
            raise ValueError("--builder needs --compress")
        return None
    source = config.student.source(arguments.compress, arguments.builder)
    if source is None:
        raise ValueError(
            "--compress must be for a configuration whose student was traced, but "
            f"{arguments.config} has {config.student.describe()}"
        )
    return source


def own_teacher_config(config: TrialConfig, defaults: Defaults, num_images: int) -> TrialConfig:
    """The teacher where none is named: the student as it came trained, or a network to train.

    It is trained twice as long, but no longer than the defaults say, with the student's loss on
    labels and augmentation.
    """
    alike = replace(defaults, label_loss=config.label_loss, augmentation=config.augmentation)
    original = alike.original_config([config.student], config.num_epochs, config.seed)
    longest = alike.num_epochs(alike.teacher_steps, num_images)
    return original or alike.default_teacher_config(min(2 * config.num_epochs, longest))


def run(arguments: argparse.Namespace) -> None:
    config = read_config(arguments.config)
    if arguments.threads < 1:
        raise ValueError(f"--threads >= 1 must hold, but got {arguments.threads}")
    if not arguments.checkpoint_every >= 0:
        raise ValueError(f"--checkpoint-every >= 0 must hold, but got {arguments.checkpoint_every}")
    store = ArtifactStore(arguments.artifacts or arguments.out.parent / "artifacts")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    defaults = defaults_for(arguments.data, device)
    image_size = arguments.image_size or defaults.image_size
    opened = open_data(arguments.data, image_size, store)
    wanted: OutputMode = arguments.teacher_outputs
    of_teacher = None
    if config.needs_teacher:
        size = arguments.teacher_size
        if arguments.teacher_seeds < 1:
            raise ValueError(f"--teacher-seeds >= 1 must hold, but got {arguments.teacher_seeds}")
        check_seeds(arguments.teacher_seeds, arguments.teacher == "auto")
        check_terms(wanted, [config], len(opened.class_names), size)
        check_teacher(arguments.teacher, len(opened.class_names))
        of_teacher = open_teacher_data(opened, arguments.data, image_size, size)
    files = (arguments.backbone_weights,) if arguments.backbone_weights else ()
    sources = WeightSources(backbones=files, network=network_source(arguments, config))
    check_students([config.student], len(opened.class_names), opened.canvas)
    check_weights([config.student], sources, store, opened.digest)
    found = open_unlabelled_images(
        arguments.unlabelled, image_size, opened, [config], arguments.teacher_size
    )
    data = opened.pack()
    say_data(data, opened.found is not None, opened.notes, say)
    unlabelled = found.pack() if found else None
    say_unlabelled(unlabelled, say)
    setting = ExecutionConfig(
        data=data.path,
        artifacts=store.root,
        num_threads=arguments.threads,
        device=device,
        checkpoint_every_s=arguments.checkpoint_every,
    )
    setting = with_images(setting, of_teacher.pack() if of_teacher else None, unlabelled)
    set_up_weights(setting, [config.student], sources, say)
    if config.needs_teacher:
        own = own_teacher_config(config, defaults, len(data.train))
        averaging = choose_averaging(
            arguments.teacher_seeds, arguments.teacher_flip, is_live=wanted == "live"
        )
        setting, _ = set_up_teacher(setting, arguments.teacher, own, say, averaging=averaging)
        setting, _ = set_up_teacher_outputs(setting, wanted, config.augmentation, say)
    arguments.out.mkdir(parents=True, exist_ok=True)
    progress = ProgressReporter("training the student", "epoch", config.num_epochs)
    trial = Trial(config, setting, arguments.out / CHECKPOINTS, on_progress=progress.update)
    for metrics in save(trial, arguments.out):
        losses = ", ".join(f"{name} {value:.4f}" for name, value in metrics.losses.items())
        say(f"epoch {metrics.epoch}: mIoU {metrics.miou:.4f}, {losses}")
    trial.checkpoint_manager.clear()
    say(
        f"{arguments.out}: mIoU {metrics.miou:.4f}, {metrics.size_bytes} bytes, "
        f"{metrics.share_never_predicted} classes never predicted"
    )


if __name__ == "__main__":
    sys.exit(main())
