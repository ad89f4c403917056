"""The loader that MLflow calls: the masks are those of `search.predict`."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from trainables.deploy.mlflow_loader import _load_pyfunc
from trainables.deploy.runtime import open_model
from trainables.deploy.segmenter import segment
from trainables.models.model_file import MODEL_FILE


def written(image: Image.Image, kind: str) -> bytes:
    content = BytesIO()
    image.save(content, kind)
    return content.getvalue()


def test_image_files_become_masks_of_their_size(study: Path) -> None:
    folder = study / "models/0004"
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8))
        for size in ((32, 32), (50, 20))
    ]
    model = _load_pyfunc(str(folder), {"longest_side": 32})
    given = pd.DataFrame({"image": [written(image, "PNG") for image in images]}, index=[5, 2])
    found = model.predict(given)
    assert list(found.index) == [5, 2]
    network = open_model(folder / MODEL_FILE)
    for image, content in zip(images, found["mask"], strict=True):
        mask = Image.open(BytesIO(content))
        assert mask.size == image.size
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), np.asarray(segment(network, 32, image)))


def test_a_file_that_is_no_image_is_named(study: Path) -> None:
    model = _load_pyfunc(str(study / "models/0004"), {"longest_side": 32})
    good = written(Image.new("L", (8, 8)), "JPEG")
    with pytest.raises(ValueError, match="a readable image, but image 1 is not"):
        model.predict(pd.DataFrame({"image": [good, b"text"]}))
