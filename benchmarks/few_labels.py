"""What distillation is worth where most images have no labels, and what each part of it adds.

    python -m benchmarks.few_labels --data FOLDER --teacher CONFIG.json --out table.md

Of the training images every fourth keeps its labels, and the others are unlabelled images. The
teacher is trained on the labelled ones alone. Students are scored on all images that no training
sees: those of val.txt, and of test.txt where there is one.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from benchmarks.balance import LISTS, link_unseen, score
from benchmarks.distillation import BATCH_SIZE, TERM, TWIN, cells, configure, train, train_each
from benchmarks.timing import describe_machine, markdown
from search.core.recipe_list import parse_compared_students
from trainables.config import ExecutionConfig, TrialConfig, read_config
from trainables.core.artifacts import ArtifactStore
from trainables.data.configs import AugmentationName
from trainables.data.packed import open_pack
from trainables.losses.configs import (
    AttentionGuided,
    Channelwise,
    ChannelwiseFeatures,
    Pairwise,
    PairwiseDecoder,
    Terms,
    TermWeights,
    by_name,
)
from trainables.models.configs import StudentConfig, WeightSources
from trainables.models.model_file import MODEL_FILE
from trainables.quantization.quantizers.configs import Lsq
from trainables.recipes.configs import (
    RECOMMENDED,
    AdamW,
    Distill,
    FullPrecisionRecipe,
    QatDistill,
    Recipe,
    Supervised,
)
from trainables.teachers.averaging import PLAIN, Averaging
from trainables.training.setup import (
    OutputMode,
    open_data,
    open_teacher_data,
    open_unlabelled_images,
    set_up_teacher,
    set_up_teacher_outputs,
    set_up_weights,
    with_images,
)
from trainables.training.teacher import prepare_teacher
from trainables.training.trial import train_or_find

RATE = AdamW(learning_rate=4e-3)
ALL = "distilled"
LIVE_TEACHER = "a live teacher, which sees the student's images"
TRAINING_SHARE_OF_VAL = 4
"""Trainings evaluate every fourth validation image after each epoch, which is short."""


class Images(NamedTuple):
    """What a student and its teacher see, and what the teacher's predictions are means of."""

    unlabelled: bool = True
    larger: bool = True
    """Whether the teacher sees larger images."""
    live: bool = False
    """Whether the teacher runs at every step; else its outputs are kept as maps."""
    averaging: Averaging = PLAIN


LIVE = Images(larger=False, live=True)


class Part(NamedTuple):
    """How a student learns: from which terms, and from which images."""

    terms: Terms | None = by_name(TERM)
    images: Images = Images()
    term_weights: TermWeights = "fixed"
    bits: int | None = None
    distilled_start: bool = True
    co_study: float = 0

    def recipe(self, num_epochs: int) -> Recipe:
        """A quantized student has two thirds of the epochs for its start."""
        if self.bits is None:
            return self.start()
        quantizer = Lsq(weight_bits=self.bits, activation_bits=self.bits)
        recommended = RECOMMENDED["qat_distill" if self.terms else "qat"]
        quantized = recommended.replace(
            quantizer=quantizer,
            start=self.start() if self.distilled_start else self.start().without_teacher(),
            start_epochs=2 * num_epochs // 3,
        )
        if isinstance(quantized, QatDistill):
            return quantized.replace(co_study=self.co_study)
        return quantized

    def start(self) -> FullPrecisionRecipe:
        if self.terms is None:
            return Supervised(optimizer=RATE)
        return Distill(optimizer=RATE, losses=self.terms, term_weights=self.term_weights)


# Terms of features have the weights of their papers
PARTS: dict[str, Part] = {
    TWIN: Part(terms=None),
    ALL: Part(),
    "without unlabelled images": Part(images=Images(unlabelled=False)),
    "where the teacher is wrong, too": Part(by_name(TERM.replace(where="all"))),
    "without class weights in the term": Part(by_name(TERM.replace(class_weighted=False))),
    "weight 3, T 2": Part(by_name(TERM.replace(weight=3, temperature=2))),
    "learned balance of term and labels": Part(term_weights="learned"),
    "channel-wise besides": Part(by_name(TERM, Channelwise(weight=1))),
    "pair-wise besides": Part(by_name(TERM, Pairwise(weight=1))),
    "the teacher sees the student's images": Part(images=Images(larger=False)),
    LIVE_TEACHER: Part(images=LIVE),
    "mirror images averaged": Part(images=Images(averaging=Averaging(mirrored=True))),
    "three teachers averaged": Part(images=Images(averaging=Averaging(3))),
    "three teachers and mirror images averaged": Part(
        images=Images(averaging=Averaging(3, mirrored=True))
    ),
    f"{LIVE_TEACHER}, pair-wise of decoders besides": Part(
        by_name(TERM, PairwiseDecoder(weight=10)), LIVE
    ),
    f"{LIVE_TEACHER}, channel-wise of features besides": Part(
        by_name(TERM, ChannelwiseFeatures(weight=50)), LIVE
    ),
    f"{LIVE_TEACHER}, attention-guided besides": Part(by_name(TERM, AttentionGuided()), LIVE),
    "labels alone, W4A4": Part(terms=None, bits=4),
    "distilled, W4A4": Part(bits=4),
    "distilled, W4A4, from a start on labels alone": Part(bits=4, distilled_start=False),
    f"{LIVE_TEACHER}, W4A4": Part(images=LIVE, bits=4),
    f"{LIVE_TEACHER}, W4A4, half of it co-study": Part(images=LIVE, bits=4, co_study=0.5),
}


