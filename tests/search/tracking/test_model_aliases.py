"""Aliases of a data set's registered model."""

from search.tracking.model_aliases import Candidate, choose_aliases


def test_aliases_name_the_best_within_their_bytes() -> None:
    found = [
        Candidate("1", 0.3, 90_000),
        Candidate("2", 0.3, 80_000),
        Candidate("3", 0.5, 300_000),
        Candidate("4", 0.5, 300_000),
        Candidate("5", 0.7, 2_000_000),
    ]
    assert choose_aliases(found) == {
        "smallest": "2",
        "best": "5",
        "under-100KB": "2",
        "under-300KB": "3",
        "under-1MB": "3",
    }
    others = [Candidate("6", 0.9, 1000, "packed"), Candidate("7", 0.1, 900, "packed")]
    assert choose_aliases([*others, *found]) == choose_aliases(found)
    packed = choose_aliases(others)
    assert packed.pop("smallest") == "7"
    assert set(packed.values()) == {"6"}
    assert choose_aliases(found[4:]) == {"smallest": "5", "best": "5"}
    assert choose_aliases([]) == {}
