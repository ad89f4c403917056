"""One configuration from the command line, without Ray, Optuna or MLflow."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from trainables.config import TrialConfig
from trainables.core.progress import progress_to
from trainables.losses.configs import Pixelwise, Requirement, by_name
from trainables.models.configs import UNetConfig
from trainables.models.model_file import read_model
from trainables.quantization.bits import LayerBits
from trainables.quantization.quantizers.base import QuantizerConfig
from trainables.quantization.quantizers.configs import Lsq, MixedPrecision
from trainables.recipes.configs import AdamW, Distill, Qat, QatDistill, Recipe, Supervised
from trainables.train import main

FAST = AdamW(learning_rate=1e-2)


class PixelwiseOnline(Pixelwise):
    """A term that asks the teacher itself."""

    name: Literal["pixelwise_online"] = "pixelwise_online"  # type: ignore[assignment]
    requires: ClassVar[Requirement] = "live"


def write_config(path: Path, recipe: Recipe) -> str:
    config = TrialConfig(
        student=UNetConfig(width=6, depth=2), recipe=recipe, num_epochs=4, batch_size=8
    )
    path.write_text(config.model_dump_json())
    return str(path)


def arguments(folder: Path, out: Path) -> list[str]:
    return ["--data", str(folder), "--image-size", "32", "--out", str(out)]


def test_a_configuration_is_trained_and_measured(
    blocks_folder: Path,
    teacher_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path / "config.json", Distill(optimizer=FAST))
    out = tmp_path / "out"
    argv = [config, *arguments(blocks_folder, out), "--teacher", str(teacher_file)]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "teacher:" in printed
    assert "  class    IoU % train    IoU % val" in printed
    assert "epoch 4: mIoU" in printed
    read_model(out / "model.safetensors")
    metrics = json.loads((out / "metrics.json").read_text())
    assert [m["epoch"] for m in metrics] == [1, 2, 3, 4]
    num_missed = metrics[-1]["classes_never_predicted"]
    *_, result, warning = printed.splitlines()
    assert result.endswith(f", {num_missed} of 5 classes never predicted")
    assert warning.startswith("warning: the teacher has ")
    assert f"% mIoU and its student {100 * metrics[-1]['miou']:.1f} %: " in warning
    assert metrics[-1]["size_bytes"] == (out / "model.safetensors").stat().st_size


def test_it_says_how_far_teacher_and_student_are(
    blocks_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = Supervised(optimizer=FAST)
    monkeypatch.setattr("trainables.train.progress_to", partial(progress_to, every_s=0))
    monkeypatch.setattr(
        "trainables.training.defaults.Defaults.default_teacher_config",
        lambda self, num_epochs: TrialConfig(
            student=UNetConfig(width=6, depth=2), recipe=own, num_epochs=3
        ),
    )
    config = write_config(tmp_path / "config.json", Distill(optimizer=FAST))
    argv = [config, *arguments(blocks_folder, tmp_path / "out"), "--teacher-outputs", "maps"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    for words in (
        r"training the teacher: epoch 1 of 3$",
        r"training the teacher: epoch 3 of 3, about \d+ s left$",
        r"keeping the teacher's outputs as maps: [\d,]+ bytes per image",
        r"keeping the teacher's outputs: batch 4 of 4, about \d+ s left$",
        r"training the student: epoch 1 of 4$",
        r"training the student: epoch 4 of 4, about \d+ s left$",
    ):
        assert re.search(f"^{words}", printed, re.MULTILINE), printed


def test_unlabelled_images_are_trained_on_beside_labelled_ones(
    blocks_folder: Path,
    unlabelled_folder: Path,
    teacher_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path / "config.json", Distill(optimizer=FAST))
    more = tmp_path / "more"
    shutil.copytree(unlabelled_folder, more)
    shutil.copy(blocks_folder / "JPEGImages" / "val3.png", more)
    shutil.copy(blocks_folder / "JPEGImages" / "train3.png", more)
    common = [config, *arguments(blocks_folder, tmp_path / "out"), "--teacher", str(teacher_file)]
    argv = [*common, "--teacher-outputs", "maps", "--unlabelled", str(more)]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    for words in (
        f"unlabelled images: 12 of {re.escape(str(more))}, packed in .*/unlabelled-",
        r"note on the unlabelled images: 2 of 14 images are left out: training images \(1\), valid",
        "keeping the teacher's outputs as maps: ",
        "keeping the teacher's outputs for unlabelled images as maps: ",
    ):
        assert re.search(f"^{words}", printed, re.MULTILINE), printed
    kinds = [path.name.split("-")[0] for path in (tmp_path / "artifacts").glob("[a-z]*-*")]
    assert sorted(kinds) == ["data", "outputs", "outputs", "scores", "teacher", "unlabelled"]
    with_images = json.loads((tmp_path / "out" / "metrics.json").read_text())
    common[common.index(str(tmp_path / "out"))] = str(tmp_path / "without")
    assert main([*common, "--teacher-outputs", "maps"]) == 0
    without = json.loads((tmp_path / "without" / "metrics.json").read_text())
    assert with_images[-1]["losses"] != without[-1]["losses"]
    assert with_images[-1]["size_bytes"] == without[-1]["size_bytes"]


@pytest.mark.parametrize(
    ("recipe", "folder", "message"),
    [
        (Supervised(), "more", "--unlabelled must be for students that learn from a teacher, but"),
        (Distill(), "nowhere", "the folder of --unlabelled must exist, but got .*nowhere"),
        (Distill(), "data/SegmentationClass", "of images alone, but .*png is a mask of the data"),
        (Distill(), "data/JPEGImages", "must hold other images than those with labels, but every"),
    ],
)
def test_bad_unlabelled_images_are_refused_before_anything_is_made(
    recipe: Recipe,
    folder: str,
    message: str,
    blocks_folder: Path,
    unlabelled_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "data").symlink_to(blocks_folder)
    (tmp_path / "more").symlink_to(unlabelled_folder)
    before = sorted(tmp_path.iterdir())
    config = write_config(tmp_path / "config.json", recipe)
    argv = [config, *arguments(blocks_folder, tmp_path / "out")]
    assert main([*argv, "--unlabelled", str(tmp_path / folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(ValueError, match=message):
        raise ValueError(line)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "config.json"])


def test_outputs_that_do_not_serve_a_term_are_refused_before_anything_is_made(
    blocks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Distill(losses=by_name(PixelwiseOnline()))
    config = write_config(tmp_path / "config.json", recipe)
    argv = [config, *arguments(blocks_folder, tmp_path / "out"), "--teacher-outputs", "maps"]
    assert main(argv) == 2
    message = "--teacher-outputs must be live for the distillation term pixelwise_online"
    assert capsys.readouterr().err.startswith(f"error: {message}, but got maps")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_only_a_teacher_that_runs_at_every_step_learns(
    blocks_folder: Path, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = QatDistill(optimizer=FAST, start_epochs=1, self_study=0, co_study=0.5)
    config = write_config(tmp_path / "config.json", recipe)
    argv = [config, *arguments(blocks_folder, tmp_path / "out"), "--teacher", str(teacher_file)]
    assert main(argv) == 0
    assert ", teacher " in capsys.readouterr().out  # its loss
    assert main([*argv, "--teacher-outputs", "maps"]) == 2
    message = "--teacher-outputs must be live for co-study, but got maps"
    assert capsys.readouterr().err.startswith(f"error: {message}")


HEAVY = {"ray", "optuna", "mlflow", "search", "sklearn", "torchvision", "torch._dynamo"}
"""Packages of the search, and PyTorch's compiler, which takes three seconds to load."""