def main() -> None:
    arguments = parse()
    store = ArtifactStore(arguments.artifacts)
    (student,) = parse_compared_students(arguments.student)
    uses = list(dict.fromkeys(PARTS[name].images for name in arguments.parts))
    means = list(dict.fromkeys(images.averaging for images in uses))
    with TemporaryDirectory() as name:
        folder = Path(name)
        labelled, unlabelled = write_data(arguments.data, folder / "few")
        (folder / "unseen").mkdir()
        unseen = link_unseen(arguments.data, folder / "unseen")
        opened = open_data(str(unseen), arguments.image_size, store)
        scored = opened.pack()
        larger = open_teacher_data(
            opened, str(unseen), arguments.image_size, arguments.teacher_size
        )
        assert larger, "the teacher sees larger images"
        teachers = train_teachers(means, labelled, arguments, store)
        data = larger.pack()
        of_teachers = {averaging: score(file, data).miou for averaging, file in teachers.items()}
        runs = {
            images: set_up(
                images, labelled, unlabelled, student, teachers[images.averaging], arguments, store
            )
            for images in uses
        }
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cases = list(product(seeds, arguments.parts))
    configs = [configure_part(student, PARTS[name], seed, arguments.epochs) for seed, name in cases]
    used = [runs[PARTS[name].images] for _, name in cases]
    work = partial(train_and_score, scored=scored.path)
    found = dict(zip(cases, train_each(work, configs, used, arguments.workers), strict=True))
    mious = {part: {seed: found[seed, part] for seed in seeds} for part in arguments.parts}
    num_labelled = len(open_pack(runs[PARTS[ALL].images].data).train)
    num_steps = arguments.epochs * (num_labelled // BATCH_SIZE)
    about = (
        f"Measured on: {describe_machine(torch.device('cpu'))}, one thread for each of "
        f"{arguments.workers} trainings at once. {arguments.student}, {num_labelled} labelled "
        f"images, longest side {arguments.image_size} pixels, {arguments.teacher_size} for the "
        f"teacher, which has {100 * of_teachers[PLAIN]:.1f} mIoU{averages(of_teachers)}; "
        f"{num_steps} steps of {BATCH_SIZE} labelled images and as many unlabelled ones, unless a "
        f"row says otherwise, peak learning rate {RATE.learning_rate:g}, class weights sqrt, "
        f"flips, scales and colour; scored on {len(scored.val)} images.\n\n"
    )
    arguments.out.write_text(about + table(mious))
    print(arguments.out.read_text())


def averages(of_teachers: Mapping[Averaging, float]) -> str:
    """The mIoU of the teachers that are means, in words."""
    told = []
    for averaging, miou in of_teachers.items():
        if averaging != PLAIN:
            parts = [f"{averaging.num_seeds} networks"] if averaging.num_seeds > 1 else []
            parts += ["mirror images"] if averaging.mirrored else []
            told.append(f", {100 * miou:.1f} averaged over {' and '.join(parts)}")
    return "".join(told)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="root in VOC layout")
    parser.add_argument("--teacher", type=Path, required=True, help="a TrialConfig, as JSON")
    parser.add_argument("--backbone-weights", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True, help="gets the table, as Markdown")
    parser.add_argument("--artifacts", type=Path, default=Path("studies/artifacts"))
    parser.add_argument("--student", default="unet width=8 depth=3")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--teacher-size", type=int, default=240)
    parser.add_argument("--epochs", type=int, default=180, help="passes over labelled images")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="trainings at once")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    arguments = parser.parse_args()
    if not {TWIN, ALL} <= set(arguments.parts):
        parser.error(f"--parts must have {TWIN!r} and {ALL!r}, which others are compared with")
    return arguments


