"""Loads a model of a front for MLflow, whose file MLmodel names this module.

MLflow itself is not needed to import it.
"""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.data.image_file import read_image
from trainables.deploy.runtime import open_model
from trainables.deploy.segmenter import segment
from trainables.models.model_file import MODEL_FILE

if TYPE_CHECKING:
    import pandas as pd

IMAGE, MASK = "image", "mask"
"""Columns of what it reads and of what it gives."""
LONGEST_SIDE = "longest_side"
"""The entry of the configuration with the size, in pixels, at which the network sees images."""


class SegmentationModel:
    """Image files in, masks of class indices out."""

    def __init__(self, file: Path, longest_side: int) -> None:
        self.network, self.longest_side = open_model(file), longest_side

    def predict(self, model_input: "pd.DataFrame") -> "pd.DataFrame":
        """A row for each image: its mask as the content of a PNG file of the image's own size.

        The column `image` holds the contents of image files, of which MLflow's server decodes
        base64. A pixel of a mask is the index of its class, with a colour in the palette.

        Raises:
            ValueError: a file is no image that can be read.
        """
        import pandas as pd

        contents = list(model_input[IMAGE])
        masks = [self._segment(number, content) for number, content in enumerate(contents)]
        return pd.DataFrame({MASK: masks}, index=model_input.index)

    def _segment(self, number: int, content: bytes) -> bytes:
        image = read_image(Path(f"image {number}"), content=content)
        file = BytesIO()
        segment(self.network, self.longest_side, image).save(file, "PNG")
        return file.getvalue()


def _load_pyfunc(path: str, model_config: Mapping[str, Any]) -> SegmentationModel:
    """The model in a folder; MLflow calls it by this name."""
    return SegmentationModel(Path(path) / MODEL_FILE, int(model_config[LONGEST_SIDE]))