def test_a_training_imports_neither_the_search_nor_a_compiler(
    blocks_folder: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "config.json", Qat(start=Supervised(optimizer=FAST)))
    argv = [config, *arguments(blocks_folder, tmp_path / "out")]
    program = (
        f"import sys, trainables.train; status = trainables.train.main({argv!r}); "
        f"print({HEAVY!r} & set(sys.modules), status)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert printed.stdout.splitlines()[-1:] == ["set() 0"], printed.stderr


def test_a_student_that_does_not_learn_is_exit_status_1(
    blocks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Supervised(optimizer=AdamW(learning_rate=1e-9))
    config = write_config(tmp_path / "config.json", recipe)
    assert main([config, *arguments(blocks_folder, tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: not learning")


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (MixedPrecision(weight_bits=2.5), "but got an allocation, which only a study resolves"),
        (
            Lsq(layers={"nosuch": LayerBits(weight_bits=4, activation_bits=8)}),
            "quantizer.layers must name layers of the model, but got 'nosuch'",
        ),
    ],
)
def test_bits_that_fit_no_layer_are_refused_before_anything_is_made(
    quantizer: QuantizerConfig,
    message: str,
    blocks_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path / "config.json", Qat(quantizer=quantizer))
    assert main([config, *arguments(blocks_folder, tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the configuration must exist, but there is no"),
        ("{", "is not a valid TrialConfig"),
        ('{"recipe": {"name": "magic"}}', "recipe: .*magic"),
        ('{"recipe": {"name": "supervised"}, "num_epochs": 0}', "num_epochs: .*but got 0"),
    ],
)
def test_a_bad_configuration_is_exit_status_2(
    content: str | None,
    message: str,
    blocks_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    assert main([str(path), *arguments(blocks_folder, tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(printed.err)
    assert not (tmp_path / "out").exists()
