"""Bad input: one line on stderr naming rule and value, exit status 2, nothing written."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import foreign_networks
import pytest
import torch
from foreign_networks import Foreign

from search.core.config import StudyConfig
from search.run import main
from search.storage.study_file import (
    StudyFile,
    lock_study,
    read_study_file,
    wait_for_driver,
    write_study_file,
)
from spaces import space_names
from trainables.core.flags import flag_name, flags_of

FIRST_LINES = {
    "importing PyTorch and Ray",
    "checking the study and its data",
    "downloading PASCAL VOC 2012 (2 GB)",
    "measuring the latencies of the space",
}
"""What a study says before it is refused."""
PROGRESS = "measuring latency: part "
"""How lines begin that are said every 30 s meanwhile."""
NETWORK = ("tracing ", "students: ")
"""How the lines begin that name a network to compress."""


def answer(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with_exit = None
    try:
        status = main(list(argv))
    except SystemExit as leave:  # argparse's way
        with_exit = leave.code
        status = int(leave.code or 0)
    assert status == 2, with_exit
    printed = capsys.readouterr()
    said = {line for line in printed.out.splitlines() if not line.startswith((PROGRESS, *NETWORK))}
    assert said <= FIRST_LINES
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    return lines[0]


CASES: dict[str, tuple[list[str], str]] = {
    "no space": ([], "--space must be given: one of .*qkd"),
    "unknown space": (["--space", "qdk"], "did you mean .*qkd"),
    "no samples": (["--samples", "0"], "--samples: .*greater than or equal to 1, but got 0"),
    "no epochs": (["--epochs", "-3"], "--epochs: .*greater than 0, but got -3"),
    "tiny images": (["--image-size", "4"], "--image-size: .*16, but got 4"),
    "no number": (["--samples", "many"], "argument --samples: invalid int value: 'many'"),
    "odd size": (["--max-size", "3XB"], "a size must be a positive number .*'3XB'"),
    "negative time": (["--time-budget=-5m"], "a time must be a positive number .*'-5m'"),
    "negative seed": (["--seed", "-1"], "--seed: .*greater than or equal to 0, but got -1"),
    "bad name": (["--name", "../up"], "--name: .*but got '../up'"),
    "unknown sampler": (["--sampler", "best"], "argument --sampler: invalid choice"),
    "unknown flag": (["--sapmles", "3"], "unrecognized arguments: --sapmles 3"),
    "no CPU": (["--cpus-per-trial", "0"], "--cpus-per-trial: .*greater than 0, but got 0"),
    "too many GPUs": (["--gpus-per-trial", "99"], "--gpus-per-trial must not exceed the .*got 99"),
    "too many CPUs": (["--cpus-per-trial", "9999"], "--cpus-per-trial must not exceed .*got 9999"),
    "no such data": (
        ["--data", "/no/where"],
        "--data must be a folder that exists, but got /no/where",
    ),
    "calibration without quantization": (
        ["--space", "supervised", "--calibration", "adaround"],
        "--calibration must be for students that are quantized, but got adaround, and no student "
        "of --space supervised is",
    ),
    "quantizer without quantization": (
        ["--space", "kd", "--quantizer", "pact"],
        "--quantizer must be for students that are quantized, but got pact, and no student",
    ),
    "rounding that a quantizer undoes": (
        ["--quantizer", "dorefa", "--calibration", "adaround"],
        "--calibration adaround must be for .* on the grid, but got --quantizer dorefa",
    ),
    "unknown quantizer": (["--quantizer", "lsp"], "--quantizer: .*'lsq', 'pact', 'dorefa'"),
    "no such unlabelled images": (
        ["--unlabelled", "/no/images"],
        "the folder of --unlabelled must exist, but got /no/images",
    ),
    "unlabelled images without a teacher": (
        ["--space", "qat", "--unlabelled", "/tmp"],
        "--unlabelled must be for students that learn from a teacher, but got /tmp, and no student",
    ),
    "no such teacher": (
        ["--teacher", "/no/file"],
        "--teacher must be auto, a model file, a state dict",
    ),
    "odd store": (["--tracking-uri", "ftp://x"], "--tracking-uri must name an MLflow store"),
    "nothing fits": (
        ["--max-size", "1KB"],
        r"students of space qkd, but its cheapest has a size of [\d,]+ bytes, the limit is 1,000 b",
    ),
    "nothing needs so little memory": (
        ["--max-ram", "1KB"],
        r"its cheapest has activations of [\d,]+ bytes, the limit is 1,000 bytes",
    ),
    "nothing is so cheap": (["--max-macs", "1K"], r"has a work of [\d,]+ multiply-adds, the limit"),
    "nothing is so fast": (
        ["--space", "supervised", "--max-latency", "0.001ms"],
        r"has a latency of [\d.]+ ms, the limit is 0.001 ms",
    ),
    "half a byte": (["--max-size", "0.5"], "a size must be a positive number .*'0.5'"),
    "latency of nothing": (["--max-latency", "20"], "--max-latency: must have a unit, .*got 20"),
    "odd count": (["--max-macs", "many"], "a count must be a positive number .*'many'"),
    "odd latency": (["--max-latency", "5 apples"], "a time must be a positive number .*apples"),
    "odd objective": (["--objectives", "miou,beauty"], "--objectives: .*beauty"),
    "one objective": (["--objectives", "miou"], "--objectives: .*miou and at least one other"),
    "objective twice": (["--objectives", "miou,size,size"], "--objectives: .*each once"),
    "flat without ehvi": (
        ["--sampler", "tpe", "--stop-when-flat", "0.01"],
        "--stop-when-flat: .*needs --sampler ehvi, not tpe",
    ),
    "no share": (["--stop-when-flat", "3"], "--stop-when-flat: .*less than 1, but got 3"),
    "no grace": (["--grace-epochs", "0"], "--grace-epochs: .*greater than 0"),
    "no reduction": (["--reduction", "1"], "--reduction: .*greater than 1, but got 1"),
    "no such student": (["--students", "unet,vnet"], "--students: each must be one of .*'vnet'"),
    "student twice": (["--students", "unet,unet"], "--students: .*named once, .* unet is named"),
    "no torchvision weights": (
        ["--students", "unet_mobilenet_v1:imagenet"],
        "--students: only :imagenet may follow .*but got 'unet_mobilenet_v1:imagenet'",
    ),
    "no network": (["--compress", "/no/n.pth"], "--compress must be a model file, .* /no/n.pth"),
    "no weights for a builder": (
        ["--compress", "/no/n.pth", "--builder", "a:b"],
        "--compress must be a file with weights, but there is no /no/n.pth",
    ),
    "builder of nothing": (["--builder", "a:b"], "--builder needs --compress"),
    "head of nothing": (["--new-head"], "--new-head needs --compress"),
    "shares of nothing": (["--prune", "1,0.5"], "--prune needs --compress"),
    "no share of channels": (
        ["--prune", "half"],
        "--prune: must be numbers with commas .* but got 'half'",
    ),
    "too large a share": (
        ["--compress", "a", "--prune", "1,1.5"],
        "--prune: .*less than or equal to 1, but got 1.5",
    ),
    "nothing is kept": (
        ["--compress", "a", "--prune", "0"],
        "--prune: .*greater than 0, but got 0",
    ),
    "share twice": (
        ["--compress", "a", "--prune", "0.5,1,0.50"],
        "--prune: .*named once, but 0.5 is named again",
    ),
    "float of nothing": (["--allow-float"], "--allow-float needs --compress"),
    "teacher's builder of nothing": (
        ["--teacher-builder", "a:b"],
        "--teacher-builder needs --teacher FILE",
    ),
    "builder of a student": (
        ["--teacher", "unet", "--teacher-builder", "a:b"],
        "--teacher-builder needs --teacher FILE",
    ),
    "weights of a student that has none": (
        ["--teacher", "unet:imagenet"],
        "argument --teacher: only :imagenet may follow a name, for the backbones",
    ),
    "teacher of larger shapes": (["--teacher-size", "96"], "--teacher-size must be for photograph"),
    "nothing is of use": (["--least-miou", "1"], "--least-miou: .*less than 1, but got 1"),
    "seeds of a given teacher": (
        ["--teacher", "lraspp_mobilenet_v3_large", "--teacher-seeds", "2"],
        "--teacher-seeds must be 1 for a teacher that is not trained on the data, but got 2",
    ),
    "no such weights": (
        ["--backbone-weights", "/no/w.pth"],
        "must be a file, but there is no /no/",
    ),
    "no earlier study": (["--warm-start", "gone"], "must name a study in .*, but there is no gone"),
    "other classes": (
        ["--teacher", "lraspp_mobilenet_v3_large"],
        "must have the 7 classes of the data, but lraspp_mobilenet_v3_large has 21",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_arguments(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, message = CASES[case]
    storage = tmp_path / "studies"
    space = [] if case == "no space" or "--space" in argv else ["--space", "qkd"]
    line = answer(capsys, *space, *argv, "--storage", str(storage))
    assert_matches(line, message)
    kept = {path.name for path in storage.iterdir()} if storage.exists() else set()
    assert kept <= {"artifacts"}  # a latency that was measured may be kept


def assert_matches(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        raise ValueError(line)


BROKEN_DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "image": (lambda root: (root / "JPEGImages/train3.png").write_bytes(b"x"), "train3.png is not"),
    "list": (lambda root: (root / "ImageSets/Segmentation/val.txt").unlink(), "val.txt"),
}


@pytest.mark.parametrize("case", BROKEN_DATA)
def test_bad_data(
    case: str, blocks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = BROKEN_DATA[case]
    folder, storage = tmp_path / "data", tmp_path / "studies"
    shutil.copytree(blocks_folder, folder)
    damage(folder)
    line = answer(capsys, "--space", "qat", "--data", str(folder), "--storage", str(storage))
    assert message in line
    assert not storage.exists()


TEACHER_SIZES: dict[str, tuple[list[str], str]] = {
    "smaller": (["--teacher-size", "24"], "at least the image size of 32 pixels, but got 24"),
    "live": (
        ["--teacher-size", "64", "--teacher-outputs", "live"],
        "--teacher-size needs kept outputs, but got --teacher-outputs live",
    ),
}


@pytest.mark.parametrize("case", TEACHER_SIZES)
def test_bad_teacher_sizes(
    case: str, blocks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, message = TEACHER_SIZES[case]
    data = ["--data", str(blocks_folder), "--image-size", "32"]
    line = answer(capsys, "--space", "kd", *data, *argv, "--storage", str(tmp_path / "studies"))
    assert message in line
    assert not (tmp_path / "studies").exists()


NETWORKS = {
    "nowhere:make": "--builder must be importable, but nowhere:make is not: ModuleNotFoundError",
    "foreign_networks:of_products": "--allow-float must be given for a network with operations on "
    "weights that no quantizer reaches, as grouped, conv2d of net",
    "foreign_networks:of_three_classes": "has 3: --new-head trains a new classifier for it",
}


@pytest.mark.parametrize("builder", NETWORKS)
def test_networks_that_cannot_be_compressed_as_they_are(
    builder: str, blocks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, storage = tmp_path / "net.pth", tmp_path / "studies"
    make = getattr(foreign_networks, builder.partition(":")[2], foreign_networks.foreign)
    torch.save(make().state_dict(), file)
    data = ["--data", str(blocks_folder), "--image-size", "32", "--storage", str(storage)]
    argv = ["--space", "qkd", *data, "--compress", str(file), "--builder", builder]
    assert NETWORKS[builder] in answer(capsys, *argv)
    assert not storage.exists()


@pytest.mark.parametrize(
    ("share", "reason"),
    [
        ("0.99", "no channels of net can be pruned where the share 0.99 is kept: groups of"),
        ("0.05", "must leave some of the 8 channels of layer"),
    ],
)
def test_shares_that_keep_all_channels_or_none(
    share: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, storage = tmp_path / "net.pth", tmp_path / "studies"
    torch.save(Foreign().state_dict(), file)
    network = ["--compress", str(file), "--builder", "foreign_networks:foreign"]
    argv = ["--space", "qkd", *network, "--prune", f"1,{share}", "--storage", str(storage)]
    assert reason in answer(capsys, *argv)
    assert not storage.exists()


def test_the_latency_of_a_network_that_cannot_be_exported(
    blocks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, storage = tmp_path / "net.pth", tmp_path / "studies"
    torch.save(Foreign().state_dict(), file)
    network = ["--compress", str(file), "--builder", "foreign_networks:of_absolutes"]
    data = ["--data", str(blocks_folder), "--image-size", "32"]
    argv = ["--space", "ptq", *data, *network, "--storage", str(storage)]
    assert main([*argv, "--objectives", "miou,latency", "--name", "slow"]) == 2
    printed = capsys.readouterr()
    assert "net ships as a packed file, not as ONNX" in printed.out
    (line,) = printed.err.splitlines()
    begin = "error: --objectives latency and --max-latency: a network must consist of operations"
    assert line.startswith(begin)
    assert "has abs(" in line
    assert not (storage / "slow").exists()


def test_unwritable_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("")
    line = answer(capsys, "--space", "qat", "--storage", str(file / "studies"))
    assert f"--storage must be a writable folder, but {file} is not" in line


def test_a_damaged_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(b"nothing of the kind")
    storage = tmp_path / "studies"
    line = answer(capsys, "--space", "qkd", "--teacher", str(file), "--storage", str(storage))
    assert f"{file} is damaged or of another format" in line
    assert not storage.exists()


def test_voc_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.VOCSegmentation", refuse)
    storage = tmp_path / "studies"
    line = answer(capsys, "--space", "qkd", "--data", "voc", "--storage", str(storage))
    assert "no network" in line
    assert not storage.exists()
    assert "put VOCtrainval_11-May-2012.tar into" in line


@pytest.fixture
def known_study(tmp_path: Path) -> Path:
    config = StudyConfig(
        space="qat",
        data="shapes",
        name="known",
        storage=tmp_path,
        samples=4,
        epochs=2,
        image_size=64,
        teacher="auto",
        sampler="tpe",
        scheduler="none",
        seed=0,
        cpus_per_trial=1,
        gpus_per_trial=0,
        tracking_uri="sqlite:///nowhere.db",
    )
    file = StudyFile(id="0", config=config, versions={}, data_digest="0", class_names=("a", "b"))
    write_study_file(file)
    return tmp_path


RESUMES: dict[str, tuple[list[str], str]] = {
    "taken name": (["--space", "qat", "--name", "known"], "--resume known"),
    "absent study": (["--space", "qat", "--resume", "other"], "must name an existing study"),
    "two kinds of resuming": (
        ["--resume", "known", "--or-resume"],
        "--resume and --or-resume exclude one another",
    ),
    "begun again without a name": (
        ["--space", "qat", "--or-resume"],
        "--or-resume needs --name",
    ),
    "new name": (["--resume", "known", "--name", "x"], "--name cannot change"),
    "other device": (
        ["--resume", "known", "--gpus-per-trial", "1"],
        "keep its kind of device, but known ran on cpu and --gpus-per-trial 1.0 wants cuda",
    ),
}


@pytest.mark.parametrize("case", RESUMES)
def test_bad_names(case: str, known_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, message = RESUMES[case]
    before = sorted(known_study.rglob("*"))
    line = answer(capsys, *argv, "--storage", str(known_study))
    assert_matches(line, message)
    assert sorted(known_study.rglob("*")) == before


CHANGES = {
    "--students": "unet,unet_mobilenet_v1",
    "--pretrained-normalization": "symmetric",
    "--teacher-normalization": "symmetric",
    "--calibration": "adaround",
    "--quantizer": "pact",
    "--space": "kd",
    "--image-size": "65",
    "--teacher-outputs": "live",
    "--teacher-size": "96",
    "--teacher-seeds": "2",
    "--teacher-flip": "off",
    "--least-miou": "0.4",
    "--steps": "5",
    "--epochs": "5",
    "--teacher-epochs": "5",
    "--class-weights": "enet",
    "--overlap-loss": "dice",
    "--augmentation": "scale",
    "--ema-decay": "0.5",
    "--sampler": "random",
    "--scheduler": "halving",
    "--grace-epochs": "2",
    "--reduction": "4",
    "--seed": "1",
    "--objectives": "miou,macs",
    "--warm-start": "known",
}


def test_these_fields_must_be_kept() -> None:
    flags = flags_of(StudyConfig).items()
    kept = {flag_name(StudyConfig, field) for field, flag in flags if flag.immutable}
    assert kept == {*CHANGES, "--new-head", "--prune", "--allow-float", "--co-study"}


@pytest.mark.parametrize("flag", CHANGES)
def test_a_resumed_study_keeps_what_must_not_change(
    flag: str, known_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--resume", "known", flag, CHANGES[flag], "--storage", str(known_study)]
    line = answer(capsys, *argv)
    changed = CHANGES[flag].split(",")[-1]
    assert_matches(line, f"keep its {flag}, but known has .* and got .*{changed}")


@pytest.mark.parametrize(
    ("flags", "kept", "got"),
    [
        (["--new-head"], "False", "True"),
        (["--allow-float"], "False", "True"),
        (["--prune", "1,0.5"], "none", "0.5,1"),
    ],
)
def test_a_resumed_study_of_a_network_keeps_how_it_is_compressed(
    flags: list[str], kept: str, got: str, known_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_study_file(known_study / "known").config.replace(compress="net.pth")
    (known_study / "known/study.json").unlink()
    write_study_file(
        StudyFile(id="0", config=config, versions={}, data_digest="0", class_names=("a", "b"))
    )
    line = answer(capsys, "--resume", "known", *flags, "--storage", str(known_study))
    assert_matches(line, f"keep its {flags[0]}, but known has {kept} and got {got}")


def test_a_resumed_study_does_not_begin_to_compress_a_network(
    known_study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--resume", "known", "--compress", "net.pth", "--storage", str(known_study)]
    line = answer(capsys, *argv)
    assert_matches(line, "must keep its students, but known compresses no network, and got --compr")


def test_a_damaged_study_file(known_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (known_study / "known/study.json").write_text("{")
    line = answer(capsys, "--space", "qat", "--resume", "known", "--storage", str(known_study))
    assert "study.json is damaged" in line


def test_spaces_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list-spaces"]) == 0
    printed, _, students = capsys.readouterr().out.split("\n\n", 2)
    assert [line.split()[0] for line in printed.splitlines()] == space_names()
    assert all(len(line.split()) > 4 for line in printed.splitlines())
    lines = {line.split()[0]: line.split()[1:] for line in students.splitlines()}
    params, most_params, *_, least_bytes, most_bytes = lines["unet_mobilenet_v2"]
    assert int(params.replace(",", "")) < int(least_bytes.replace(",", ""))
    assert int(most_params.replace(",", "")) < int(most_bytes.replace(",", ""))
    assert {"unet", "deeplabv3_resnet18", "lraspp_mobilenet_v3_small"} <= set(lines)


def test_a_study_is_not_run_twice_at_once(known_study: Path) -> None:
    config = read_study_file(known_study / "known").config
    code = (
        "import sys; from pathlib import Path; "
        "from search.storage.study_file import lock_study, read_study_file; "
        "lock = lock_study(read_study_file(Path(sys.argv[1])).config); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(known_study / "known")]
    other = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match="must not run twice at once, but known is running"):
        lock_study(config)

    def end_other(line: str) -> None:
        assert line == "waiting for the lock of an earlier driver, 120 s at most"
        other.kill()

    wait_for_driver(config, end_other)
    other.wait()
    lock_study(config).release()  # a driver that was killed keeps nobody off
