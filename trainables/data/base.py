"""The protocol of sources of labelled images."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trainables.data.own_labels import OwnLabels

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
FileRole = Literal["training image", "validation image", "mask"]


class Sample(NamedTuple):
    """An image (H,W,3) and its mask (H,W) of class indices, 255 = ignore; both uint8.

    `own` is the mask at its own size, of every sample of a validation split of which the source
    resizes any, and of no other.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    own: OwnLabels | None = None


class Source(Protocol):
    """A labelled data set whose samples all have one canvas size.

    `class_names`, `notes`, `canvas` and `sample` raise ValueError where the data breaks a rule.
    """

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that a user should read before training on the data, a line each."""
        ...

    def digest(self) -> str:
        """Identifies the content: equal digests mean equal samples."""
        ...

    def canvas(self) -> tuple[int, int]:
        """Height and width of every sample, in pixels."""
        ...

    def file_roles(self) -> Mapping[str, FileRole]:
        """The role of each file, by the SHA-256 of its content; none where samples have no files.

        A file that is an image of both splits is a validation image.
        """
        ...

    def num_samples(self, split: Split) -> int: ...

    def sample(self, split: Split, index: int) -> Sample:
        """One sample; several threads may call at once."""
        ...
