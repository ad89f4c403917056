"""Splits of images for training and validation."""

from pathlib import Path

from label_exports import convert, listed, valued


def test_a_random_split_follows_seed_and_share(root: Path, tmp_path: Path) -> None:
    made = valued(root, "grey")
    lists = []
    for place, options in enumerate((["--seed", "1"], ["--seed", "1"], ["--seed", "2"])):
        out = tmp_path / str(place)
        assert convert(made, out, "--val", "0.5", *options) == 0
        lists.append((listed(out, "train"), listed(out, "val")))
    assert lists[0] == lists[1] != lists[2]
    assert [len(names) for names in lists[0]] == [2, 2]
    for share, num_val in (("0.01", 1), ("0.99", 3)):
        out = tmp_path / share
        assert convert(made, out, "--val", share) == 0
        assert len(listed(out, "val")) == num_val
