"""Trains and measures one configuration without Ray, Optuna or MLflow.

python -m trainables.train CONFIG.json --data FOLDER --out DIR
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from trainables.config import ExecutionConfig, TrialConfig, read_config
from trainables.core.artifacts import ArtifactStore
from trainables.core.command_line import Parser, as_path, report
from trainables.core.errors import TrialFailed
from trainables.core.flags import add_flag, build_config, default_values, group_flags, typed_values
from trainables.core.progress import ProgressReporter, progress_to
from trainables.models.configs import WeightSources
from trainables.teachers.averaging import choose_averaging
from trainables.teachers.lead import leads, weak_teacher_warning
from trainables.training.cost import predict_size_bytes
from trainables.training.defaults import Defaults, defaults_for
from trainables.training.setup import (
    check_teacher_outputs,
    open_data,
    open_teacher_data,
    open_unlabelled_images,
    output_mode,
    say_data,
    say_unlabelled,
    set_up_teacher,
    set_up_teacher_outputs,
    set_up_weights,
    with_images,
)
from trainables.training.teacher import check_teacher
from trainables.training.training_config import TrainingConfig
from trainables.training.trial import Trial, save
from trainables.training.weights import check_students, check_weights

CHECKPOINTS = ".checkpoints"
"""Folder of the checkpoints of an unfinished training, inside its output folder."""


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: trained; 1: the trial failed; 2: bad input."""
    arguments = make_parser().parse_args(argv)
    with progress_to(say):
        return report(lambda: run(arguments), TrialFailed)


def say(line: str) -> None:
    print(line, flush=True)


def make_parser() -> Parser:
    parser = Parser(
        "python -m trainables.train",
        "Train and measure one configuration, without Ray. The same command goes on with a\n"
        "training that was interrupted.",
    )
    add = parser.add_argument
    add(
        "config",
        type=as_path,
        metavar="CONFIG.json",
        help="a TrialConfig, e.g. a front member's config.json",
    )
    add(
        "--out",
        type=as_path,
        required=True,
        metavar="DIR",
        help="gets model.safetensors, config.json, metrics.json",
    )
    for field, add_to_group in group_flags(parser, TrainingConfig).items():
        add_flag(add_to_group, TrainingConfig, field)
    return parser


def weight_sources(training: TrainingConfig, config: TrialConfig, file: Path) -> WeightSources:
    """What the pretrained weights of the student in a configuration `file` may be read from.

    Raises:
        ValueError: there is a network to compress, but the student is another.
    """
    network = None
    if training.compress is not None:
        network = config.student.source(training.compress, training.builder)
        if network is None:
            raise ValueError(
                "--compress must be for a configuration whose student was traced, but "
                f"{file} has {config.student.describe()}"
            )
    return WeightSources(backbones=training.backbone_weights or (), network=network)


def own_teacher_config(config: TrialConfig, defaults: Defaults, num_images: int) -> TrialConfig:
    """The teacher where none is named: the student as it came trained, or a network to train.

    It is trained twice as long, but no longer than the defaults say, with the student's loss on
    labels and augmentation.
    """
    alike = replace(defaults, label_loss=config.label_loss, augmentation=config.augmentation)
    length = min(2 * config.num_epochs, alike.num_epochs(alike.teacher_steps, num_images))
    return alike.own_teacher_config([config.student], config.num_epochs, config.seed, length)


def run(arguments: argparse.Namespace) -> None:
    config = read_config(arguments.config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = typed_values(TrainingConfig, arguments)
    defaults = defaults_for({**default_values(TrainingConfig), **given}["data"], device)
    training = build_config(TrainingConfig, {"image_size": defaults.image_size, **given})
    store = ArtifactStore(training.artifacts or arguments.out.parent / "artifacts")
    opened = open_data(training.data, training.image_size, store)
    of_teacher = None
    if config.needs_teacher:
        size = training.teacher_size
        check_teacher_outputs(training.teacher_outputs, [config], len(opened.class_names), size)
        of_teacher = open_teacher_data(opened, training.data, training.image_size, size)
        check_teacher(training.teacher, len(opened.class_names), (of_teacher or opened).canvas)
    sources = weight_sources(training, config, arguments.config)
    check_students([config.student], len(opened.class_names), opened.canvas)
    predict_size_bytes(config, len(opened.class_names))  # which checks the bits of its layers
    check_weights([config.student], sources, store, opened.digest)
    found = open_unlabelled_images(
        training.unlabelled, training.image_size, opened, [config], training.teacher_size
    )
    data = opened.pack()
    say_data(data, opened.found is not None, opened.notes, say)
    unlabelled = found.pack() if found else None
    say_unlabelled(unlabelled, say)
    setting = ExecutionConfig(
        data=data.path,
        artifacts=store.root,
        num_threads=training.threads,
        device=device,
        checkpoint_every_s=training.checkpoint_every_s,
    )
    setting = with_images(setting, of_teacher.pack() if of_teacher else None, unlabelled)
    set_up_weights(setting, [config.student], sources, say)
    teacher = None
    if config.needs_teacher:
        own = own_teacher_config(config, defaults, len(data.train))
        outputs = output_mode(training.teacher_outputs, [config], say, training.teacher_size)
        averaging = choose_averaging(
            training.teacher_seeds, training.teacher_flip, is_live=outputs == "live"
        )
        setting, teacher = set_up_teacher(setting, training.teacher, own, say, averaging=averaging)
        setting, _ = set_up_teacher_outputs(setting, outputs, config.augmentation, say)
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
    if teacher and not leads(teacher.miou, metrics.miou):
        say(weak_teacher_warning(teacher.miou, f"its student {100 * metrics.miou:.1f} %"))


if __name__ == "__main__":
    sys.exit(main())
