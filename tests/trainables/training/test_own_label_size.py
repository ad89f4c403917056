"""mIoU at the labels' own size against a naive computation from the files of a data set."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from trainables.config import ExecutionConfig, TrialConfig
from trainables.core.artifact_record import find_damage
from trainables.core.artifacts import ArtifactStore
from trainables.data.augmentation import normalize
from trainables.data.configs import Augmentation, LabelSize
from trainables.data.loader import Loader
from trainables.data.own_labels import OwnLabelTable
from trainables.data.packed import OWN_LABELS, PackedDataset, images_of, open_pack, pack_dataset
from trainables.data.voc import VocFolder
from trainables.deploy.parity import check_parity
from trainables.deploy.runtime import module_network
from trainables.models.base import to_device
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, deserialize, read_model, write_model
from trainables.recipes.configs import AdamW, Supervised
from trainables.training.evaluation import BATCH_SIZE, Scores, commonest_miou, evaluate
from trainables.training.teacher_metrics import measure_teacher
from trainables.training.trial import Trial

CPU = torch.device("cpu")
IMAGE_SIZE, NUM_CLASSES = 32, 4
ROTATED = 6
"""EXIF orientation of an image that is stored on its side."""


class Photo(NamedTuple):
    """Height and width of a mask, and the size of its image on the canvas, both in pixels."""

    size: tuple[int, int]
    content: tuple[int, int]
    orientation: int = 1


PHOTOS = [
    Photo((48, 64), (24, 32)),
    Photo((70, 41), (32, 19)),
    Photo((33, 33), (32, 32)),
    Photo((16, 20), (16, 20)),
    Photo((32, 32), (32, 32)),
    Photo((60, 30), (32, 16), ROTATED),
    Photo((9, 200), (1, 32)),
] * 3
assert len(PHOTOS) > BATCH_SIZE


def make_folder(root: Path, photos: list[Photo]) -> Path:
    """Photos of coloured blocks in VOC layout, the same in both splits under other names."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)])
    for split in ("train", "val"):
        names = []
        for photo in photos:
            height, width = photo.size
            blocks = random.integers(0, NUM_CLASSES, (3, 4))
            mask = blocks[np.arange(height) * 3 // height][:, np.arange(width) * 4 // width]
            pixels = np.clip(colors[mask] + random.normal(0, 30, (*mask.shape, 3)), 0, 255)
            mask[random.random(mask.shape) < 0.1] = 255
            image = Image.fromarray(pixels.astype(np.uint8))
            exif = image.getexif()
            if photo.orientation == ROTATED:
                image = image.transpose(Image.Transpose.ROTATE_90)
                exif[0x0112] = ROTATED
            names.append(f"{split}{len(names)}")
            image.save(root / "JPEGImages" / f"{names[-1]}.png", exif=exif)
            Image.fromarray(mask.astype(np.uint8)).save(
                root / "SegmentationClass" / f"{names[-1]}.png"
            )
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names))
    return root


def pack(folder: Path, artifacts: Path, label_size: LabelSize = "own") -> PackedDataset:
    source = VocFolder(folder, IMAGE_SIZE, label_size=label_size)
    return open_pack(pack_dataset(source, ArtifactStore(artifacts)).path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("photos") / "data", PHOTOS)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def data(folder: Path, artifacts: Path) -> PackedDataset:
    return pack(folder, artifacts)


def stored_mask(folder: Path, index: int) -> np.ndarray:
    return np.asarray(Image.open(folder / "SegmentationClass" / f"val{index}.png"))


def naive_confusion(logits_BKHW: Tensor, folder: Path) -> Tensor:
    """The confusion matrix of logits on the canvas, from the masks in the files."""
    confusion = torch.zeros(NUM_CLASSES, NUM_CLASSES, dtype=torch.int64)
    for index, (photo, logits_KHW) in enumerate(zip(PHOTOS, logits_BKHW, strict=True)):
        height, width = photo.content
        resized_KHW = F.interpolate(
            logits_KHW[None, :, :height, :width],
            photo.size,
            mode="bilinear",
            align_corners=False,
            antialias=False,
        )[0]
        predicted, labels = resized_KHW.argmax(0).numpy(), stored_mask(folder, index)
        assert predicted.shape == labels.shape
        for label in range(NUM_CLASSES):
            for guess in range(NUM_CLASSES):
                confusion[label, guess] += int(((labels == label) & (predicted == guess)).sum())
    return confusion


@torch.no_grad()
def logits_of(model: torch.nn.Module, data: PackedDataset) -> Tensor:
    batches = Loader(data.val, CPU).in_order(BATCH_SIZE)
    return torch.cat([model.eval()(normalize(images_of(batch))) for batch in batches])


def test_masks_are_kept_as_their_files_hold_them(folder: Path, data: PackedDataset) -> None:
    assert data.own_labels is not None
    assert len(data.own_labels) == len(data.val) == len(PHOTOS)
    for index, (photo, labels) in enumerate(zip(PHOTOS, data.own_labels, strict=True)):
        np.testing.assert_array_equal(labels.decode(), stored_mask(folder, index))
        assert (labels.content_height, labels.content_width) == photo.content


