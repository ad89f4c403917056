"""Lists of classes as people and labelling tools write them."""

from pathlib import Path

import pytest

from trainables.data.class_list import ClassList, read_classes

CVAT = """# label:color_rgb:parts:actions
background:0,0,0::
cat:250,50,83::
traffic light:42,125,209::
"""
READ: dict[str, tuple[str, ClassList]] = {
    "plain": ("\ufeffsky\r\nroad\r\n\r\n", ClassList(("sky", "road"))),
    "CVAT": (
        CVAT,
        ClassList(
            ("background", "cat", "traffic light"),
            {(0, 0, 0): 0, (250, 50, 83): 1, (42, 125, 209): 2},
        ),
    ),
    "CVAT with ignored pixels": (
        "background:0,0,0::\nignored:224,224,192::\ncat:1,1,1::",
        ClassList(("background", "cat"), {(0, 0, 0): 0, (224, 224, 192): 255, (1, 1, 1): 1}),
    ),
    "CVAT without colours": ("a:::\nb:::", ClassList(("a", "b"))),
    "labelme": (
        "__ignore__\n_background_\nperson",
        ClassList(("_background_", "person")),
    ),
    "numbered": ("0: sky\n1: road", ClassList(("sky", "road"))),
    "names with colons": ("animal:cat\nanimal:dog", ClassList(("animal:cat", "animal:dog"))),
}


@pytest.mark.parametrize("case", READ)
def test_classes_are_read(case: str, tmp_path: Path) -> None:
    text, expected = READ[case]
    (tmp_path / "classes.txt").write_text(text, "utf-8")
    assert read_classes(tmp_path / "classes.txt") == expected


REFUSED: dict[str, tuple[str, str]] = {
    "comment": ("# classes\nsky\nroad", r"one name a line, but .* holds '# classes'"),
    "JSON": ('{"names": ["sky"]}', "one name a line"),
    "control character": ("sky\x07\nroad", "one name a line"),
    "numbered from one": ("1 sky\n2 road", r"must be 0, 1, 2, \.\.\. .* has \[1, 2\]"),
    "ignore in the middle": ("a\n__ignore__\nb", "must be the first line"),
    "twice": ("a\na", "has 'a' twice"),
    "colour twice": ("a:1,1,1::\nb:1,1,1::", r"different colours, but .* has \(1, 1, 1\) twice"),
    "no colour": ("a:1,1,256::\nb:1,1,1::", "values of 0 to 255"),
    "table with a heading": ("name,index\nsky,0\nroad,1", "names alone, .* holds 'sky,0'"),
    "empty": ("\n", "must hold names, but .* is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_class_names_is_refused(case: str, tmp_path: Path) -> None:
    text, message = REFUSED[case]
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(tmp_path / "classes.txt")
