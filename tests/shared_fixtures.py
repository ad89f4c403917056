"""Small real parts that many tests share."""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from factories import make_finished_study
from foreign_networks import Foreign
from hypothesis import settings
from PIL import Image
from torch.nn import functional as F

from trainables.config import ExecutionConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.mirror import mirror_folder, mirror_of_shared
from trainables.data import shapes
from trainables.data.augmentation import normalize
from trainables.data.base import SPLITS, FileRole, Sample, Split
from trainables.data.loader import Loader
from trainables.data.packed import images_of, open_pack, pack_dataset
from trainables.data.unlabelled import UnlabelledFolder, pack_unlabelled
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, write_model
from trainables.quantization.quantizers import lsq_kernels

# How long a test takes depends on what else the machine does
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")
# The tests' images are small: loading a compiler takes longer than all that it saves
lsq_kernels.MIN_ELEMENTS = 1 << 24


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
def blocks_run(tmp_path_factory: pytest.TempPathFactory) -> ExecutionConfig:
    """A pack of 32 images that a student learns in a few steps, and an artifact store."""
    return pack_blocks(tmp_path_factory.mktemp("artifacts"), Blocks(32, 12))


def pack_blocks(artifacts: Path, blocks: "Blocks") -> ExecutionConfig:
    """These blocks, packed into an artifact store."""
    data = pack_dataset(blocks, ArtifactStore(artifacts))
    return ExecutionConfig(data=data.path, artifacts=artifacts)


@dataclass
class Blocks:
    """Images of 32 px in four blocks, whose colour is their class, one of five."""

    num_train: int = 64
    num_val: int = 24
    notes: ClassVar = ()
    class_names: ClassVar = ("black", "red", "green", "blue", "white")
    colors: ClassVar = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)])

    def digest(self) -> str:
        return f"blocks {self.num_train} {self.num_val}"

    def canvas(self) -> tuple[int, int]:
        return 32, 32

    def file_roles(self) -> dict[str, FileRole]:
        return {}

    def num_samples(self, split: Split) -> int:
        return self.num_train if split == "train" else self.num_val

    def sample(self, split: Split, index: int) -> Sample:
        random = np.random.default_rng([split == "val", index])
        mask = random.integers(0, 5, (2, 2)).repeat(16, 0).repeat(16, 1)
        noise = random.normal(0, 30, (32, 32, 3))
        image = np.clip(self.colors[mask] + noise, 0, 255).astype(np.uint8)
        mask[15:17] = 255
        return Sample(image, mask.astype(np.uint8))


@pytest.fixture(scope="session")
def blocks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twice as many such images in VOC layout."""
    root = tmp_path_factory.mktemp("data") / "blocks"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    for split in SPLITS:
        names = []
        for index in range(Blocks().num_samples(split)):
            sample = Blocks().sample(split, index)
            names.append(f"{split}{index}")
            Image.fromarray(sample.image).save(root / "JPEGImages" / f"{names[-1]}.png")
            Image.fromarray(sample.mask).save(root / "SegmentationClass" / f"{names[-1]}.png")
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names))
    return root


@pytest.fixture(scope="session")
def unlabelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve more such images; the last two, in a folder below, are smaller than the canvas."""
    root = tmp_path_factory.mktemp("unlabelled") / "more"
    (root / "small").mkdir(parents=True)
    for index in range(12):
        image = Blocks().sample("train", 1000 + index).image
        if index < 10:
            Image.fromarray(image).save(root / f"{index}.png")
        else:
            Image.fromarray(image[:24, :20]).save(root / "small" / f"{index}.bmp")
    return root


@pytest.fixture(scope="session")
def unlabelled_run(blocks_run: ExecutionConfig, unlabelled_folder: Path) -> ExecutionConfig:
    """`blocks_run` with these images."""
    source = UnlabelledFolder(unlabelled_folder, 32, (32, 32), {})
    pack = pack_unlabelled(source, ArtifactStore(blocks_run.artifacts))
    return blocks_run.replace(unlabelled=pack.path)


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of the blocks' five classes that knows nothing."""
    torch.manual_seed(0)
    card = ModelSpec(model=UNetConfig(width=6, depth=2), num_classes=5)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    write_model(path, card.build(), card)
    return path


@pytest.fixture(scope="session")
def foreign_file(blocks_run: ExecutionConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state dict of a network that its author trained on the blocks."""
    loader = Loader(open_pack(blocks_run.data).train, torch.device("cpu"))
    batches = list(loader.in_order(8))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Foreign()
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(12):
            for batch in batches:
                logits = network(normalize(images_of(batch)))["out"]
                loss = F.cross_entropy(logits, batch["mask"].long(), ignore_index=255)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    path = tmp_path_factory.mktemp("foreign") / "net.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, blocks_folder: Path) -> Path:
    """A finished study of five trials, as a search leaves it."""
    return make_finished_study(tmp_path_factory.mktemp("finished"), blocks_folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def object_store() -> Iterator[Any]:
    """A bucket of an S3 server on this machine, which this process reaches."""
    from object_store import serving  # takes a second that few tests need

    with serving() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        yield store


@pytest.fixture(params=["object store", "shared folder"])
def mirrors(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Folders of two machines that mirror the same one."""
    first, second = tmp_path / "first", tmp_path / "second"
    if request.param == "object store":
        uri = f"{request.getfixturevalue('object_store').uri}/{uuid.uuid4().hex[:12]}"
        return mirror_folder(uri, first), mirror_folder(uri, second)
    shared = tmp_path / "shared"
    return mirror_of_shared(shared, first), mirror_of_shared(shared, second)
