"""What the values and colours of masks mean."""

from pathlib import Path

import pytest
from label_exports import labels, photo
from PIL import Image

from trainables.convert import main


def test_palettes_that_contradict_each_other_are_refused(
    root: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, colors in enumerate(([9, 0, 0, 0, 0, 9], [0, 0, 9, 9, 0, 0])):
        photo(root / f"images/{index}.jpg")
        image = Image.fromarray(labels(index, (0, 1, 2))).convert("P")
        image.putdata(labels(index, (0, 1, 2)).flatten().tolist())
        image.putpalette([0, 0, 0, *colors])
        (root / "masks").mkdir(exist_ok=True)
        image.save(root / f"masks/{index}.png")
    assert main([str(root), "--out", str(out), "--values", "0=a,1=b,2=c"]) == 2
    assert "one colour and a colour one value" in capsys.readouterr().err
    assert not out.exists()
