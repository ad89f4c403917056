"""Names of the files and folders of a study, and of what the studies of one storage share."""

from pathlib import Path

STUDY_FILE = "study.json"
"""What the study was asked for and what it runs with."""
JOURNAL = "journal.log"
"""Optuna's log of all that happened to its trials."""
LOG = "log.txt"
"""What libraries say while it runs."""
STOP_FILE = ".stop"
"""Asks running trainings to keep a checkpoint and to leave."""
TRIALS_TABLE, FRONT_TABLE = "trials.parquet", "front.parquet"
"""One row for each trial, and for each trial of the front."""
FRONT_PLOT, FRONT_PAGE = "front.png", "front.html"
"""The front as a figure, and as a page to explore."""
DIAGNOSTICS_PLOT = "search.png"
"""How the search went."""
MODELS, CHECKPOINTS, SCRATCH = "models", "checkpoints", "ray"
"""Folders: models of the front, what paused trials go on from, and Ray's own notes."""


def model_folder(folder: Path, trial_id: str) -> Path:
    """Where a trial of the study in `folder` leaves its model."""
    return folder / MODELS / trial_id


def checkpoint_folder(folder: Path, trial_id: str) -> Path:
    """Where a trial of the study in `folder` keeps what it goes on from."""
    return folder / CHECKPOINTS / trial_id


def artifact_folder(storage: Path) -> Path:
    """Where the studies of a storage share packed data, teachers and the like."""
    return storage / "artifacts"


def mlflow_artifact_folder(storage: Path) -> Path:
    """Where MLflow keeps files if its store has no place of its own for them."""
    return storage / "mlartifacts"


def lock_path(storage: Path, name: str) -> Path:
    """The lock that the driver of a study holds."""
    return storage / f".{name}.lock"


def unopened_log_path(storage: Path, name: str) -> Path:
    """The log of a study that ended before it had a folder."""
    return storage / f".{name}.log"
