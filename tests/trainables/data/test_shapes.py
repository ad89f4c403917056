"""The procedural scenes: repeatable, balanced, and labelled as Pascal VOC is."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray

from trainables.data.labels import IGNORE
from trainables.data.shapes import CLASS_NAMES, draw_sample


@pytest.fixture(scope="module")
def masks() -> NDArray[np.uint8]:
    """The first 200 masks at 64 px, (200, 64, 64)."""
    return np.stack([draw_sample(64, 0, index)[1] for index in range(200)])


def windows(mask: NDArray[np.uint8], reach: int) -> NDArray[np.uint8]:
    """The neighbourhood of each pixel, (H, W, side, side), with the edge repeated."""
    side = 2 * reach + 1
    padded = np.pad(mask, reach, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, (side, side))


def test_there_are_seven_classes_or_more_and_background_is_first() -> None:
    assert CLASS_NAMES[0] == "background"
    assert len(set(CLASS_NAMES)) == len(CLASS_NAMES) >= 7


def test_same_arguments_give_the_same_bytes() -> None:
    first = [draw_sample(64, 3, index) for index in range(4)]
    again = [draw_sample(64, 3, index) for index in reversed(range(4))][::-1]
    for (image, mask), (image_again, mask_again) in zip(first, again, strict=True):
        assert image.tobytes() == image_again.tobytes()
        assert mask.tobytes() == mask_again.tobytes()


def test_drawing_leaves_the_global_random_state_alone() -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    draw_sample(32, 0, 0)
    assert np.random.random() == expected


@pytest.mark.parametrize(("seed", "index"), [(0, 1), (1, 0)])
def test_another_seed_or_index_gives_another_scene(seed: int, index: int) -> None:
    image, mask = draw_sample(64, 0, 0)
    other_image, other_mask = draw_sample(64, seed, index)
    assert (image != other_image).mean() > 0.5
    assert (mask != other_mask).any()


@pytest.mark.parametrize("image_size", [16, 32, 64, 96])
def test_shapes_dtypes_and_labels(image_size: int) -> None:
    for index in range(30):
        image, mask = draw_sample(image_size, 0, index)
        assert image.shape == (image_size, image_size, 3)
        assert mask.shape == (image_size, image_size)
        assert image.dtype == mask.dtype == np.uint8
        assert image.std() > 0
        assert set(np.unique(mask)) <= {*range(len(CLASS_NAMES)), IGNORE}


def test_the_scene_is_the_same_at_another_size() -> None:
    for index in range(10):
        small, large = draw_sample(32, 0, index)[1], draw_sample(96, 0, index)[1][1::3, 1::3]
        both = (small != IGNORE) & (large != IGNORE)
        assert (small == large)[both].mean() > 0.98


def test_every_class_is_frequent(masks: NDArray[np.uint8]) -> None:
    for label in range(1, len(CLASS_NAMES)):
        assert (masks == label).mean() > 0.02
        assert (masks == label).any(axis=(1, 2)).mean() > 0.25
    assert 0.4 < (masks == 0).mean() < 0.75


def test_objects_overlap(masks: NDArray[np.uint8]) -> None:
    """Where one object covers another, their border sees two classes but no background."""
    mixed = 0
    for mask in masks[:50]:
        near = windows(mask, 2)[mask == IGNORE]
        labels = [set(np.unique(around)) - {IGNORE} for around in near]
        mixed += sum(len(found) >= 2 and 0 not in found for found in labels)
    assert mixed > 50


def test_every_mask_has_an_ignore_border(masks: NDArray[np.uint8]) -> None:
    shares = (masks == IGNORE).mean(axis=(1, 2))
    assert shares.min() > 0
    assert shares.mean() < 0.15


def test_the_border_separates_all_regions(masks: NDArray[np.uint8]) -> None:
    for mask in masks:
        for one, other in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            touching = (one != IGNORE) & (other != IGNORE)
            assert (one == other)[touching].all()


def test_the_border_is_thin_and_lies_between_classes(masks: NDArray[np.uint8]) -> None:
    between, total = 0, 0
    for mask in masks[:50]:
        near = windows(mask, 2)[mask == IGNORE].reshape(-1, 25)
        labels = [set(np.unique(around)) - {IGNORE} for around in near]
        between += sum(len(found) >= 2 for found in labels)
        total += len(labels)
        assert (near != IGNORE).any(axis=1).mean() > 0.95
    assert between / total > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 0, 0), "`image_size >= 16` must hold, but got image_size=8"),
        ((64, -1, 0), "`seed >= 0` must hold, but got seed=-1"),
        ((64, 0, -2), "`index >= 0` must hold, but got index=-2"),
    ],
)
def test_arguments_that_are_too_small(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        draw_sample(*arguments)
