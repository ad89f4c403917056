"""Whatever a command is given: exit status 2, one clear line, no traceback, nothing half-done."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from search import check, export, predict, run
from trainables import cache, train
from trainables.config import TrialConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.packed import open_pack, pack_dataset
from trainables.data.registry import open_source
from trainables.recipes.configs import Supervised

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": run.main,
    "train": train.main,
    "export": export.main,
    "predict": predict.main,
    "check": check.main,
    "cache": cache.main,
}
LISTS = "data/ImageSets/Segmentation"


class Case(NamedTuple):
    """A command line in which {} is the test's folder, what is wrong there, and what is said."""

    argv: str
    damage: Callable[[Path], object]
    message: str


def nothing(world: Path) -> None:
    pass


def write(name: str, content: bytes | str) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda world: (world / name).write_bytes(data)


def drop(name: str) -> Callable[[Path], object]:
    return lambda world: (world / name).unlink()


def cut(name: str, length: int) -> Callable[[Path], object]:
    return lambda world: (world / name).write_bytes((world / name).read_bytes()[:length])


def flip(name: str, place: int) -> Callable[[Path], object]:
    def change(world: Path) -> None:
        content = bytearray((world / name).read_bytes())
        content[place] ^= 0xFF
        (world / name).write_bytes(bytes(content))

    return change


def loop(name: str) -> Callable[[Path], object]:
    def change(world: Path) -> None:
        path = world / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(path)

    return change


def mask(mode: str, size: tuple[int, int] = (32, 32)) -> Callable[[Path], object]:
    color = (9, 0, 0) if mode == "RGB" else 0
    path = "data/SegmentationClass/train3.png"
    return lambda world: Image.new(mode, size, color).save(world / path)


def image(size: tuple[int, int]) -> Callable[[Path], object]:
    return lambda world: Image.new("RGB", size).save(world / "data/JPEGImages/train3.png")


def bomb(world: Path) -> None:
    """A PNG that says it has 40,000 x 40,000 pixels."""
    path = world / "data/JPEGImages/train3.png"
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 40000, 40000)
    path.write_bytes(bytes(content))


