"""Exports of a study's points through the command line."""

import shutil
from pathlib import Path

import pytest
from export_command import answer
from factories import FINISHED

from search import export
from search.analysis.tables import write_tables
from trainables.deploy.model_card import ModelCard


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


def test_bad_studies(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "STUDY must name an existing study" in answer(capsys, 2, tmp_path, "--out", tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    write_tables([], copy, [])
    assert "must have finished trials" in answer(capsys, 2, copy, "--out", tmp_path)
    (copy / "front.parquet").unlink()
    assert "must have ended or been" in answer(capsys, 2, copy, "--out", tmp_path)


def test_without_onnx_runtime_its_extra_is_named(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.core.optional_dependencies.has_onnx", lambda: False)
    line = answer(capsys, 2, study, "--format", "onnx", "--out", tmp_path)
    assert "pip install 'paretoseg[onnx]'" in line


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
