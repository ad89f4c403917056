"""What is deleted, and what never is."""

from pathlib import Path

from factories import make_metrics

from search.core.objectives import MIOU_AND_SIZE
from search.core.record import Record, RecordState
from search.storage.cleanup import ArtifactCleanup, prune_study_folder, remove_partial_files
from trainables.config import TrialConfig
from trainables.recipes.configs import Supervised

CONFIG = TrialConfig(recipe=Supervised())


def record(trial_id: str, state: RecordState, miou: float = 0.5, size: int = 100) -> Record:
    metrics = make_metrics(miou, size if state == "COMPLETE" else None)
    return Record(trial_id, state, "", CONFIG, metrics)


def make(folder: Path, *trials: str) -> None:
    """A checkpoint and a model of each trial."""
    for trial in trials:
        for part in ("checkpoints", "models"):
            (folder / part / trial).mkdir(parents=True)
            (folder / part / trial / "file").write_text(trial)


def left(folder: Path) -> tuple[list[str], list[str]]:
    """Trials with checkpoints, and with models."""
    parts = (folder / "checkpoints", folder / "models")
    checkpoints, models = ([path.name for path in sorted(part.glob("*"))] for part in parts)
    return checkpoints, models


def test_what_ended_leaves_its_model_only_while_it_is_on_the_front(tmp_path: Path) -> None:
    make(tmp_path, "0000", "0001", "0002", "0003", "0004")
    cleanup = ArtifactCleanup(tmp_path, MIOU_AND_SIZE, [])
    cleanup.ended(record("0000", "COMPLETE", 0.5, 100))
    assert left(tmp_path)[0] == ["0001", "0002", "0003", "0004"]
    cleanup.ended(record("0001", "COMPLETE", 0.4, 200))  # dominated
    cleanup.ended(record("0002", "COMPLETE", 0.6, 90))  # dominates the first
    cleanup.ended(record("0003", "PAUSED"))
    assert left(tmp_path) == (["0003", "0004"], ["0002", "0003", "0004"])
    cleanup.ended(record("0003", "FAIL"))
    assert left(tmp_path) == (["0004"], ["0002", "0004"])  # the last one still runs


def test_a_resumed_driver_knows_the_front(tmp_path: Path) -> None:
    make(tmp_path, "0000", "0001")
    cleanup = ArtifactCleanup(tmp_path, MIOU_AND_SIZE, [record("0000", "COMPLETE", 0.5, 100)])
    cleanup.ended(record("0001", "COMPLETE", 0.6, 90))
    assert left(tmp_path)[1] == ["0001"]


def test_at_the_end_the_front_and_what_goes_on_are_left(tmp_path: Path) -> None:
    make(tmp_path, "0000", "0001", "0002", "0003")
    records = [
        record("0000", "COMPLETE", 0.5, 100),
        record("0001", "COMPLETE", 0.4, 200),
        record("0002", "PAUSED"),
    ]
    prune_study_folder(tmp_path, records, MIOU_AND_SIZE)
    assert left(tmp_path) == (["0002"], ["0000"])
    prune_study_folder(tmp_path, records[:2], MIOU_AND_SIZE)
    assert not (tmp_path / "checkpoints").exists()


def test_partial_files_of_a_killed_driver_are_removed(tmp_path: Path) -> None:
    make(tmp_path, "0000")
    (tmp_path / "ray" / "trials").mkdir(parents=True)
    for name in (".trials.parquet.123", ".stop", "checkpoints/0000/.00000001.ckpt.5"):
        (tmp_path / name).write_text("half")
    (tmp_path / "journal.log").write_text("")
    remove_partial_files(tmp_path)
    files = sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    )
    assert files == ["checkpoints/0000/file", "journal.log", "models/0000/file"]
    assert not (tmp_path / "ray").exists()
