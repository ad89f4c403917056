"""Exports of a study's points that agree with the search, and predicted masks and overlays."""

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import FINISHED
from PIL import Image

from search import export, predict
from search.analysis.tables import write_tables
from search.storage.study_file import read_study_file, write_study_file
from trainables.data.labels import voc_palette
from trainables.deploy.model_card import ModelCard


def answer(capsys: pytest.CaptureFixture[str], status: int, *argv: object) -> str:
    """Exports, and gives what was printed: on stderr one line, where that fails."""
    assert export.main([str(arg) for arg in argv]) == status
    printed = capsys.readouterr()
    if status:
        (line,) = printed.err.splitlines()
        assert line.startswith("error: ")
        return line
    return printed.out


@pytest.mark.parametrize("form", ["packed", "onnx", "onnx-int8"])
def test_every_point_is_exported_and_does_what_was_measured(
    form: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = answer(capsys, 0, study, "--all", "--format", form, "--out", tmp_path)
    cards = [ModelCard.model_validate_json(path.read_bytes()) for path in tmp_path.glob("*.json")]
    assert len(cards) == len(FINISHED)
    for card in cards:
        path = tmp_path / card.file
        assert path.stat().st_size == card.size_bytes
        assert card.miou == pytest.approx(card.searched_miou, abs=0.001)
        assert len(card.classes) == 5
        assert card.class_iou is not None
        assert tuple(card.class_iou) == card.classes
        known = [iou for iou in card.class_iou.values() if iou is not None]
        assert sum(known) / len(known) == pytest.approx(card.miou)
        assert card.never_predicted is not None
        assert {card.class_iou[name] for name in card.never_predicted} <= {0.0}
        (line,) = (line for line in printed.splitlines() if f"{card.file}: " in line)
        missed = f"! never predicts {len(card.never_predicted)} of {len(known)} classes: "
        assert (missed in line) is bool(card.never_predicted)
        assert f"trial {card.trial}: " in printed
        assert card.changed_pixels <= 0.01 * card.num_pixels
        if form != "onnx-int8":
            assert card.changed_pixels == 0
            assert not card.float_operations
        else:
            assert "classifier" in card.float_operations
        if form == "packed":
            assert not card.latency
        else:
            assert card.latency[0].num_threads == 1
            assert card.latency[0].low_ms <= card.latency[0].median_ms <= card.latency[0].high_ms
    assert not [
        path for path in tmp_path.iterdir() if path.suffix not in (".json", ".onnx", ".safetensors")
    ]


def test_weights_are_stored_in_the_narrowest_type(study: Path, tmp_path: Path) -> None:
    assert export.main([str(study), "--all", "--format", "onnx", "--out", str(tmp_path)]) == 0
    names = {"0000": "INT2", "0001": "INT4", "0002": "INT4", "0003": "INT8"}
    for trial_id, name in names.items():
        model = onnx.load(tmp_path / f"blocks-{trial_id}.onnx")
        weights = [c for c in model.graph.initializer if len(c.dims) == 4]
        kinds = [onnx.TensorProto.DataType.Name(weight.data_type) for weight in weights]
        assert kinds[0] == kinds[-1] == "INT8"
        assert set(kinds[1:-1]) == {name}


def test_an_exported_network_takes_any_batch_and_size(study: Path, tmp_path: Path) -> None:
    for form in ("onnx", "onnx-int8"):
        export.main([str(study), "--trial", "0002", "--format", form, "--out", str(tmp_path)])
    for path in tmp_path.glob("*.onnx"):
        session = onnxruntime.InferenceSession(path)
        for shape in ((1, 3, 32, 32), (3, 3, 45, 37), (2, 3, 1, 1)):
            (logits,) = session.run(None, {"images": np.zeros(shape, np.float32)})
            assert logits.shape == (shape[0], 5, *shape[2:])


@pytest.mark.parametrize(
    ("flags", "trial", "why"),
    [
        ([], None, "no limit was given"),
        (["--max-size", "9KB"], "0001", "the greatest mIoU within 9,000 bytes"),
        (["--min-miou", "0.1"], "0000", "the smallest of mIoU >= 0.1"),
        (["--trial", "0002"], "0002", "asked"),
    ],
)
def test_the_point_that_satisfies_the_limits_is_named(
    flags: list[str],
    trial: str | None,
    why: str,
    study: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = answer(capsys, 0, study, *flags, "--out", tmp_path)
    assert why in printed
    assert trial is None or printed.startswith(f"trial {trial}: mIoU ")


def front_of(study: Path) -> dict[str, dict[str, Any]]:
    """The rows of a study's front by trial."""
    rows = pq.read_table(study / "front.parquet").to_pylist()
    return {row["trial_id"]: row for row in rows}


def test_a_point_exactly_at_a_limit_is_within_it(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = front_of(study)
    size = min(row["size_bytes"] for row in front.values())
    printed = answer(capsys, 0, study, "--max-size", f"{size}B", "--out", tmp_path)
    assert printed.startswith("trial 0000: ")
    answer(capsys, 2, study, "--max-size", f"{size - 1}B", "--out", tmp_path)
    miou = max(row["miou"] for row in front.values())
    printed = answer(capsys, 0, study, "--min-miou", repr(miou), "--out", tmp_path)
    assert front[printed[len("trial ") :][:4]]["miou"] == miou
    answer(capsys, 2, study, "--min-miou", repr(math.nextafter(miou, 1)), "--out", tmp_path)


@pytest.mark.parametrize("form", ["onnx", "onnx-int8"])
def test_the_limit_is_of_the_file_that_is_exported(
    form: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, 0, study, "--all", "--format", form, "--out", tmp_path / "all")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "all").glob("*.onnx"))
    limit = sizes[len(sizes) // 2]
    printed = answer(
        capsys, 0, study, "--max-size", f"{limit}B", "--format", form, "--out", tmp_path / "one"
    )
    (path,) = (tmp_path / "one").glob("*.onnx")
    assert path.stat().st_size <= limit
    assert f"within {limit:,} bytes" in printed
    line = answer(
        capsys, 2, study, "--max-size", "2KB", "--format", form, "--out", tmp_path / "none"
    )
    assert "--max-size must admit a point of the front" in line


BAD: dict[str, tuple[list[str], str]] = {
    "no such trial": (["--trial", "0009"], r"a point of the front \(0000, .*but got 0009"),
    "too small": (
        ["--max-size", "1KB"],
        r"the smallest is mIoU .* \(trial 0000\) and the limit",
    ),
    "too good": (["--min-miou", "1"], r"the best is mIoU 0\.\d+, .* and the limit is 1\.0000"),
    "no share": (["--min-miou", "60"], "a share from 0 to 1, but got 60"),
    "no size": (["--max-size", "much"], "a size must be a positive number"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_limits(
    case: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        raise ValueError(answer(capsys, 2, study, *flags, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_bad_studies(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "STUDY must name an existing study" in answer(capsys, 2, tmp_path, "--out", tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    write_tables([], copy, [])
    assert "must have finished trials" in answer(capsys, 2, copy, "--out", tmp_path)
    (copy / "front.parquet").unlink()
    assert "must have ended or been" in answer(capsys, 2, copy, "--out", tmp_path)


def test_a_point_is_not_exported_by_data_that_has_changed(
    study: Path, blocks_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, copy = tmp_path / "data", tmp_path / "studies/blocks"
    shutil.copytree(blocks_folder, data)
    shutil.copytree(study, copy)
    file = read_study_file(copy)
    write_study_file(file.replace(config=file.config.replace(data=str(data))))
    answer(capsys, 0, copy, "--trial", "0002", "--out", tmp_path / "same")
    shutil.copy(data / "SegmentationClass/val1.png", data / "SegmentationClass/val0.png")
    line = answer(capsys, 2, copy, "--trial", "0002", "--out", tmp_path / "changed")
    assert f"is checked on the study's data, but {data} has changed" in line
    assert not (tmp_path / "changed").exists()


def test_a_damaged_model_is_named(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = study.parent / "damaged"
    shutil.copytree(study, copy)
    file = copy / "models/0002/model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    line = answer(capsys, 2, copy, "--trial", "0002", "--out", tmp_path)
    assert "intact .safetensors file" in line
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def misjudged(study: Path) -> Path:
    """The study, as if its search had measured other mIoUs than its files have."""
    copy = study.parent / "misjudged"
    shutil.copytree(study, copy)
    front = front_of(study)
    for trial_id, error in MISJUDGED.items():
        front[trial_id]["miou"] += error
    pq.write_table(pa.Table.from_pylist(list(front.values())), copy / "front.parquet")
    return copy


MISJUDGED = {"0000": 0.002, "0001": -0.002, "0002": 0.0005, "0003": -0.0005}


@pytest.mark.parametrize("form", ["packed", "onnx"])
@pytest.mark.parametrize("trial", ["0000", "0001"])
def test_an_export_that_does_not_do_what_was_measured_is_not_left_behind(
    trial: str, form: str, misjudged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = answer(capsys, 1, misjudged, "--trial", trial, "--format", form, "--out", tmp_path)
    assert "must have the search's mIoU" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("trial", ["0002", "0003"])
def test_a_small_difference_from_what_was_measured_is_told_by_the_card(
    trial: str, misjudged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, 0, misjudged, "--trial", trial, "--out", tmp_path)
    (path,) = tmp_path.glob("*.json")
    card = ModelCard.model_validate_json(path.read_bytes())
    assert card.searched_miou - card.miou == pytest.approx(MISJUDGED[trial])


def test_without_onnx_runtime_its_extra_is_named(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.core.optional_dependencies.has_onnx", lambda: False)
    line = answer(capsys, 2, study, "--format", "onnx", "--out", tmp_path)
    assert "pip install 'paretoseg[onnx]'" in line


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


def test_palette_is_that_of_voc() -> None:
    colors = voc_palette()
    assert colors[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]


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


def test_one_point_that_fails_does_not_keep_the_others(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = study.parent / "partly"
    shutil.copytree(study, copy)
    (copy / "models/0001/model.safetensors").write_bytes(b"")
    assert export.main([str(copy), "--all", "--out", str(tmp_path)]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("error: trial 0001: ")
    assert last == "error: 1 of 5 points were not exported"
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


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
