"""Trains and measures one configuration without Ray, Optuna or MLflow.

python -m trainables.train CONFIG.json --data FOLDER --out DIR
"""

import argparse
import sys
from typing import Literal

import torch

from trainables.config import ExecutionConfig, read_config
from trainables.core.artifacts import ArtifactStore
from trainables.core.command_line import Parser, as_path, report
from trainables.core.errors import TrialFailed
from trainables.data.packed import find_pack, open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.teachers.output_cache import Form, cache_outputs, predict_footprint
from trainables.training.defaults import defaults_for
from trainables.training.teacher import check_teacher, prepare_teacher
from trainables.training.trial import Trial, save

CHECKPOINTS = ".checkpoints"
"""In the folder of a training that was killed."""


def main(argv: list[str] | None = None) -> int:
    """Exit status 0: trained; 1: the trial failed; 2: bad input."""
    arguments = parse(argv)
    return report(lambda: run(arguments), TrialFailed)


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
        "--checkpoint-every",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="that a kill may cost; the same command goes on (default: 10)",
    )
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    config = read_config(arguments.config)
    if arguments.threads < 1:
        raise ValueError(f"--threads >= 1 must hold, but got {arguments.threads}")
    if not arguments.checkpoint_every >= 0:
        raise ValueError(f"--checkpoint-every >= 0 must hold, but got {arguments.checkpoint_every}")
    store = ArtifactStore(arguments.artifacts or arguments.out.parent / "artifacts")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    defaults = defaults_for(arguments.data, device)
    source = open_source(arguments.data, arguments.image_size or defaults.image_size, store.root)
    if config.needs_teacher:
        check_teacher(arguments.teacher, len(source.class_names))
    found = find_pack(source, store)
    data = found or pack_dataset(source, store)
    packed = open_pack(data.path)
    print(f"data: {packed}, {'found' if found else 'packed'} in {data.path}", flush=True)
    for note in source.notes if packed.notes is None else packed.notes:
        print(f"note: {note}", flush=True)
    setting = ExecutionConfig(
        data=data.path,
        artifacts=store.root,
        num_threads=arguments.threads,
        device=device,
        checkpoint_every_s=arguments.checkpoint_every,
    )
    if config.needs_teacher:
        teacher = prepare_teacher(setting, arguments.teacher, defaults.default_teacher_config())
        print(f"teacher: {teacher.note}, mIoU {teacher.miou:.4f}", flush=True)
        setting = setting.replace(teacher=teacher.file)
        form: Form | Literal["live"] = arguments.teacher_outputs
        if form != "live":
            print(
                f"teacher outputs: {predict_footprint(setting, form, config.augmentation)}",
                flush=True,
            )
            kept = cache_outputs(setting, form, config.augmentation)
            setting = setting.replace(teacher_outputs=kept)
    arguments.out.mkdir(parents=True, exist_ok=True)
    trial = Trial(config, setting, arguments.out / CHECKPOINTS)
    for metrics in save(trial, arguments.out):
        losses = ", ".join(f"{name} {value:.4f}" for name, value in metrics.losses.items())
        print(f"epoch {metrics.epoch}: mIoU {metrics.miou:.4f}, {losses}", flush=True)
    trial.checkpoint_manager.clear()
    print(f"{arguments.out}: mIoU {metrics.miou:.4f}, {metrics.size_bytes} bytes")


if __name__ == "__main__":
    sys.exit(main())
