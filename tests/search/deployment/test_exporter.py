"""Exported files do what the search has measured, or are deleted."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_command import answer, front_of

from search import export
from search.deployment import exporter
from search.storage.study_file import read_study_file, write_study_file
from trainables.deploy.model_card import ModelCard


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
    data.rename(tmp_path / "elsewhere")
    line = answer(capsys, 2, copy, "--trial", "0002", "--out", tmp_path / "changed")
    assert f"error: the study's data must be a folder that exists, but got {data}" in line
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


def test_rounding_on_integers_may_be_for_the_better_but_not_for_the_worse(
    misjudged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (misjudged, "--format", "onnx-int8", "--out", tmp_path)
    line = answer(capsys, 1, *arguments, "--trial", "0000")
    assert "must have the search's mIoU" in line
    assert not list(tmp_path.iterdir())
    answer(capsys, 0, *arguments, "--trial", "0001")
    (path,) = tmp_path.glob("*.json")
    card = ModelCard.model_validate_json(path.read_bytes())
    assert card.miou - card.searched_miou > 0.001


def test_a_file_whose_classes_differ_much_is_refused_whatever_its_score(
    misjudged: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporter, "MOST_CHANGED", -1)
    arguments = (misjudged, "--format", "onnx-int8", "--out", tmp_path)
    line = answer(capsys, 1, *arguments, "--trial", "0001")
    assert "must give the search's classes but for" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("trial", ["0002", "0003"])
def test_a_small_difference_from_what_was_measured_is_told_by_the_card(
    trial: str, misjudged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, 0, misjudged, "--trial", trial, "--out", tmp_path)
    (path,) = tmp_path.glob("*.json")
    card = ModelCard.model_validate_json(path.read_bytes())
    assert card.searched_miou - card.miou == pytest.approx(MISJUDGED[trial])
