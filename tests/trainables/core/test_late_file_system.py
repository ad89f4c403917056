"""A network file system that shows changes late, as NFS does, does no harm.

Locks of this one are not those of the folder behind it, unlike those of NFS.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables.config import ExecutionConfig
from trainables.core.artifacts import ArtifactStore
from trainables.core.errors import Interrupted
from trainables.core.files import read_shared, replace_file
from trainables.training.checkpoints import STOP_FILE_CHECK_S, CheckpointManager, Checkpoints

LATE_S = 4.0
Places = tuple[Path, Path]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """A folder, and the same where changes made in the first are seen late."""
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"file systems in user space are not installed: {error}")
    if not Path("/dev/fuse").exists():
        pytest.skip("this kernel has no file systems in user space")
    from late_file_system import mounted_late

    folder = tmp_path_factory.mktemp("shared")
    (folder / "real").mkdir()
    with mounted_late(folder / "real", folder / "late", LATE_S):
        yield folder / "real", folder / "late"


def test_the_file_system_is_late(places: Places) -> None:
    here, late = places
    assert not (late / "new").exists()
    begin = time.monotonic()
    (here / "new").touch()
    while not (late / "new").exists():
        time.sleep(0.1)
    assert time.monotonic() - begin > LATE_S / 2


def test_a_stop_file_is_seen_at_once(places: Places) -> None:
    here, late = places
    run = ExecutionConfig(data=late, artifacts=late, stop_files=(late / "study" / ".stop",))
    (here / "study").mkdir()
    manager = CheckpointManager(None, run, lambda: None)
    begin = time.monotonic()
    manager.on_step_end()
    replace_file(here / "study" / ".stop", "")
    time.sleep(STOP_FILE_CHECK_S)
    with pytest.raises(Interrupted):
        manager.on_step_end()
    assert time.monotonic() - begin < LATE_S - 1


def test_an_artifact_that_seemed_absent_is_not_built_again(places: Places) -> None:
    here, late = places
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "value").write_text("1")

    assert ArtifactStore(late / "artifacts").find("thing", {}) is None
    ArtifactStore(here / "artifacts").get("thing", {}, build)
    found = ArtifactStore(late / "artifacts").get("thing", {}, build)
    assert (found.path / "value").read_text() == "1"
    assert len(built) == 1


def test_checkpoints_go_on_elsewhere(places: Places) -> None:
    here, late = (Checkpoints(place / "checkpoints" / "0001", "key") for place in places)
    assert late.load() is None
    here.save({"step": 1})
    assert late.load() == {"step": 1}
    late.save({"step": 2})
    assert here.load() == {"step": 2}


def test_a_node_sees_the_storage(places: Places) -> None:
    here, late = places
    replace_file(here / ".word", "word")
    assert read_shared(late / ".word", 2 * LATE_S) == "word"
