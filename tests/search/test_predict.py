"""Masks and overlays that an exported model predicts."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search import export, predict


@pytest.fixture(scope="module")
def exported(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    for form in ("packed", "onnx", "onnx-int8"):
        argv = [study, "--trial", "0003", "--format", form, "--out", out]
        assert export.main([str(arg) for arg in argv]) == 0
    return out


@pytest.mark.parametrize("ending", [".safetensors", ".onnx", "-int8.onnx"])
def test_predicted_masks_are_the_classes_of_the_image(
    ending: str, exported: Path, blocks_folder: Path, tmp_path: Path
) -> None:
    images = blocks_folder / "JPEGImages"
    argv = [exported / f"blocks-0003{ending}", images / "val0.png", "--out", tmp_path]
    assert predict.main([str(arg) for arg in argv]) == 0
    mask = np.array(Image.open(tmp_path / "val0.png"))
    truth = np.array(Image.open(blocks_folder / "SegmentationClass/val0.png"))
    assert (mask == truth)[truth != 255].mean() > 0.9
    overlay = Image.open(tmp_path / "val0-overlay.jpg")
    assert overlay.size == Image.open(images / "val0.png").size


def test_predictions_are_compared_with_labels(
    exported: Path, blocks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, images, truth = exported / "blocks-0003.safetensors", tmp_path / "i", tmp_path / "t"
    shutil.copytree(blocks_folder / "SegmentationClass", truth)
    images.mkdir()
    for name in ("val0", "val1", "val2", "val3"):
        shutil.copy(blocks_folder / f"JPEGImages/{name}.png", images)
    argv = [str(each) for each in (model, images, "--out", tmp_path / "out", "--truth", truth)]
    assert predict.main(argv) == 0
    match = re.search(r"^mIoU (\d+\.\d) % on 4 images with labels$", capsys.readouterr().out, re.M)
    assert match
    hits, union = np.zeros(5), np.zeros(5)
    for name in ("val0", "val1", "val2", "val3"):
        files = tmp_path / f"out/{name}.png", truth / f"{name}.png"
        predicted, labels = (np.asarray(Image.open(file)) for file in files)
        for index in range(5):
            own, theirs = (predicted == index) & (labels != 255), labels == index
            hits[index] += (own & theirs).sum()
            union[index] += (own | theirs).sum()
    assert float(match[1]) == round(100 * float((hits / union).mean()), 1)
    with Image.open(tmp_path / "out/val0-compare.png") as picture:
        picture.load()
    Image.fromarray(np.full((32, 32), 5, np.uint8)).save(truth / "val1.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(truth / "val2.png")
    (truth / "val3.png").unlink()
    assert predict.main(argv) == 1
    printed = capsys.readouterr()
    assert "on 1 images with labels" in printed.out
    value, size, absent = printed.err.splitlines()
    assert f"labels must be below 5, the model's number of classes, or 255, but {truth}" in value
    assert "the size of their image, 32x32, but" in size
    assert size.endswith("val2.png has 8x8")
    assert f"there is no {truth}/val3.png" in absent


def test_an_overlay_is_the_image_under_the_colour_of_its_class(
    exported: Path, tmp_path: Path
) -> None:
    image = tmp_path / "red.png"
    Image.new("RGB", (32, 32), (250, 10, 20)).save(image)
    argv = [exported / "blocks-0003.safetensors", image, "--out", tmp_path / "out"]
    assert predict.main([str(arg) for arg in argv]) == 0
    mask = np.array(Image.open(tmp_path / "out/red.png"))
    assert (mask[8:24, 8:24] == 1).all()
    overlay = np.array(Image.open(tmp_path / "out/red-overlay.jpg")).astype(float)
    blended = np.array((0.45 * 250 + 0.55 * 128, 0.45 * 10, 0.45 * 20))
    assert np.abs(overlay[12:20, 12:20] - blended).max() < 4  # by JPEG


def test_images_of_all_kinds_and_an_unreadable_one(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (50, 70), np.uint8)).save(images / "grey.png")
    Image.new("CMYK", (33, 21), (9, 99, 0, 9)).save(images / "cmyk.jpg")
    Image.new("RGB", (1, 1)).save(images / "one.png")
    turned = Image.new("RGB", (40, 20))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(images / "turned.jpg", exif=exif)
    (images / "broken.jpg").write_bytes(b"no image")
    (images / "notes.txt").write_text("left alone")
    (images / "phone.HEIC").write_bytes(b"left out")
    (images / "._grey.png").write_bytes(b"hidden, as macOS leaves it")
    deep = Image.fromarray(np.full((4, 6), 30069, np.uint16))
    deep.save(images / "deep.PNG")
    argv = [str(exported / "blocks-0003-int8.onnx"), str(images), "--out", str(out)]
    assert predict.main(argv) == 1
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if "error" in line]
    assert "broken.jpg" in line
    assert "5 of 6 images" in printed.out
    assert "left out, because they are no images: 1 .heic, 1 .txt" in printed.out
    sizes = {path.name: Image.open(path).size for path in out.glob("*.png")}
    assert sizes.pop("turned.png") == (20, 40)
    assert sizes.pop("deep.png") == (6, 4)
    assert sizes == {"grey.png": (70, 50), "cmyk.png": (33, 21), "one.png": (1, 1)}


def test_bad_input_to_predict(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = exported / "blocks-0003.onnx"
    damaged, lonely = tmp_path / "damaged.onnx", tmp_path / "lonely.onnx"
    damaged.write_bytes(good.read_bytes()[:3000])
    shutil.copy(good, lonely)
    other = tmp_path / "other.pt"
    other.write_bytes(b"")
    card = tmp_path / "card.safetensors"
    shutil.copy(exported / "blocks-0003.safetensors", card)
    card.with_name("card.safetensors.json").write_text(json.dumps({"format": "packed"}))
    cases = {
        tmp_path / "none.onnx": "the model must be a file",
        damaged: "damaged.onnx must be an intact ONNX model",
        lonely: "a model must have its card beside it",
        other: "must end in .safetensors or .onnx",
        card: "card.safetensors.json must be a model card",
    }
    for model, message in cases.items():
        assert predict.main([str(model), str(tmp_path), "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    empty = tmp_path / "empty"
    empty.mkdir()
    for images, message in ((empty, "must hold images"), (tmp_path / "no", "there is no")):
        assert predict.main([str(good), str(images), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


def test_a_photograph_is_never_overwritten(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "photo.png"
    Image.new("RGB", (9, 9)).save(image)
    before = image.read_bytes()
    for images in (image, tmp_path):
        argv = [exported / "blocks-0003.onnx", images, "--out", tmp_path]
        assert predict.main([str(arg) for arg in argv]) == 2
        assert "must be another folder" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_a_model_that_is_not_the_one_of_its_card_is_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in exported.glob("blocks-0003.safetensors*"):
        shutil.copy(path, tmp_path)
    model = tmp_path / "blocks-0003.safetensors"
    content = bytearray(model.read_bytes())
    content[-3] ^= 1
    model.write_bytes(content)
    assert predict.main([str(model), str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has changed since" in capsys.readouterr().err


def test_a_model_that_cannot_run_is_one_line(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    info = onnx.helper.make_tensor_value_info
    four = info("images", onnx.TensorProto.FLOAT, [None, 4, None, None])
    logits = info("logits", onnx.TensorProto.FLOAT, [None, 4, None, None])
    node = onnx.helper.make_node("Identity", ["images"], ["logits"])
    graph = onnx.helper.make_graph([node], "four channels", [four], [logits])
    model = tmp_path / "four.onnx"
    onnx.save(onnx.helper.make_model(graph, ir_version=10), model)
    card = json.loads((exported / "blocks-0003.onnx.json").read_text())
    card["sha256"] = hashlib.sha256(model.read_bytes()).hexdigest()
    model.with_name("four.onnx.json").write_text(json.dumps(card))
    image = tmp_path / "photo.png"
    Image.new("RGB", (9, 9)).save(image)
    assert predict.main([str(model), str(image), "--out", str(tmp_path / "out")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "four.onnx must be an intact ONNX model" in line
