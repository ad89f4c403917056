"""A packed data set holds just what its source gave."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.core.artifact_record import describe_file
from trainables.core.artifacts import ArtifactStore
from trainables.data import shapes
from trainables.data.base import SPLITS
from trainables.data.packed import find_pack, open_pack, pack_dataset
from trainables.data.registry import ShapesSource
from trainables.data.voc import VocFolder


def test_every_sample_comes_back_in_order(tmp_path: Path) -> None:
    source = ShapesSource(32, num_train=67, num_val=2)
    data = open_pack(pack_dataset(source, ArtifactStore(tmp_path)).path)
    assert (data.height, data.width, data.num_classes) == (32, 32, len(source.class_names))
    for split in SPLITS:
        packed = getattr(data, split)
        samples = [source.sample(split, index) for index in range(source.num_samples(split))]
        assert len(packed) == len(samples)
        rows = packed.take(range(len(samples)))
        assert rows["image"].dtype == rows["mask"].dtype == torch.uint8
        np.testing.assert_array_equal(rows["image"], [s.image for s in samples])
        np.testing.assert_array_equal(rows["mask"], [s.mask for s in samples])


def test_a_pack_is_found_without_decoding(
    voc_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    assert find_pack(VocFolder(voc_folder, 32), store) is None
    made = pack_dataset(VocFolder(voc_folder, 32), store)
    monkeypatch.setattr("trainables.data.voc.load", None)
    assert find_pack(VocFolder(voc_folder, 32), store) == made
    assert open_pack(made.path).class_names == shapes.CLASS_NAMES


def test_broken_data_leaves_no_pack(voc_folder: Path, tmp_path: Path) -> None:
    (voc_folder / "JPEGImages/image3.jpg").write_bytes(b"x")
    store = ArtifactStore(tmp_path / "artifacts")
    with pytest.raises(ValueError, match=r"readable image, but .*image3\.jpg"):
        pack_dataset(VocFolder(voc_folder, 32), store)
    assert not store.root.exists()


def test_a_folder_is_packed_once(voc_folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    first = pack_dataset(VocFolder(voc_folder, 32), store)
    stamp = (first.path / "train.arrow").stat().st_mtime_ns
    assert pack_dataset(VocFolder(voc_folder, 32), store).path == first.path
    assert (first.path / "train.arrow").stat().st_mtime_ns == stamp
    assert pack_dataset(VocFolder(voc_folder, 40), store).path != first.path


def test_a_pack_that_was_cut_off_or_is_of_another_kind_is_refused(
    voc_folder: Path, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    folder = pack_dataset(VocFolder(voc_folder, 32), store).path
    os.truncate(folder / "train.arrow", 100)
    with pytest.raises(ValueError, match=r"must be a whole artifact .*train\.arrow has 100 bytes"):
        open_pack(folder)
    other = store.get("outputs", {"format": 1}, lambda folder: None).path
    with pytest.raises(ValueError, match="but it is no artifact of kind data"):
        open_pack(other)
    older = store.get("data", {"format": 0}, lambda folder: None).path
    with pytest.raises(ValueError, match="but its format is 0"):
        open_pack(older)


def test_a_pack_of_an_earlier_release_says_that_it_was_not_looked_at(
    voc_folder: Path, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    source = VocFolder(voc_folder, 32)
    folder = pack_dataset(source, store).path
    assert open_pack(folder).notes == source.notes
    content = json.loads((folder / "data.json").read_text())
    del content["notes"]
    (folder / "data.json").write_text(json.dumps(content))
    record = json.loads((folder / "artifact.json").read_text())
    record["files"]["data.json"] = list(describe_file(folder / "data.json"))
    (folder / "artifact.json").write_text(json.dumps(record))
    assert open_pack(folder).notes is None