def test_scores_equal_a_naive_computation(folder: Path, data: PackedDataset) -> None:
    torch.manual_seed(0)
    model = UNetConfig(width=4, depth=2).build(NUM_CLASSES)
    expected = naive_confusion(logits_of(model, data), folder)
    val = Loader(data.val, CPU)
    scores = evaluate(model, val, NUM_CLASSES, own_labels=data.own_labels)
    assert torch.equal(scores.confusion, expected)
    assert not torch.equal(scores.confusion, evaluate(model, val, NUM_CLASSES).confusion)
    network = module_network(model)
    parity = check_parity(network, network, data)  # in other batches, which round otherwise
    assert parity.miou == pytest.approx(scores.miou, abs=1e-3)
    assert parity.scores.confusion.sum() == expected.sum()
    assert commonest_miou(data) == scores.majority().miou


def test_all_numbers_of_a_training_and_of_its_teacher_are_measured_so(
    folder: Path, data: PackedDataset, artifacts: Path
) -> None:
    run = ExecutionConfig(data=data.path, artifacts=artifacts)
    config = TrialConfig(
        student=UNetConfig(width=4, depth=2),
        recipe=Supervised(optimizer=AdamW(learning_rate=1e-2)),
        augmentation=Augmentation(min_scale=1, max_scale=1, color=0),
        num_epochs=12,
    )
    trial = Trial(config, run)
    last = list(trial)[-1]
    assert trial.model_bytes
    student = to_device(deserialize(trial.model_bytes), CPU)
    scores = Scores(naive_confusion(logits_of(student, data), folder))
    assert (last.miou, last.class_iou) == (scores.miou, scores.class_iou)
    network = module_network(student)
    assert check_parity(network, network, data).miou == pytest.approx(last.miou, abs=1e-3)

    card = ModelSpec(model=config.student, num_classes=NUM_CLASSES)
    file = artifacts / "teacher.safetensors"
    write_model(file, card.build(), card)
    teacher = measure_teacher(file, run, data)
    logits = logits_of(to_device(read_model(file), CPU), data)
    assert teacher.val.miou == Scores(naive_confusion(logits, folder)).miou


def test_large_masks_are_scored_at_a_limited_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.data.voc.LARGEST_LABELS", 50)
    folder = make_folder(tmp_path / "data", PHOTOS[:4])
    packed = pack_dataset(VocFolder(folder, IMAGE_SIZE), ArtifactStore(tmp_path / "artifacts"))
    sizes = [mask.decode().shape for mask in OwnLabelTable(packed.path / OWN_LABELS)]
    assert sizes == [(38, 50), (50, 29), (33, 33), (16, 20)]
    assert VocFolder(folder, 60).sample("val", 0).own is not None


def test_a_pack_as_earlier_releases_made_it_is_another(
    folder: Path, data: PackedDataset, tmp_path: Path
) -> None:
    packed = pack(folder, tmp_path, "packed")
    assert packed.own_labels is None
    assert packed.digest != data.digest
    torch.manual_seed(0)
    model = UNetConfig(width=4, depth=2).build(NUM_CLASSES)
    assert torch.equal(logits_of(model, packed), logits_of(model, data))


@pytest.mark.parametrize("photos", [[PHOTOS[3], PHOTOS[4]] * 2, [PHOTOS[3]] * 3])
def test_nothing_is_kept_or_changed_where_nothing_is_shrunk(
    photos: list[Photo], tmp_path: Path
) -> None:
    root = make_folder(tmp_path / "data", photos)
    data = pack(root, tmp_path)
    assert data.own_labels is None
    assert not (data.path / OWN_LABELS).exists()
    packed = VocFolder(root, IMAGE_SIZE, label_size="packed")
    assert packed.digest() == VocFolder(root, IMAGE_SIZE).digest()


def test_a_damaged_table_of_masks_is_named(data: PackedDataset, tmp_path: Path) -> None:
    content = (data.path / OWN_LABELS).read_bytes()
    assert find_damage(data.path) is None
    for name, altered in {"cut": content[:-30], "empty": b"", "other": b"x" * 99}.items():
        path = tmp_path / name
        path.write_bytes(altered)
        with pytest.raises(ValueError, match=rf"{name} must hold intact masks"):
            OwnLabelTable(path)


def test_a_teacher_that_sees_other_sizes_is_measured_on_the_same_labels(
    folder: Path, data: PackedDataset, tmp_path: Path
) -> None:
    source = VocFolder(folder, IMAGE_SIZE, teacher_size=48)
    seen = open_pack(pack_dataset(source, ArtifactStore(tmp_path)).path)
    assert data.own_labels is not None
    assert seen.own_labels is not None
    for theirs, ours, photo in zip(seen.own_labels, data.own_labels, PHOTOS, strict=True):
        np.testing.assert_array_equal(theirs.decode(), ours.decode())
        assert theirs.content_height == round(photo.content[0] * 1.5)
        assert theirs.content_width == round(photo.content[1] * 1.5)
