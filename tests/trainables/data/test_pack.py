"""A packed data set holds just what its source gave."""

from pathlib import Path

import numpy as np
import torch

from trainables.artifacts import ArtifactStore
from trainables.data.pack import CHUNK, open_pack, pack
from trainables.data.prepare import ShapesSource
from trainables.data.source import SPLITS
from trainables.data.voc import VocFolder


def test_every_sample_comes_back_in_order(tmp_path: Path) -> None:
    source = ShapesSource(32, num_train=CHUNK + 3, num_val=2)
    data = open_pack(pack(source, ArtifactStore(tmp_path)).path)
    assert (data.height, data.width, data.num_classes) == (32, 32, len(source.class_names))
    for split in SPLITS:
        packed = getattr(data, split)
        samples = list(source.samples(split))
        assert len(packed) == len(samples)
        images, masks = packed.take(range(len(samples)))
        assert images.dtype == masks.dtype == torch.uint8
        np.testing.assert_array_equal(images.permute(0, 2, 3, 1), [s.image for s in samples])
        np.testing.assert_array_equal(masks, [s.mask for s in samples])
        batched = torch.cat([masks for _, masks in packed.batches(7)])
        assert torch.equal(batched, masks)


def test_a_folder_is_packed_once(voc_folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    first = pack(VocFolder(voc_folder, 32), store)
    stamp = (first.path / "train.arrow").stat().st_mtime_ns
    assert pack(VocFolder(voc_folder, 32), store).path == first.path
    assert (first.path / "train.arrow").stat().st_mtime_ns == stamp
    assert pack(VocFolder(voc_folder, 40), store).path != first.path
