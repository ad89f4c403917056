"""Small real parts that many tests share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.artifacts import ArtifactStore
from trainables.config import RunConfig
from trainables.data import shapes
from trainables.data.pack import pack
from trainables.data.prepare import ShapesSource


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def voc_folder(tmp_path: Path) -> Path:
    """Eight shapes images of two sizes in VOC layout, six for training."""
    root = tmp_path / "voc"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    names = [f"image{index}" for index in range(8)]
    for index, name in enumerate(names):
        image, mask = shapes.draw_sample(48, 0, index)
        width = 48 if index % 2 else 36
        Image.fromarray(image[:, :width]).save(root / "JPEGImages" / f"{name}.jpg")
        palette = Image.fromarray(np.ascontiguousarray(mask[:, :width])).convert("P")
        palette.putdata(mask[:, :width].flatten().tolist())
        palette.save(root / "SegmentationClass" / f"{name}.png")
    lists = root / "ImageSets/Segmentation"
    (lists / "train.txt").write_text("\n".join(names[:6]) + "\n")
    (lists / "val.txt").write_text("\n".join(names[6:]) + "\n")
    (root / "classes.txt").write_text("\n".join(shapes.CLASS_NAMES) + "\n")
    return root


@pytest.fixture(scope="session")
def shapes_run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A small pack of 32 px shapes and an artifact store."""
    store = ArtifactStore(tmp_path_factory.mktemp("artifacts"))
    source = ShapesSource(32, num_train=64, num_val=24)
    return RunConfig(data=pack(source, store).path, artifacts=store.root)