def all_masks(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    def rewrite(world: Path) -> None:
        for path in (world / "data/SegmentationClass").iterdir():
            Image.fromarray(change(np.asarray(Image.open(path))).astype(np.uint8)).save(path)

    return rewrite


def palettes(world: Path) -> None:
    """Two masks whose palettes give value 1 different colours."""
    for name, color in (("train3", (200, 0, 0)), ("train4", (0, 200, 0))):
        path = world / "data/SegmentationClass" / f"{name}.png"
        mask = Image.fromarray(np.ones((32, 32), np.uint8)).convert("P")
        mask.putpalette([0, 0, 0, *color])
        mask.putdata([1] * 32 * 32)
        mask.save(path)


def float_image(world: Path) -> None:
    drop("data/JPEGImages/train3.png")(world)
    Image.new("F", (32, 32), 0.5).save(world / "data/JPEGImages/train3.tif")


def turned_image(world: Path) -> None:
    drop("data/JPEGImages/train3.png")(world)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(world / "data/JPEGImages/train3.jpg", exif=exif)


def save_as(name: str, form: str) -> Callable[[Path], object]:
    return lambda world: Image.open(world / name).convert("L").save(world / name, form)


def labels(value: int) -> Callable[[Path], object]:
    path = "data/SegmentationClass/train3.png"
    return lambda world: Image.fromarray(np.full((32, 32), value, np.uint8)).save(world / path)


def trial(**changes: object) -> Callable[[Path], object]:
    """config.json with some keys changed."""
    content = json.loads(TrialConfig(recipe=Supervised()).model_dump_json()) | changes
    return write("config.json", json.dumps(content))


def quantizer(**fields: object) -> Callable[[Path], object]:
    return trial(recipe={"name": "qat", "quantizer": {"name": "lsq", **fields}})


def study_file(**changes: object) -> Callable[[Path], object]:
    def change(world: Path) -> None:
        path = world / "studies/blocks/study.json"
        content = json.loads(path.read_text())
        content["config"] |= changes
        path.write_text(json.dumps(content))

    return change


def no_column(name: str) -> Callable[[Path], object]:
    def change(world: Path) -> None:
        path = world / "studies/blocks/front.parquet"
        pq.write_table(pq.read_table(path).drop_columns([name]), path)

    return change


def in_pack(name: str, content: bytes) -> Callable[[Path], object]:
    """A file of the packed data, whose record agrees."""

    def change(world: Path) -> None:
        (folder,) = (world / "studies/artifacts").glob("data-*")
        (folder / name).write_bytes(content)

    return change


DATA = "run --space qat --data {}/data --storage {}/new"
TRAIN = "train {}/config.json --data {}/data --image-size 32 --out {}/new"
EXPORT = "export {}/studies/blocks --out {}/new"
PREDICT = "predict {}/model.safetensors {}/photos --out {}/new"
CHECK = "check {}/studies/blocks"
MODEL = "studies/blocks/models/0003/model.safetensors"
CASES: dict[str, Case] = {
    # arguments
    "no space of this name": Case("run --space ../qat --storage {}/new", nothing, "did you mean|"),
    "name leaves the storage": Case(f"{DATA} --name ../x", nothing, "--name: .*but got '../x'"),
    "name with a slash": Case(f"{DATA} --name a/b", nothing, "--name: .*but got 'a/b'"),
    "name is hidden": Case(f"{DATA} --name .x", nothing, "--name: .*but got '.x'"),
    "name is empty": Case(f"{DATA} --name=", nothing, "--name: .*but got ''"),
    "resume leaves the storage": Case(
        "run --space ptq --storage {}/studies --resume ../studies/blocks",
        nothing,
        "--name: .*but got '../studies/blocks'|must keep its name",
    ),
    "warm start leaves the storage": Case(
        f"{DATA} --warm-start ../studies/blocks", nothing, "--warm-start"
    ),
    "image size is no number": Case(f"{DATA} --image-size large", nothing, "invalid int value"),
    "storage of another kind": Case(
        "run --space qat --storage hdfs://bucket/x",
        nothing,
        "--storage: must be a path, or one of s3://BUCKET/PREFIX.*but got 'hdfs://bucket/x'",
    ),
    "storage without a bucket": Case(
        "run --space qat --storage s3://", nothing, "--storage: must be a path, or one of s3://"
    ),
    "cache that cannot be": Case(
        f"{DATA} --cache {{}}/file/cache",
        lambda folder: (folder / "file").write_text(""),
        "--cache must be a writable folder, but .*/file is not",
    ),
    "storage is empty": Case("run --space qat --storage=", nothing, "--storage: must be a path"),
    "data of another kind": Case(
        "run --space qat --storage {}/new --data https://host/x", nothing, "--data: must be a path"
    ),
    "output of another kind": Case(
        EXPORT.replace("{}/new", "gs://b/x"), nothing, "--out: must be a path"
    ),
    "store is empty": Case(
        f"{DATA} --tracking-uri=", nothing, "--tracking-uri: it must name a store that .*but got ''"
    ),
    "store in no folder": Case(
        f"{DATA} --tracking-uri sqlite:///{{}}/gone/x.db", nothing, "must exist, but there is no"
    ),
    "store without its driver": Case(
        f"{DATA} --tracking-uri postgresql://127.0.0.1/x", nothing, "needs: install it"
    ),
    "infinite seconds": Case(f"{DATA} --time-budget inf", nothing, "a time must be a positive"),
    "no trial timeout": Case(f"{DATA} --trial-timeout 0s", nothing, "a time must be a positive"),
    "checkpoints never": Case(f"{DATA} --checkpoint-every x", nothing, "a time must be a positive"),
    "seed is a fraction": Case(f"{DATA} --seed 0.5", nothing, "invalid int value: '0.5'"),
    "NaN GPUs": Case(f"{DATA} --gpus-per-trial nan", nothing, "--gpus-per-trial"),
    "grace is not a number": Case(f"{DATA} --grace-epochs two", nothing, "invalid int value"),
    "unknown command of the cache": Case("cache burn", nothing, "invalid choice: 'burn'"),
    # data folders
    "data is a file": Case(
        DATA.replace("{}/data", "{}/config.json"), nothing, "--data must be a folder that exists"
    ),
    "data is empty": Case(
        DATA.replace("{}/data", "{}/photos"), nothing, "must be a folder that holds ImageSets"
    ),
    "data is a link to itself": Case(DATA, loop("data"), "--data must be a folder that exists"),
    "list is a link to itself": Case(DATA, loop(f"{LISTS}/train.txt"), "no .*train.txt"),
    "list is binary": Case(DATA, write(f"{LISTS}/train.txt", b"\xff\xfe\x00"), "text in UTF-8"),
    "list is empty": Case(DATA, write(f"{LISTS}/val.txt", ""), "at least one image"),
    "list leaves the folder": Case(
        DATA, write(f"{LISTS}/val.txt", "../../secret"), "must lie in its folder.*'../../secret'"
    ),
    "list names an absolute path": Case(
        DATA, write(f"{LISTS}/val.txt", "/etc/passwd"), "must lie in its folder.*'/etc/passwd'"
    ),
    "list names what is not there": Case(DATA, write(f"{LISTS}/val.txt", "gone"), "no .*gone"),
    "image in both splits": Case(DATA, write(f"{LISTS}/val.txt", "train1"), "not share"),
    # images and masks
    "image of no bytes": Case(DATA, write("data/JPEGImages/train3.png", b""), "train3.png is not"),
    "image cut off": Case(DATA, cut("data/JPEGImages/train3.png", 900), "train3.png is not"),
    "image of too many pixels": Case(DATA, bomb, "train3.png is not"),
    "image is a folder": Case(
        DATA,
        lambda world: (
            drop("data/JPEGImages/train3.png")(world),
            (world / "data/JPEGImages/train3.png").mkdir(),
        ),
        "listed image must exist",
    ),
    "image is a link to itself": Case(DATA, loop("data/JPEGImages/train3.png"), "must exist"),
    "image is text": Case(DATA, write("data/JPEGImages/train3.png", "hello"), "readable image"),
    "image of another size": Case(DATA, image((20, 32)), "one size, but .*train3"),
    "mask of 16 bits": Case(DATA, mask("I;16"), "one class index per pixel"),
    "mask of 32 bits": Case(DATA, mask("I"), "one class index per pixel"),
    "mask in colours": Case(DATA, mask("RGB"), "one class index per pixel"),
    "mask with transparency": Case(DATA, mask("LA"), "one class index per pixel"),
    "mask of another size": Case(DATA, mask("L", (1, 1)), "one size, but .*train3"),
    "mask is gone": Case(DATA, drop("data/SegmentationClass/train3.png"), "must exist"),
    "image of floats": Case(DATA, float_image, r"16-bit grey, but .*train3\.tif has mode F"),
    "image turned to no size of its mask": Case(
        DATA, turned_image, r"is \(20, 30\), \(30, 20\) as its EXIF orientation turns it, and"
    ),
    "two images of one name": Case(
        DATA, write("data/JPEGImages/train3.JPG", b""), r"train3\.JPG and .*train3\.png"
    ),
    "mask stored as JPEG": Case(
        DATA,
        save_as("data/SegmentationClass/train3.png", "JPEG"),
        r"train3\.png is stored as JPEG, which changes labels",
    ),
    "binary masks": Case(
        DATA,
        all_masks(lambda mask: np.where(mask > 0, 255, 0)),
        "hold 0 and 255 alone, and 255 marks .* write 1 for the foreground, as .*convert",
    ),
    "binary masks with class names": Case(
        DATA,
        lambda world: (
            all_masks(lambda mask: np.where(mask > 0, 255, 0))(world),
            write("data/classes.txt", "background\ncrack\n")(world),
        ),
        "hold 0 and 255 alone",
    ),
    "masks of one class": Case(
        DATA, all_masks(np.zeros_like), "hold 0 alone: write 0 for the back"
    ),
    "palettes that contradict each other": Case(DATA, palettes, "must give a value one colour"),
    "list of a single class": Case(
        DATA,
        write(f"{LISTS}/val.txt", "val0 -1\nval1 1\n"),
        "'val0 -1', as VOC's lists of a single",
    ),
    "pairs that leave the folder": Case(
        DATA,
        write(f"{LISTS}/val.txt", "/JPEGImages/../../a.jpg /SegmentationClass/val0.png"),
        "must lie in its folder",
    ),
    "class without neighbours": Case(DATA, labels(200), "without gaps.*holds 200"),
    # class files
    "class file is binary": Case(DATA, write("data/classes.txt", b"\xff"), "text in UTF-8"),
    "class twice": Case(DATA, write("data/classes.txt", "a\na\nb\nc\nd"), "'a' twice"),
    "too few classes": Case(DATA, write("data/classes.txt", "a\nb"), "below the 2 classes"),
    "too many classes": Case(
        DATA, write("data/classes.txt", "\n".join(map(str, range(300)))), "2 to 255 classes"
    ),
    "class file is a comment": Case(
        DATA, write("data/classes.txt", "# classes\na\nb\nc\nd\ne"), "one name a line.*'# classes'"
    ),
    "class numbers begin at one": Case(
        DATA, write("data/classes.txt", "1 a\n2 b\n3 c\n4 d\n5 e"), "must be 0, 1, 2"
    ),
    "class list and label map differ": Case(
        DATA,
        lambda world: (
            write("data/classes.txt", "a\nb\nc\nd\ne")(world),
            write("data/labelmap.txt", "a:0,0,0::\nb:1,0,0::")(world),
        ),
        "same classes in the same order",
    ),
    "colour of no class": Case(
        DATA,
        lambda world: (
            write("data/labelmap.txt", "a:0,0,0::\nb:1,0,0::")(world),
            mask("RGB")(world),
            Image.new("RGB", (32, 32), (9, 9, 9)).save(world / "data/SegmentationClass/train3.png"),
        ),
        r"train3\.png holds \(9, 9, 9\)",
    ),
    # TrialConfig
    "config is gone": Case(TRAIN, drop("config.json"), "the configuration must exist"),
    "config is a folder": Case(TRAIN.replace("config.json", "data"), nothing, "must exist"),
    "config is empty": Case(TRAIN, write("config.json", ""), "not a valid TrialConfig"),
    "config is binary": Case(TRAIN, write("config.json", b"\xff\x00"), "not a valid TrialConfig"),
    "config is a list": Case(TRAIN, write("config.json", "[]"), "not a valid TrialConfig"),
    "config is deep": Case(TRAIN, write("config.json", "[" * 10**5), "not a valid TrialConfig"),
    "unknown key": Case(TRAIN, trial(colour="red"), "colour: Extra inputs"),
    "missing key": Case(TRAIN, write("config.json", "{}"), "recipe: Field required"),
    "unknown recipe": Case(TRAIN, trial(recipe={"name": "magic"}), "recipe: .*magic"),
    "infinite rate": Case(
        TRAIN,
        trial(recipe={"name": "supervised", "optimizer": {"learning_rate": 1e999}}),
        "learning_rate",
    ),
    "bits out of range": Case(TRAIN, quantizer(weight_bits=9), "2 to 8"),
    "layers that are not there": Case(
        TRAIN,
        quantizer(layers={"x": {"weight_bits": 2, "activation_bits": 2}}),
        "must name layers of the model",
    ),
    "negative checkpoints": Case(
        f"{TRAIN} --checkpoint-every -1", nothing, "a time must be a positive"
    ),
    "no threads": Case(f"{TRAIN} --threads 0", nothing, "--threads: .*greater than 0, but got 0"),
    "training on no pixels": Case(
        TRAIN.replace("32", "0"), nothing, "--image-size: .*equal to 16, but got 0"
    ),
    "training without a teacher": Case(
        f"{TRAIN} --teacher-seeds 0", nothing, "--teacher-seeds: .*greater than 0, but got 0"
    ),
    "nothing to compress": Case(
        f"{TRAIN} --compress fcn_resnet50",
        nothing,
        "traced, but .*config.json has unet",
    ),
    "a builder of nothing": Case(f"{TRAIN} --builder a:b", nothing, "--builder needs --compress"),
    # studies
    "no study": Case(EXPORT, lambda world: shutil.rmtree(world / "studies/blocks"), "must name"),
    "study.json of no bytes": Case(EXPORT, write("studies/blocks/study.json", b""), "is damaged"),
    "study.json of another kind": Case(
        CHECK, write("studies/blocks/study.json", "[1]"), "is damaged"
    ),
    "study with an unknown field": Case(CHECK, study_file(colour="red"), "colour: Extra inputs"),
    "study of another name": Case(
        "run --space ptq --storage {}/studies --resume blocks",
        study_file(name="other"),
        "must keep its name, but blocks holds other",
    ),
    "study of an odd sampler": Case(CHECK, study_file(sampler="dice"), "sampler: "),
    "study without a journal": Case(CHECK, nothing, "must hold study blocks"),
    "journal damaged in the middle": Case(
        "run --space ptq --storage {}/studies --resume blocks",
        write("studies/blocks/journal.log", '{"op_code": 0}\nnonsense\n{"op_code": 1}\n'),
        "line 2 of",
    ),
    "front is no table": Case(EXPORT, write("studies/blocks/front.parquet", b"PAR1"), "parquet"),
    "front without a column": Case(EXPORT, no_column("miou"), "miou"),
    "no such trial": Case(f"{EXPORT} --trial 9999", nothing, "9999"),
    "trial leaves the study": Case(f"{EXPORT} --trial ../x", nothing, "../x"),
    # models
    "model is gone": Case(f"{EXPORT} --trial 0003", drop(MODEL), "model.safetensors"),
    "model of no bytes": Case(f"{EXPORT} --trial 0003", write(MODEL, b""), "intact .safetensors"),
    "model cut off": Case(f"{EXPORT} --trial 0003", cut(MODEL, 500), "intact .safetensors"),
    "model's header is long": Case(
        f"{EXPORT} --trial 0003", write(MODEL, b"\xff" * 64), "intact .safetensors"
    ),
    "teacher is a folder": Case(f"{DATA} --teacher {{}}/data", nothing, "--teacher must be"),
    "teacher of pickled objects": Case(
        f"{DATA} --teacher {{}}/teacher.pth",
        lambda world: torch.save(torch.nn.Linear(1, 1), world / "teacher.pth"),
        r"file of tensors alone, but .*torch\.save\(model\.state_dict\(\), FILE\)",
    ),
    "teacher of another architecture": Case(
        f"{DATA} --teacher {{}}/teacher.pth",
        lambda world: torch.save({"fc.weight": torch.zeros(2, 2)}, world / "teacher.pth"),
        "must be that of one of deeplabv3_resnet101, ",
    ),
    "teacher of other classes": Case(
        "run --space qkd --storage {}/new --teacher {}/model.safetensors", nothing, "7 classes"
    ),
    # prediction
    "no model": Case(PREDICT.replace("model.safe", "gone.safe"), nothing, "the model must be"),
    "model of another kind": Case(
        PREDICT.replace("model.safetensors", "config.json"), nothing, "must end in"
    ),
    "model without a card": Case(PREDICT, drop("model.safetensors.json"), "its card beside it"),
    "model that is not the card's": Case(PREDICT, flip("model.safetensors", -1), "has changed"),
    "card of no bytes": Case(PREDICT, write("model.safetensors.json", b""), "must be a model card"),
    "no images": Case(PREDICT, nothing, "must hold images"),
    "photos are gone": Case(PREDICT.replace("photos", "gone"), nothing, "file or a folder"),
    "masks over the photos": Case(
        PREDICT.replace("{}/new", "{}/photos"),
        write("photos/a.png", b"x"),
        "another folder than the images",
    ),
    # artifacts
    "no artifacts": Case("cache list --artifacts {}/gone", nothing, "folder of artifacts"),
    "artifact of another place": Case(
        "cache delete ../data --artifacts {}/studies/artifacts", nothing, "must lie in"
    ),
    "nothing to delete": Case("cache delete --artifacts {}/studies/artifacts", nothing, "names"),
}


@pytest.fixture(scope="session")
def intact(tmp_path_factory: pytest.TempPathFactory, study: Path, blocks_folder: Path) -> Path:
    """Data, a study, a configuration, and an exported model with its card."""
    world = tmp_path_factory.mktemp("intact")
    shutil.copytree(blocks_folder, world / "data")
    shutil.copytree(study.parent, world / "studies")
    (world / "photos").mkdir()
    trial()(world)
    assert export.main([str(study), "--trial", "0003", "--out", str(world)]) == 0
    for path in world.glob("blocks-0003*"):
        path.rename(world / path.name.replace("blocks-0003", "model"))
    return world


@pytest.fixture
def world(intact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(intact, tmp_path / "ein Ordner mit Ümläuten 数据", symlinks=True)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_answered_in_one_line(
    name: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    case.damage(world)
    before = content(world / "studies")
    command, *argv = [word.replace("{}", str(world)) for word in case.argv.split(" ")]
    capsys.readouterr()
    try:
        status = COMMANDS[command](argv)
    except SystemExit as leave:  # argparse's way
        status = int(leave.code or 0)
    printed = capsys.readouterr()
    assert status == 2, printed
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(case.message, line), line
    made = [path for path in (world / "new").rglob("*") if "artifacts" not in path.parts]
    assert not [path for path in made if path.is_file()]
    after = content(world / "studies")
    assert {k: after[k] for k in before} == before


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60
    assert {case.argv.split()[0] for case in CASES.values()} == set(COMMANDS)


def test_what_a_user_would_expect_to_work_does(voc_folder: Path, tmp_path: Path) -> None:
    """Grey, CMYK, turned, transparent, tiny and very long images; odd names, endings and lists."""
    images, masks = voc_folder / "JPEGImages", voc_folder / "SegmentationClass"
    odd: dict[str, Image.Image] = {
        "grau ü": Image.new("L", (31, 17)),
        "cmyk": Image.new("CMYK", (20, 21)),
        "palette": Image.new("P", (9, 40)),
        "alpha": Image.new("RGBA", (33, 33)),
        "one": Image.new("RGB", (1, 1)),
        "long": Image.new("RGB", (20000, 30)),
    }
    for name, each in odd.items():
        ending = {"CMYK": "jpg", "L": "jpeg"}.get(each.mode, "png")
        each.save(images / f"{name}.{ending}")
        Image.new("L", each.size, 1).save(masks / f"{name}.png")
    turned = Image.new("RGB", (40, 20))
    exif = turned.getexif()
    exif[0x0112] = 6  # held on its side: people see 20 x 40, and draw masks on that
    turned.save(images / "turned.jpg", exif=exif)
    Image.new("L", (20, 40), 2).save(masks / "turned.png")
    listing = voc_folder / "ImageSets/Segmentation/train.txt"
    names = [*listing.read_text().split(), *odd, "turned"]
    listing.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(names).encode() + b"\r\n\r\n")
    folder = voc_folder.rename(tmp_path / "meine Daten 数据")
    source = open_source(str(folder), 48, tmp_path / "artifacts")
    packed = open_pack(pack_dataset(source, ArtifactStore(tmp_path / "artifacts")).path)
    assert len(packed.train) == len(names)
    rows = packed.train.take([names.index("turned"), names.index("long")])
    assert (rows["mask"][0] != 255).nonzero().max(0).values.tolist() == [39, 19]
    assert (rows["mask"][1] != 255).sum() == 48  # 48 x 1 pixels are left of 20000 x 30
