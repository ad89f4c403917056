"""The protocol of sources of labelled images.

Shape suffixes: H height, W width.
"""

import zlib
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
FileRole = Literal["training image", "validation image", "mask"]


class OwnLabels(NamedTuple):
    """A mask of `height` x `width` pixels, compressed, and the size of its image on the canvas.

    The image, resized, is in the first `content_height` rows and `content_width` columns of the
    canvas; the rest is padding.
    """

    compressed: bytes
    height: int
    width: int
    content_height: int
    content_width: int

    def decode(self) -> NDArray[np.uint8]:
        """The mask (H,W) of class indices, 255 = ignore."""
        content = bytearray(zlib.decompress(self.compressed))
        return np.frombuffer(content, np.uint8).reshape(self.height, self.width)


def compress_labels(labels_HW: NDArray[np.uint8], content: tuple[int, int]) -> OwnLabels:
    """A mask to be kept; `content` is the width and the height of its image on the canvas."""
    (height, width), (content_width, content_height) = labels_HW.shape, content
    compressed = zlib.compress(labels_HW.tobytes())
    return OwnLabels(compressed, height, width, content_height, content_width)


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
