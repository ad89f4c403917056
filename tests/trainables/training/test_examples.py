"""The validation images on which networks are looked at."""

from pathlib import Path

import numpy as np
from shared_fixtures import Blocks

from trainables.config import ExecutionConfig
from trainables.core.artifacts import ArtifactStore
from trainables.data.packed import open_pack, pack_dataset
from trainables.models.configs import UNetConfig
from trainables.models.model_file import ModelSpec, write_model
from trainables.training.examples import (
    NUM_EXAMPLES,
    Examples,
    border_share,
    choose_examples,
    open_examples,
    predict_examples,
    read_examples,
    write_examples,
)


def test_examples_show_all_classes_and_the_hardest_images(blocks_run: ExecutionConfig) -> None:
    data = open_pack(blocks_run.data)
    chosen = choose_examples(data)
    assert len(set(chosen)) == NUM_EXAMPLES
    assert chosen == choose_examples(data)
    masks = open_examples(data, chosen).truths
    first = {int(value) for value in np.unique(masks[: NUM_EXAMPLES // 2])}
    assert first >= set(range(5))
    others = sorted(set(range(len(data.val))) - set(chosen[: NUM_EXAMPLES // 2]))
    shares = [border_share(mask) for mask in data.val.take(others)["mask"].numpy()]
    hardest = [border_share(mask) for mask in masks[NUM_EXAMPLES // 2 :]]
    assert hardest == sorted(shares, reverse=True)[: len(hardest)]


def test_few_images_are_all_examples(tmp_path: Path) -> None:
    artifact = pack_dataset(Blocks(4, 3), ArtifactStore(tmp_path))
    assert sorted(choose_examples(open_pack(artifact.path))) == [0, 1, 2]


def test_borders_of_ignored_pixels_do_not_count() -> None:
    mask = np.array([[0, 0, 255], [0, 1, 255]], np.uint8)
    assert border_share(mask) == 2 / 6


def test_predictions_have_the_size_that_is_asked_for(
    blocks_run: ExecutionConfig, tmp_path: Path
) -> None:
    data, file = open_pack(blocks_run.data), tmp_path / "model.safetensors"
    spec = ModelSpec(model=UNetConfig(width=3, depth=2), num_classes=5)
    write_model(file, spec.model.build(5), spec)
    masks = predict_examples(file, data, [0, 1], (16, 24))
    assert masks.shape == (2, 16, 24)
    assert masks.dtype == np.uint8
    assert masks.max() < 5


def test_kept_examples_are_read_back(blocks_run: ExecutionConfig, tmp_path: Path) -> None:
    data = open_pack(blocks_run.data)
    examples = open_examples(data, [0, 1])
    with_teacher = Examples(examples.images, examples.truths, examples.truths)
    for kept in (examples, with_teacher):
        write_examples(kept, tmp_path / "examples.npz")
        read = read_examples(tmp_path / "examples.npz")
        assert read
        assert np.array_equal(read.images, kept.images)
        assert np.array_equal(read.truths, kept.truths)
        assert (read.teacher is None) == (kept.teacher is None)
    assert [path.name for path in tmp_path.iterdir()] == ["examples.npz"]
    (tmp_path / "examples.npz").write_bytes(b"damaged")
    assert read_examples(tmp_path / "examples.npz") is None
    assert read_examples(tmp_path / "absent.npz") is None
