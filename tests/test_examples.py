"""Each example runs as its first lines say, and does what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search import export, predict
from trainables.data.shapes import draw_sample

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
PREPARED = """
import runpy, sys
from search.execution.environment import prepare_environment
prepare_environment()
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs an example as the search runs Ray: bound to 127.0.0.1, with a token of its own."""


def run(name: str, *arguments: object, first: tuple[str, ...] = ()) -> list[str]:
    """The lines that an example prints."""
    finished = subprocess.run(
        [sys.executable, *first, str(ROOT / "examples" / name), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


@pytest.mark.slow
def test_a_space_with_optuna_alone(tmp_path: Path) -> None:
    front = run("own_space.py", tmp_path)
    assert front
    found = [re.match(r"trial (\d+): mIoU (0\.\d+), (\d+) bytes", line) for line in front]
    for match in found:
        assert match
        model = tmp_path / f"trial-{match[1]}" / "model.safetensors"
        assert model.stat().st_size == int(match[3])


@pytest.mark.slow
def test_one_student_is_distilled(tmp_path: Path) -> None:
    teacher, *epochs, last = run("distill_one_student.py", tmp_path)
    assert re.fullmatch(r"teacher: .* 16 trained on the data, mIoU 0\.\d+", teacher)
    assert len(epochs) == 3
    assert all("pixelwise" in line for line in epochs[1:])
    assert last.endswith(f"{(tmp_path / 'model.safetensors').stat().st_size} bytes")


@pytest.mark.slow
def test_the_scheduler_works_in_tune(tmp_path: Path) -> None:
    printed = run("scheduler_in_tune.py", tmp_path, first=("-c", PREPARED))
    trials = re.findall(r"^quality (\S+): (\d+) epochs$", "\n".join(printed), re.MULTILINE)
    epochs = {quality: [int(e) for q, e in trials if q == quality] for quality in ("0.9", "0.1")}
    assert len(trials) == 6
    assert 27 in epochs["0.9"]
    assert min(epochs["0.1"]) == 1  # dominated at the first rung
    assert sum(epochs["0.9"]) > sum(epochs["0.1"])


def test_an_onnx_file_is_used_without_this_project(study: Path, tmp_path: Path) -> None:
    form = ("--trial", "0003", "--format", "onnx-int8")
    assert export.main([str(study), *form, "--out", str(tmp_path)]) == 0
    (model,) = tmp_path.glob("*.onnx")
    image, _ = draw_sample(48, 0, 0)
    Image.fromarray(np.ascontiguousarray(image[:36])).save(tmp_path / "image.png")
    shares = run("segment_with_onnx.py", model, tmp_path / "image.png", tmp_path / "mask.png")
    assert len(shares) == 5
    assert (
        predict.main([str(model), str(tmp_path / "image.png"), "--out", str(tmp_path / "p")]) == 0
    )
    mask, expected = (np.asarray(Image.open(tmp_path / f)) for f in ("mask.png", "p/image.png"))
    assert mask.shape == expected.shape == (36, 48)
    assert np.mean(mask == expected) > 0.99


def test_a_study_is_looked_at(tmp_path: Path) -> None:
    image, _ = draw_sample(48, 0, 0)
    Image.fromarray(np.ascontiguousarray(image[:36])).save(tmp_path / "image.png")
    stored = ROOT / "tests/search/study/stored_study/stored"
    printed = run("look_at_a_study.py", stored, tmp_path / "image.png", tmp_path)
    assert printed[0].split() == ["trial_id", "miou", "size_bytes"]
    assert re.fullmatch(r"trial \d{4} sees .*", printed[-1])
    with (
        Image.open(tmp_path / "classes.png") as classes,
        Image.open(tmp_path / "front.png") as plot,
    ):
        assert classes.size == (48, 36)
        assert plot.size == (1500, 900)


def test_the_onnx_example_imports_nothing_of_this_project() -> None:
    text = (ROOT / "examples/segment_with_onnx.py").read_text()
    assert not re.search(r"^\s*(import|from) (search|trainables|spaces|torch)", text, re.MULTILINE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_use_public_names_alone(name: str) -> None:
    text = (ROOT / "examples" / name).read_text()
    assert f"python examples/{name} " in text
    assert not re.search(r"import _|\._[a-z]", text)


def test_no_example_is_without_a_test() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{name}"' in text or f"/{name}" in text for name in EXAMPLES)
