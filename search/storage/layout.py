"""Names of the files and folders of a study, and of those shared by a storage's studies."""

from pathlib import Path

from trainables.core.mirror import is_mirrored, mirror_of_shared

STUDY_FILE = "study.json"
"""The configuration of the study and the versions it runs with."""
JOURNAL = "journal.log"
"""Optuna's log of all events of the study's trials."""
SEGMENTS = "journal"
"""In an object store the folder of the log's segments."""
LOG = "log.txt"
"""The steps of the study, and the output of libraries while it runs."""
DRIVER_STATUS = "status.json"
"""Where trials run and what they wait for, while they do."""
STOP_FILE = ".stop"
"""Its existence asks running trainings to write a checkpoint and to stop."""
TRIALS_TABLE, FRONT_TABLE = "trials.parquet", "front.parquet"
"""One row for each trial, and for each trial of the front."""
FRONT_PLOT, FRONT_PAGE = "front.png", "front.html"
"""The front as a figure, and as an interactive page."""
DIAGNOSTICS_PLOT = "search.png"
"""Diagnostics of the search."""
COMPARISON_FILE, COMPARISON_TABLE, COMPARISON_TEXT = (
    "comparison.json",
    "comparison.parquet",
    "comparison.md",
)
"""Of a comparison of recipes: its configuration, one row for each training, and its table."""
COMPARISON_PLOTS = ("comparison.png", "comparison.svg")
"""The differences of a comparison as a figure."""
STORAGE_INDEX, COMPARED_PLOT, COMPARED_PAGE = "index.html", "compared.png", "compared.html"
"""In the storage: the list of its studies, and the studies that were compared last."""
EXAMPLES = "examples.npz"
"""A few validation images, their labels, and what the teacher predicts for them."""
MASKS_PLOT, TEACHER_MASKS_PLOT = "masks.png", "teacher-masks.png"
"""These images beside what a model of the front predicts, in its folder, or the teacher."""
MODELS, CHECKPOINTS, SCRATCH = "models", "checkpoints", "ray"
"""Folders: models of the front, checkpoints of unfinished trials, and Ray's own state."""


NOT_STUDIES = ("artifacts", "mlartifacts")
"""Folders of a storage that are no studies."""


def model_folder(folder: Path, trial_id: str) -> Path:
    """The folder of a trial's model, in the study's `folder`."""
    return folder / MODELS / trial_id


def checkpoint_folder(folder: Path, trial_id: str) -> Path:
    """The folder of a trial's checkpoints, in the study's `folder`."""
    return folder / CHECKPOINTS / trial_id


def leave_file(folder: Path, ray_id: str) -> Path:
    """Its existence asks the training that Ray knows by this id to go elsewhere."""
    return folder / SCRATCH / "leave" / ray_id


def artifact_folder(storage: Path, cache: Path | None = None) -> Path:
    """The folder of artifacts that a storage's studies share, such as packed data and teachers.

    With a cache it is a mirror of it, in which each machine has copies.
    """
    folder = storage / "artifacts"
    return mirror_of_shared(folder, cache) if cache and not is_mirrored(storage) else folder


def mlflow_artifact_folder(storage: Path) -> Path:
    """The folder of MLflow's artifacts if the store has no artifact location of its own."""
    return storage / "mlartifacts"


def lock_path(storage: Path, name: str) -> Path:
    """The lock that the driver of a study holds."""
    return storage / f".{name}.lock"


def unopened_log_path(storage: Path, name: str) -> Path:
    """The log of a study that ended before it had a folder."""
    return storage / f".{name}.log"
