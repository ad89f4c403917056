"""The colours of label files."""

from trainables.data.labels import voc_palette


def test_palette_is_that_of_voc() -> None:
    colors = voc_palette()
    assert colors[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]