def write_data(data: Path, folder: Path) -> tuple[Path, Path]:
    """Writes the data with few labels as links, and the folder of the images without labels."""
    labelled, unlabelled = folder / "labelled", folder / "unlabelled"
    lists = labelled / LISTS
    lists.mkdir(parents=True)
    unlabelled.mkdir()
    for path in data.iterdir():
        if path.name != "ImageSets":
            (labelled / path.name).symlink_to(path.resolve())
    names = (data / LISTS / "train.txt").read_text().split()
    without = set(names) - set(names[::4])
    (lists / "train.txt").write_text("\n".join(names[::4]) + "\n")
    val = (data / LISTS / "val.txt").read_text().split()[::TRAINING_SHARE_OF_VAL]
    (lists / "val.txt").write_text("\n".join(val) + "\n")
    for image in (data / "JPEGImages").iterdir():
        if image.stem in without:
            (unlabelled / image.name).symlink_to(image.resolve())
    return labelled, unlabelled


def train_teachers(
    means: Sequence[Averaging],
    labelled: Path,
    arguments: argparse.Namespace,
    store: ArtifactStore,
) -> dict[Averaging, Path]:
    """The model files of the teacher and of its means, whose networks are trained once."""
    own = read_config(arguments.teacher)
    data = open_data(str(labelled), arguments.teacher_size, store).pack()
    run = ExecutionConfig(data=data.path, artifacts=store.root)
    set_up_weights(run, [own.student], WeightSources(backbones=arguments.backbone_weights), print)
    num_seeds = max(averaging.num_seeds for averaging in means)
    networks = [own.replace(seed=own.seed + index) for index in range(num_seeds)]
    print(f"training {num_seeds} teachers", flush=True)
    train_each(train, networks, [run] * num_seeds, arguments.workers)  # side by side
    return {
        averaging: prepare_teacher(run, own.student, own, averaging).file for averaging in means
    }


def set_up(
    images: Images,
    labelled: Path,
    unlabelled: Path,
    student: StudentConfig,
    teacher: Path,
    arguments: argparse.Namespace,
    store: ArtifactStore,
) -> ExecutionConfig:
    """A run with images and a teacher."""
    config = configure_part(student, PARTS[ALL], 0, arguments.epochs)
    size = arguments.teacher_size if images.larger else None
    opened = open_data(str(labelled), arguments.image_size, store)
    of_teacher = open_teacher_data(opened, str(labelled), arguments.image_size, size)
    folder = unlabelled if images.unlabelled else None
    without = open_unlabelled_images(folder, arguments.image_size, opened, [config], size)
    run = ExecutionConfig(data=opened.pack().path, artifacts=store.root)
    run = with_images(
        run, of_teacher.pack() if of_teacher else None, without.pack() if without else None
    )
    run, _ = set_up_teacher(run, str(teacher), config, print)
    mode: OutputMode = "live" if images.live else "maps"
    run, _ = set_up_teacher_outputs(run, mode, config.augmentation, print)
    return run


def configure_part(
    student: StudentConfig,
    part: Part,
    seed: int,
    num_epochs: int,
    augmentation: AugmentationName = "scale",
) -> TrialConfig:
    """A training of so many epochs, those of the start of a quantized student among them."""
    recipe = part.recipe(num_epochs)
    quantized = recipe.quantized
    start_epochs = (quantized.start_epochs or 0) if quantized else 0
    return configure(student, recipe, seed, num_epochs - start_epochs, augmentation)


def train_and_score(config: TrialConfig, run: ExecutionConfig, scored: Path) -> float:
    """The mIoU of a training, which is made once, on all images that no training sees."""
    name = f"{config.recipe.name}, seed {config.seed}"
    artifact = train_or_find(config, run, description=name)
    miou = score(artifact.path / MODEL_FILE, open_pack(scored)).miou
    print(f"{name}: {miou:.4f} after {artifact.seconds:.0f} s", flush=True)
    return miou


def table(mious: Mapping[str, Mapping[int, float]]) -> str:
    """Differences to labels alone, and of each change to the whole of distillation."""
    heading = ["student", "mIoU by seed", "mean", f"difference to {TWIN}, 95 % interval"]
    rows: list[list[object]] = []
    for name, by_seed in mious.items():
        to_whole = cells(by_seed, mious[ALL])[-1] if name != TWIN else ""
        rows.append([name, *cells(by_seed, mious[TWIN]), to_whole])
    return markdown([*heading, f"difference to {ALL}"], rows)


if __name__ == "__main__":
    main()
